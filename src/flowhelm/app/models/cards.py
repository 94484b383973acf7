"""What `flowhelm priors` prints: the bundled priors, their cards and their terms. Reads text only, so that it is quick."""

import re
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "priors" / "weights"
PRIORS = {  # name: (size, what, whose data and their terms)
    "photos": ("any size", "colour photographs, to restore", "BSDS500: research and education"),
    "fashion": ("32 x 32 grey", "clothes of 10 classes", "Fashion-MNIST: MIT"),
    "aerial": ("64 x 64", "views from above: classes, prompts, numbers", "RSSCN7: research"),
    "animals": ("64 x 64", "animals of 12 classes", "Tiny ImageNet: non-commercial"),
}


def listing() -> Iterator[str]:
    """A line for each."""
    width = [max(len(row[i]) for row in PRIORS.values()) + 2 for i in range(3)]
    for name, (size, what, terms) in PRIORS.items():
        weights, text = FOLDER / f"{name}.safetensors", FOLDER / f"{name}.md"
        state = f"{weights.stat().st_size / 1e6:.1f} MB" if weights.is_file() else f"{weights.name} is missing"
        if not text.is_file():
            state += f", {text.name} is missing"
        yield f"{name:9}{size:{width[0]}}{what:{width[1]}}{terms:{width[2]}}{state}"


def card(name: str) -> str:
    """The whole card, as Markdown."""
    if name not in PRIORS:
        from ..errors import nearest

        raise ValueError(f"there is no bundled prior {name!r}; {nearest(name, PRIORS)}")
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
