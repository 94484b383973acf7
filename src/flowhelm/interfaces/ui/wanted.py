"""What the page's fields say, as settings of the command line's own runs; and what came of a run, as pictures and words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ... import operators, steer
from ...app.batch import items
from ...app.batch.items import Item
from ...app.errors import BadInput
from ...app.files import atomic as files
from ...app.models import opening as models
from ...app.options.cards import listing
from ...app.options.request import Plain
from ...app.options.signature import options, pick
from ...app.restore import run as job
from ...app.restore.presets import preset
from ...app.steer import rewards as scores
from ...app.steer import run as steered
from ...metrics import posterior_maps
from . import Wanted, folder

SAMPLES = 16
STEPS = 2000
HOT = ((0, 0, 0), (96, 24, 110), (204, 62, 62), (250, 154, 40), (255, 246, 170))


class Restoration(NamedTuple):
    """What is asked for in the Restore tab. Of options, a text that is empty is one that is not given."""

    photo: str | None  # an upload
    task: str
    task_options: Mapping[str, Any] = {}  # texts; of files, uploads
    painted: Mapping[str, Any] | None = None
    prior: str = "photos"
    method: str | None = None
    method_options: Mapping[str, Any] = {}
    std: float | None = 0.02
    steps: str = ""
    seed: str = "0"
    samples: int | None = 1
    simulate: bool = False


class Steering(NamedTuple):
    """What is asked for in the Steer tab."""

    prior: str
    reward: str
    method: str = "fk"
    method_options: Mapping[str, Any] = {}
    label: str | None = None
    prompt: str | None = None
    budget: str = ""
    steps: str = ""
    scale: str = ""
    seed: str = "0"


class Usual(NamedTuple):
    """What is done where nothing is said."""

    task: Mapping[str, Plain]
    method: Mapping[str, Plain]
    steps: int
    name: str  # of the method


def usual(task: str, method: str | None, prior: str, std: float | None, device: str = "cpu") -> Usual:
    """Defaults as `flowhelm restore` would fill them in, presets and all."""
    builder = pick("operator", task, operators.ALL)
    needed: dict[str, Plain] = {o.name: "needed" for o in options(builder).values() if o.needed}
    found = job.settle(
        Path("photo.png"), task, given={"operator": needed}, method=method or None, steps=None, std=std or 0.02, seed=0, prior=prior,
        simulate=True, out=None, threads=1, device=device, tile=None,
    )  # fmt: skip
    told = {name: value for name, value in found["operator_options"].items() if name not in needed}
    steps = len(found["times"]) - 1 if found["times"] else found["steps"]
    return Usual(told, found["method_options"], steps, found["method"])


def chosen(asked: Restoration) -> str:
    """The method: the one that is named, or the task's."""
    if asked.method:
        return asked.method
    return models.METHOD if models.is_pipeline(asked.prior) else preset(asked.task, asked.std or 0.02)[0]


def about(function: Callable[..., Any]) -> str:
    """What a method or an operator is, needs and costs, from its card."""
    head, *rest = listing([function])
    title = head.partition(" ")[2].strip()
    return "  \n".join([f"**{title}**", *(f"{word[0].upper()}{word[1:]}" for line in rest if (word := line.strip()))])


# --- settings ---


def restoration(asked: Restoration, wanted: Wanted) -> tuple[Path, list[dict[str, Any]]]:
    """A new folder with what the run reads, and the settings of each of its samples.

    Raises:
        BadInput: as the command line would say it; then nothing is left in the run folder.
    """
    if asked.photo is None:
        raise BadInput("drop a picture first")
    _known(asked.prior, wanted)
    steps, seed, samples = (
        _number("steps", asked.steps, STEPS),
        _seed(asked.seed),
        _number("samples", asked.samples, SAMPLES),
    )
    if asked.std is None:
        raise BadInput(
            "the noise is missing: its standard deviation, with pixel values in [-1, 1]; 0.005 if there is none"
        )
    size = folder.checked(asked.photo, wanted.megapixels)
    builder = pick("operator", asked.task, operators.ALL)
    where = folder.new(wanted.runs, {**asked._asdict(), "painted": None})
    try:
        photo = folder.take(asked.photo, where)
        given = {
            "operator": _with_files(builder, _given(asked.task_options), asked, photo, size, wanted),
            "method": _given(asked.method_options),
        }
        many = samples or 1
        made = []
        for i in range(many):
            # the names and the seeds of `flowhelm restore PHOTO --samples N --out FOLDER`
            mark = f".sample-{i}" * (many > 1)
            item = Item(photo.name, str(photo), seed, i, f"{photo.stem}{mark}.restored.png")
            settings = job.settle(
                photo, asked.task, given=given, method=asked.method or None, steps=steps, std=float(asked.std),
                seed=item.own_seed if many > 1 else seed, prior=asked.prior, simulate=asked.simulate, out=where / item.output,
                threads=wanted.threads, device=wanted.device, tile=None,
            )  # fmt: skip
            made.append(settings if many == 1 else items.of_a_set(item, settings))
    except BaseException:
        folder.give_up(where)
        raise
    return where, made


def steering(asked: Steering, wanted: Wanted) -> tuple[Path, dict[str, Any]]:
    """A new folder for a steered picture, and its settings. Raises BadInput."""
    _known(asked.prior, wanted)
    rewards = [part.strip() for part in re.split(r"\s\+\s|\n", asked.reward or "") if part.strip()]
    for reward in rewards:
        harmless(reward)
    where = folder.new(wanted.runs, asked._asdict())
    try:
        return where, steered.settle(
            asked.prior, method=asked.method, given=_given(asked.method_options), reward=rewards,
            budget=_number("budget", asked.budget, 1_000_000), steps=_number("steps", asked.steps, STEPS),
            classes=[asked.label] if asked.label else (), prompt=asked.prompt or None, scale=_scale(asked.scale), seed=_seed(asked.seed),
            out=where / f"{steered.prior_name(asked.prior)}.steered", device=wanted.device, threads=wanted.threads,
        )  # fmt: skip
    except BaseException:
        folder.give_up(where)
        raise


def harmless(reward: str) -> None:
    """Raises BadInput on a reward that reads files or runs code of this machine: a page must not."""
    remedy = "the page reads no files and runs no code of this machine; take `flowhelm steer` for that"
    if re.search(r"\.py\b|\.safetensors\b|\.\.", reward):
        raise BadInput(f"{reward!r}: {remedy}")
    number, star, typed = reward.partition("*")
    if not star or ":" in number:  # as `scores.term` reads it: a text may have stars, too
        typed = reward.removeprefix("-")
    name, _, rest = typed.strip().partition(":")
    builder = pick("reward", name, scores.BUILDERS)
    for option in options(builder).values():
        if Path in option.types and re.search(rf"(?:^|,)\s*{option.name}\s*=", rest):
            raise BadInput(f"{name} with {option.name}=: {remedy}")
    for what, path in scores.term(reward).reads.items():  # what is there was made absolute
        if re.match(r"[/\\~.]|\w:", path):
            raise BadInput(f"{what}: {remedy}")


def _with_files(
    builder: Callable[..., Any],
    given: dict[str, Any],
    asked: Restoration,
    photo: Path,
    size: tuple[int, int],
    wanted: Wanted,
) -> dict[str, Any]:
    """Options that are files: copies of uploads, or the mask that was painted, in the run's folder."""
    for option in options(builder).values():
        if Path not in option.types:
            continue
        upload = given.pop(option.name, None)
        if upload is not None:
            end = Path(folder.safe(str(upload))).suffix.lower()
            if option.name == "mask":
                folder.checked(upload, wanted.megapixels)
            given[option.name] = str(folder.take(upload, photo.parent, f"{photo.stem}.{option.name}{end}"))
        elif option.name == "mask":
            mask = folder.mask_of(asked.painted, _upright(photo, size))
            if mask is None:
                raise BadInput("paint over what is missing, or give a mask (white is kept, black is missing)")
            target = photo.with_name(f"{photo.stem}.mask.png")
            files.put_picture(target, mask)
            given["mask"] = str(target)
        elif option.needed:
            raise BadInput(f"{builder.__name__} needs a file: {option.help or option.name}")
    return given


def _upright(photo: Path, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height as they are shown: a photograph may say that it is to be turned."""
    with Image.open(photo) as image:
        return size[::-1] if image.getexif().get(0x0112) in (5, 6, 7, 8) else size


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None and value != ""}


def _known(prior: str, wanted: Wanted) -> None:
    if prior not in wanted.priors:
        raise BadInput(f"the page was not started with the prior {prior!r}; give it --prior {prior}")


def _number(what: str, value: str | float | None, most: int) -> int | None:
    """A whole number; None where nothing was typed."""
    text = "" if value is None else f"{value:g}" if isinstance(value, float) else str(value).strip()
    if not text:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise BadInput(f"{what}: expected a whole number from 1 to {most}, got {text}")
    return int(text)


def _scale(text: str) -> float | None:
    try:
        return float(text) if text.strip() else None
    except ValueError:
        raise BadInput(f"guidance: expected a number, got {text!r}") from None


def _seed(value: str) -> int:
    """As text: a browser's numbers have 53 bits."""
    if not re.fullmatch(r"\s*-?\d{1,19}\s*", value):
        raise BadInput(f"seed: expected a whole number, got {value!r}")
    return int(value)


# --- what came of it ---


def pair(settings: Mapping[str, Any]) -> tuple[Image.Image, Image.Image]:
    """Before and after, of one size: what was measured, and what was restored."""
    out = Path(settings["out"])
    degraded = files.outputs(out)["degraded"]
    before = _opened(degraded if settings["simulate"] and degraded.is_file() else Path(settings["photo"]))
    after = _opened(out)
    return before if before.size == after.size else before.resize(after.size, Image.Resampling.NEAREST), after


def spread(pictures: Sequence[Path]) -> tuple[Image.Image, Image.Image, float]:
    """Mean of samples, their standard deviation laid over it in colour, and what the hottest colour stands for, in 8-bit levels."""
    levels = torch.stack([torch.from_numpy(np.array(_opened(path))) for path in pictures]).movedim(-1, 1).float()
    maps = posterior_maps(levels)
    mean, deviation = maps.mean.movedim(0, -1).numpy(), maps.std.mean(0).numpy()
    top = max(float(np.quantile(deviation, 0.995)), 1e-6)
    share = np.clip(deviation / top, 0, 1)
    colours = np.stack([np.interp(share, np.linspace(0, 1, len(HOT)), [c[i] for c in HOT]) for i in range(3)], -1)
    grey = np.repeat(mean.mean(-1, keepdims=True), 3, -1)
    weight = 0.25 + 0.65 * share[..., None]
    return _image(mean), _image((1 - weight) * grey * 0.7 + weight * colours), top


def words(lines: Sequence[str]) -> Iterator[str]:
    """What a run said of its result, without the names of its files."""
    for line in lines:
        if not line.startswith(("wrote ", "go on with")):
            yield line


def costs(runs: Sequence[folder.Run]) -> tuple[list[str], list[list[str]]]:
    """Head and lines of a table: what each run was, what it cost, and how well it did, if that is known."""
    scored = any(each.told.get("psnr") is not None for each in runs)
    head = ["run", "task", "method", "prior", "std", "steps", "evaluations", "seconds", "misfit"] + [
        "PSNR",
        "SSIM",
    ] * scored
    lines = []
    for i, each in enumerate(runs):
        settings, told = each.settings, each.told
        line = [
            f"{chr(ord('A') + i)}, {each.when}", settings["operator"], settings["method"], Path(settings["prior"]).stem,
            f"{settings['std']:g}", str(len(settings["times"]) - 1), str(told["evaluations"]), f"{told['seconds']:.1f}",
            _short(told["residual"]),
        ]  # fmt: skip
        lines.append(line + ([_short(told.get("psnr")), _short(told.get("ssim"), 3)] if scored else []))
    return head, lines


def row(run: folder.Run) -> list[str]:
    """A line of the history."""
    settings, told = run.settings, run.told
    score = f"{told['psnr']:.2f} dB" if told.get("psnr") is not None else ""
    if run.steered:
        score = f"reward {told['reward']:.4g}" if told.get("reward") is not None else ""
    task = " + ".join(settings["reward"]) if run.steered else settings["operator"]
    return [
        run.when, run.what, task, settings["method"], str(told["evaluations"]),
        f"{told['seconds']:.1f} s", score,
        run.name.removesuffix(folder.END),
    ]  # fmt: skip


ROW = ["when", "picture or prior", "task or reward", "method", "evaluations", "time", "score", "run"]


def line(run: folder.Run) -> str:
    """A run in a list to choose from."""
    settings, told = run.settings, run.told
    score = f", {told['psnr']:.2f} dB" if told.get("psnr") is not None else ""
    steps = len(settings["times"]) - 1
    return f"{run.when}  {Path(run.name).name.removesuffix(folder.END)}: {settings['operator']}, {settings['method']}, {steps} steps{score}"


def reopened(run: folder.Run, runs: Path) -> dict[str, Any]:
    """Options of a restoration's task and method as they would be typed; files are those in the run's folder."""
    builder = pick("operator", run.settings["operator"], operators.ALL)
    paths = {o.name for o in options(builder).values() if Path in o.types}
    told = dict(run.settings["operator_options"])
    for name in paths & told.keys():
        value = told.pop(name)
        if value is not None:
            beside = run.path.with_name(Path(value).name).relative_to(runs)
            told[name] = str(folder.inside(runs, beside.as_posix()))
    return {"operator": _typed(told), "method": _typed(run.settings["method_options"])}


def steered_again(run: folder.Run) -> dict[str, str]:
    pick("method", run.settings["method"], steer.ALL)
    return _typed(run.settings["method_options"])


def classes(prior: str) -> list[str]:
    """Of a bundled prior."""
    if models.is_pipeline(prior):
        return []
    from ...priors import bundled

    return list(bundled.load(prior).about.get("classes") or ())


def _typed(values: Mapping[str, Plain]) -> dict[str, str]:
    return {name: "none" if value is None else str(value) for name, value in values.items()}


def _opened(path: Path) -> Image.Image:
    from ...app.files.pictures import read, to_pil

    return to_pil(read(path).pixels).convert("RGB")


def _image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def _short(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"
