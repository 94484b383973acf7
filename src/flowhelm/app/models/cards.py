"""What `flowhelm priors` prints: the bundled priors, their cards and their terms. Reads text only, so that it is quick."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ...known import STUDENTS

FOLDER = Path(__file__).parents[2] / "priors" / "weights"
PRIORS = {  # name: (size, what, whose data and their terms)
    "photos": ("any size", "colour photographs, to restore", "BSDS500: research and education"),
    "photos-2": ("any size", "photographs of cameras and phones, to restore", "BSDS500: research; free photographs"),
    "fashion": ("32 x 32 grey", "clothes of 10 classes", "Fashion-MNIST: MIT"),
    "aerial": ("64 x 64", "views from above: classes, prompts, numbers", "RSSCN7: research"),
    "animals": ("64 x 64", "animals of 12 classes", "Tiny ImageNet: non-commercial"),
    "fashion-tokens": ("32 x 32 grey", "the same clothes as 49 tokens", "Fashion-MNIST: MIT"),
    "blind": ("any size", "a trained restorer of photographs (pmrf)", "free photographs: CC0 to CC BY-SA"),
    "codec": ("any size", "a compressor of photographs (vble)", "free photographs: CC0 to CC BY-SA"),
}

BIJECTIONS = {  # the same, of normalising flows
    "fashion-tarflow": ("28 x 28 grey", "clothes of 10 classes", "Fashion-MNIST: MIT")
}

BESIDE = {  # the same, of networks that commands take by themselves
    "jpeg": ("any size", "an adapter of photos-2, for JPEG files", "free photographs: CC0 to CC BY-SA"),
    "scratches": ("any size", "marks scratches of a scan", "free photographs: CC0 to CC BY-SA"),
}

DENOISERS = {  # name: (million parameters, noise in [-1, 1] that it was trained for, what)
    "DRUNet": (32.6, "up to 0.39", "a U-net that is told the noise (Zhang et al. 2021)"),
    "GSDRUNet": (17.0, "up to 0.39", "a gradient step on a potential (Hurault et al. 2022)"),
    "DiffUNet": (93.6, "all", "a diffusion model of faces (FFHQ)"),
    "FFDNet": (0.9, "up to 0.59", "a small network that is told the noise (Zhang et al. 2018)"),
    "DnCNN": (0.7, "0.016 only", "a small network for one level (Pesquet et al. 2021)"),
    "Restormer": (26.1, "up to 0.39", "a transformer that finds the noise itself (Zamir et al. 2022)"),
    "SCUNet": (17.9, "up to 0.39", "for real noise, which it finds itself (Zhang et al. 2023)"),
}
"""deepinv's, which it fetches: `priors.denoisers` knows the rest."""


def listing() -> Iterator[str]:
    """A line for each; those of deepinv last."""
    yield from _rows(PRIORS, 16)
    yield ""
    yield "Normalising flows, which draw (flowhelm sample) and have likelihoods, and do not restore:"
    yield from _rows(BIJECTIONS, 17)
    yield ""
    yield "Students, which draw in few calls (flowhelm sample PRIOR --student CALLS):"
    students = {
        name: (PRIORS[base][0], f"of {base}, {calls} call{'s' * (calls > 1)}", PRIORS[base][2])
        for name, (base, calls) in STUDENTS.items()
    }
    yield from _rows(students, 17)
    yield ""
    yield "Networks that restore and mask take by themselves (flowhelm restore photo.jpg, flowhelm mask scan.jpg):"
    yield from _rows(BESIDE, 11)
    yield ""
    yield "Pretrained denoisers of deepinv, for colour pictures of any size; their weights are fetched at the first use:"
    for name, (millions, noise, what) in DENOISERS.items():
        yield f"{'deepinv:' + name:19}{millions:5.1f} M parameters  noise {noise:12}{what}"


def _rows(priors: Mapping[str, tuple[str, str, str]], wide: int) -> Iterator[str]:
    width = [max(len(row[i]) for row in priors.values()) + 2 for i in range(3)]
    for name, (size, what, terms) in priors.items():
        weights, text = FOLDER / f"{name}.safetensors", FOLDER / f"{name}.md"
        state = f"{weights.stat().st_size / 1e6:.1f} MB" if weights.is_file() else f"{weights.name} is missing"
        if not text.is_file():
            state += f", {text.name} is missing"
        yield f"{name:{wide}}{size:{width[0]}}{what:{width[1]}}{terms:{width[2]}}{state}"


def card(name: str) -> str:
    """The whole card, as Markdown."""
    if (short := name.removeprefix("deepinv:")) != name and short in DENOISERS:
        millions, noise, what = DENOISERS[short]
        return (
            f"# {name}\n\n{what[0].upper()}{what[1:]}: {millions:g} million parameters, noise {noise} in [-1, 1]. "
            "The network and its weights are deepinv's: https://deepinv.github.io/deepinv/user_guide/reconstruction/pretrained-models.html\n\n"
            f"## Terms\n\nThose of its authors, who are named there; the file is at https://huggingface.co/deepinv\n"
        )
    if name not in {*PRIORS, *BIJECTIONS, *STUDENTS, *BESIDE}:
        from ..errors import nearest

        raise ValueError(
            f"there is no bundled prior {name!r}; {nearest(name, (*PRIORS, *BIJECTIONS, *STUDENTS, *BESIDE))}"
        )
    path = FOLDER / f"{name}.md"
    if not path.is_file():
        raise ValueError(f"the card of {name!r} is not in this installation; expected {str(path)!r}")
    return path.read_text(encoding="utf-8")


def terms(name: str) -> str:
    """What the card says of terms: rows of its table on licence or terms, and the sections with `terms` in their heading."""
    text = card(name)
    rows = [
        f"{what.strip()}: {how.strip()}"
        for what, how in re.findall(r"^\| *([^|\n]*(?:licence|terms)[^|\n]*)\|([^|\n]*)\| *$", text, re.M | re.I)
    ]
    sections = re.findall(r"^##+ [^\n]*terms[^\n]*\n(.*?)(?=^#|\Z)", text, re.M | re.S | re.I)
    return "\n\n".join([*rows, *(part.strip() for part in sections)]) or f"the card of {name} says nothing of terms"
