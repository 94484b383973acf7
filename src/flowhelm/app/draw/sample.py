"""Pictures drawn from a prior, and the sheet that shows them.

    flow     = priors.load("fashion")
    drawn    = draw(flow, [("coat", 0), ("coat", 1), ("bag", 0)], steps=25)
    pictures = sheet([("coat", drawn[:2]), ("bag", drawn[2:])])

A picture depends on the seed and on its number alone, not on how many are drawn, in what batches or what else (but for
the last bits of float32, which depend on the size of a batch in some kernels).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ... import guide, transition
from ...flow import Guidance
from ...interfaces.cli.progress import bar
from ...priors import bundled
from ...priors.bundled import Prior
from ...rng import Noise
from ...solve import integrate
from ...step import Step, run
from ..errors import BadInput, nearest
from ..files import atomic as files
from ..files.pictures import check_writable, write
from ..models.batches import batches
from ..show.sheet import class_rows, sheet

SOLVERS = (transition.euler, transition.midpoint, transition.heun)

Job = tuple[str | None, int]
"""Class, or None for none, and number of a picture."""


@torch.no_grad()
def draw(
    flow: Prior,
    jobs: Sequence[Job],
    *,
    prompt: str | None = None,
    numbers: Mapping[str, float] | None = None,
    guidance: Guidance | None = None,
    steps: int = 25,
    solver: transition.Transition = transition.euler,
    seed: int = 0,
    each: Callable[[int], object] = lambda done: None,
) -> Tensor:
    """One picture per job: `(len(jobs), c, h, w)` in [-1, 1] (not clamped), on the CPU.

    Args:
        jobs: all with a class, or none.
        prompt, numbers: what every picture is told beside its class; see `Prior.told`.
        each: called with the steps done, of `steps` for every batch of `batches(...)` rows.

    Raises:
        ValueError: a condition that the prior does not know, or guidance without any.
    """
    size = batches(flow, len(jobs), guidance is not None)
    device = next(flow.net.parameters()).device
    parts = []
    for first in range(0, len(jobs), size):
        rows = jobs[first : first + size]
        classes = [name for name, _ in rows if name is not None]
        bound = flow
        if classes or prompt is not None or numbers:
            bound = flow.told(
                classes or None,
                prompts=None if prompt is None else [prompt] * len(rows),
                numbers=[numbers] * len(rows) if numbers else None,
                guidance=guidance,
            )
        elif guidance is not None:
            raise ValueError(f"guidance of prior '{flow.name}': expected a class, a prompt or a number, got none")

        def tell(step: Step, done: int = first // size * steps) -> None:
            each(done + step.index)

        x = bound.source(Noise(seed, [index for _, index in rows])).to(device)
        moves = integrate(bound, x, flow.times(steps), transition=solver)
        parts.append(flow.decode(run(moves, tell).x).cpu())
    return torch.cat(parts)


def sample(
    prior: str,
    *,
    classes: Sequence[str] = (),
    prompt: str | None = None,
    numbers: Mapping[str, float] | None = None,
    scale: float | None = None,
    guidance: str | None = None,
    steps: int = 25,
    solver: str = "euler",
    seed: int = 0,
    count: int | None = None,
    out: Path | None = None,
    folder: Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Draws pictures and writes a sheet, or each of them to `folder`, or both; returns what was written.

    Raises:
        ValueError: anything that is wrong with what was asked for. Nothing is written then.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    flow = bundled.load(prior, str(files.to_device(device)))
    move = named("solver", solver, SOLVERS)
    classes = list(dict.fromkeys(classes))
    if not classes and prompt is None and not numbers:
        classes = list(flow.about.get("classes", ()))
    told = bool(classes or prompt is not None or numbers)
    edit = guidance_for(flow, guidance, scale, told=told)
    count = count or (8 if len(classes) > 1 else 16)
    each_of: Sequence[str | None] = classes or [None]
    jobs = [(name, index) for name in each_of for index in range(count)]
    if told:  # what is wrong with a condition is said before the long work
        rows = len(each_of)
        flow.told(
            classes or None,
            prompts=None if prompt is None else [prompt] * rows,
            numbers=[numbers] * rows if numbers else None,
        )
    out = places(flow.name, out, folder)
    size = batches(flow, len(jobs), edit is not None)
    with bar(math.ceil(len(jobs) / size) * steps) as tell:
        drawn = draw(
            flow, jobs, prompt=prompt, numbers=numbers, guidance=edit, steps=steps, solver=move, seed=seed,
            each=lambda done: tell(done, f"{len(jobs)} pictures"),
        )  # fmt: skip
    return put(flow.name, jobs, drawn, class_rows(drawn, jobs), out, folder, say)


def places(name: str, out: Path | None, folder: Path | None) -> Path | None:
    """Where the sheet goes, if it is wanted; BadInput, before the long work, if nothing can be written there."""
    if out is None and folder is None:
        out = Path(f"{name}.samples.png")
    if out is not None and out.suffix.lower() != ".png":
        raise BadInput(f"--out {str(out)!r}: a sheet is a PNG; name it {out.with_suffix('.png').name!r}")
    for place in [out.parent] if out else []:
        check_writable(place)
    if folder is not None:
        check_writable(folder if folder.exists() else folder.parent)
    return out


def put(
    name: str,
    jobs: Sequence[Job],
    drawn: Tensor,
    rows: Sequence[tuple[str, Tensor]],
    out: Path | None,
    folder: Path | None,
    say: Callable[[str], None],
) -> list[Path]:
    """Writes each of what was drawn, or the rows as a sheet, or both."""
    written = []
    if folder is not None:
        folder.mkdir(exist_ok=True)
        for (label, index), picture in zip(jobs, drawn, strict=True):
            path = folder / f"{'_'.join((label or name).split())}-{index:03d}.png"
            write(path, picture)
            written.append(path)
        say(f"wrote {len(written)} pictures to {folder}")
    if out is not None:
        files.put_picture(out, sheet(rows))
        written.append(out)
        say(f"wrote {out}")
    return written


def guidance_of(name: str | None, scale: float | None) -> Guidance | None:
    """`--guidance` and `--scale`: the scale alone means cfg, the guidance alone its own scale."""
    if name is None and scale is None:
        return None
    from functools import partial

    if scale is not None and not math.isfinite(scale):
        raise BadInput(f"--scale: expected a finite number such as 2, got {scale}")
    chosen = named("guidance", name or "cfg", guide.GUIDANCES)
    return chosen if scale is None else partial(chosen, scale=scale)


def guidance_for(flow: Prior, name: str | None, scale: float | None, *, told: bool) -> Guidance | None:
    """`guidance_of`, and without either of them the prior's own, if it is told anything at all."""
    if name is None and scale is None and told and flow.scale != 1:
        return guidance_of("cfg", flow.scale)
    return guidance_of(name, scale)


def named(what: str, name: str, functions: Iterable[Callable[..., Tensor]]) -> Callable[..., Tensor]:
    """The function of that name; BadInput says which there are."""
    table = {f.__name__: f for f in functions}
    if name not in table:
        raise BadInput(f"there is no {what} {name!r}; {nearest(name, table)}")
    return table[name]


def numbers_of(words: Sequence[str]) -> dict[str, float]:
    """`["brightness=0.4"]` -> `{"brightness": 0.4}`. Raises BadInput."""
    found: dict[str, float] = {}
    for word in words:
        name, equals, value = word.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not equals or not math.isfinite(number):
            raise BadInput(f"--number: expected NAME=VALUE such as brightness=0.4, got {word!r}")
        if name in found:
            raise BadInput(f"--number {name} is given twice; give it once")
        found[name] = number
    return found
