"""`flowhelm protocol`: a paper's table, our figures beside the published ones. Rows are appended as they are finished, as by `bench`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as fn

from ... import operators, velocity_error
from ...app.errors import BadInput, nearest
from ...app.files import atomic as files
from ...app.files.dataset import Pictures, pictures
from ...app.models import opening
from ...app.models.device import to_device
from ...app.models.request import check_flow, check_prior, is_pipeline
from ...app.options.words import worded
from ...app.run import Failed, Noted, Planned, Run, Said, Stepped
from ...cards import METHODS
from ...flow import Flow, NetFlow, Wrapped
from ...measure import LinearOperator
from ...priors import pipelines
from ...priors.published.models import MODELS, line
from ..compare import protocols, rows, runner
from ..compare.command import entry
from ..compare.perceptual import perceptual
from ..compare.protocols import Shape, Task
from ..compare.runner import Cell, Entry
from ..intervals import interval
from . import flair, flower, mpc_flow, pnp_flow
from .paper import Dataset, Figure, Paper, Variant
from .request import ProtocolRequest

PAPERS: Mapping[str, Paper] = {
    "mpc_flow": mpc_flow.PAPER,
    "pnp_flow": pnp_flow.PAPER,
    "flower": flower.PAPER,
    "flair": flair.PAPER,
}
COLUMNS = ("psnr", "ssim", "lpips")


def rectangle(shape: Shape) -> LinearOperator:
    """FLAIR's box: rows 1/6 to 5/6 and columns 1/2 to 5/6 of a picture are missing."""
    known = torch.ones(1, *shape[1:])
    top, bottom, left, right = shape[1] // 6, shape[1] * 5 // 6, shape[2] // 2, shape[2] * 5 // 6
    known[:, top:bottom, left:right] = 0
    return operators.inpaint(shape, mask=known)


def of_flair(shape: Shape) -> tuple[Task, ...]:
    """Eight and twelve times smaller by a bicubic filter, and a box, all with noise of 0.01."""
    return (
        Task("superres x8", operators.superres, {"factor": 8, "filter": "bicubic"}, 0.01),
        Task("superres x12", operators.superres, {"factor": 12, "filter": "bicubic"}, 0.01),
        Task("box", rectangle, {}, 0.01),
    )


TASKS: Mapping[str, Callable[[Shape], tuple[Task, ...]]] = {"pnp_flow": protocols.pnp_flow, "flair": of_flair}


@dataclass(frozen=True, eq=False)
class Timed(Wrapped):
    """A flow with another grid: FLAIR's 50 noise levels from 1 to 0.18, and the clean end."""

    flow: Flow

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return self.flow.velocity(x, t)

    def ends(self, x: Tensor, t: Tensor) -> Any:
        return self.flow.ends(x, t)

    def encode(self, image: Tensor) -> Tensor:
        return self.flow.encode(image)

    def decode(self, clean: Tensor) -> Tensor:
        return self.flow.decode(clean)

    def times(self, steps: int) -> Tensor:
        return torch.cat([torch.linspace(0, 0.82, steps, dtype=torch.float64), torch.ones(1, dtype=torch.float64)])


def protocol(request: ProtocolRequest) -> Run[list[dict[str, Any]]]:
    """Runs a paper's table; the same request goes on where it was stopped.

    Returns:
        Its rows, as `flowhelm bench` writes them.

    Raises:
        BadInput: no prior or no pictures, and where they are; and what else does not fit.
    """
    paper = PAPERS[request.paper]
    name = request.dataset or next(iter(paper.datasets))
    if name not in paper.datasets:
        raise BadInput(
            f"--dataset: {request.paper} has {', '.join(paper.datasets)}, got {name!r}; {nearest(name, paper.datasets)}"
        )
    if request.show:
        yield Said(described(request.paper, paper, [request.dataset] if request.dataset else list(paper.datasets)))
        return []
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    variants = _chosen("--row", request.row, paper.variants)
    check_there(request, paper, paper.datasets[name])
    assert request.prior
    device = str(to_device(request.device))
    flow, size = _opened(request, paper, device)
    if request.dataset is None:
        name = next((each for each, of in paper.datasets.items() if of.size == size), name)
    dataset = paper.datasets[name]
    tasks = _chosen("--task", request.task, {task.name: task for task in TASKS[paper.tasks]((3, size, size))})
    taken = shown(request, dataset, size, device)
    about = {
        "prior": request.prior if is_pipeline(request.prior) else opening.name_of(flow, request.prior),
        "weights": (opening.fingerprint(request.prior) if is_pipeline(request.prior) else files.sha256(opening.weights(request.prior)))[:8],
        "data": taken.origin, "size": size, "protocol": f"{request.paper}, {name}",
    }  # fmt: skip
    if size != dataset.size:
        yield Noted(
            f"the pictures of {name} are of {dataset.size} x {dataset.size} pixels in the paper, and of {size} x {size} here"
        )
    done = {rows.key(row) for row in rows.read(request.out) if not row["error"]}
    work = list(runner.cells(cast("NetFlow", flow), list(tasks.values()), taken, [0], request.batch, about))
    distances = {} if request.lpips is None else {"lpips": perceptual(request.lpips, device)}
    total, made = len(work) * len(variants), 0
    yield Planned(total)
    for cell in work:
        for label, variant in variants.items():
            one = settled(cell, label, variant, name, request)
            if not runner.is_done(cell, one, done):
                rows.append(request.out, runner.rows_of(cell, one, distances).rows)
            made += 1
            yield Stepped(made, total, f"{cell.task.name} {cell.pictures.names[0]}: {label}")
    finished = [
        row for row in rows.read(request.out)
        if all(row[key] == value for key, value in about.items()) and row["method"] in variants and row["task"] in tasks
    ]  # fmt: skip
    yield Said("\n".join(beside(request.paper, paper, name, finished)))
    for task, reason in sorted({(f"{row['task']}, {row['method']}", row["error"]) for row in finished if row["error"]}):
        yield Failed(task, reason)
    return finished


def check_there(request: ProtocolRequest, paper: Paper, dataset: Dataset) -> None:
    """Raises BadInput where a prior or the pictures are missing: which, where they are published, and the line that converts it."""
    if request.prior is None or not (
        is_pipeline(request.prior) or request.prior.endswith(".py") or Path(request.prior).exists()
    ):
        what = "--prior is missing" if request.prior is None else f"--prior {request.prior} does not exist"
        if paper.pipeline:
            raise BadInput(
                f"{what}: {request.paper} is about {dataset.model}; accept its terms on the hub and give --prior {dataset.model}"
            )
        model, to = MODELS[dataset.model], f"{dataset.model}.safetensors"
        raise BadInput(
            f"{what}: {request.paper} needs the network of {model.what}; fetch {model.file} from {model.where}, run "
            f"`{line(dataset.model, to)}`, and give --prior {to}"
        )
    if request.data is None or not request.data.exists():
        what = "--data is missing" if request.data is None else f"--data {request.data} does not exist"
        raise BadInput(
            f"{what}: {request.paper} measures on {dataset.where}; fetch the pictures and give their folder or archive"
        )
    check_prior(request.prior)
    if paper.pipeline != is_pipeline(request.prior):
        kind = "a pipeline of diffusers" if paper.pipeline else "a converted network, a file"
        raise BadInput(f"--prior: {request.paper} takes {kind}, got {request.prior!r}; flowhelm bench takes any prior")
    if not paper.pipeline:
        check_flow(request.prior)


def _opened(request: ProtocolRequest, paper: Paper, device: str) -> tuple[Flow, int]:
    """The prior and the side of its pictures."""
    assert request.prior is not None
    if not paper.pipeline:
        prior = opening.plain(request.prior, device)
        if not prior.pixels or prior.shape[0] != 3:
            raise BadInput(
                f"--prior: expected a network of colour pictures, got {request.prior!r}, whose states are {tuple(prior.shape)}"
            )
        return prior, prior.shape[-1]
    name = request.dataset or next(iter(paper.datasets))
    size = request.size or paper.datasets[name].size
    dtype = request.dtype or ("bfloat16" if device.startswith("cuda") else "float32")
    pipe: Any = pipelines.load(request.prior, size=(size, size), dtype=getattr(torch, dtype), device=device)
    return Timed(pipe.bind([flair.PROMPT[name]], scale=2.0)), size


def shown(request: ProtocolRequest, dataset: Dataset, size: int, device: str) -> Pictures:
    """The pictures, cut and scaled as the paper does."""
    assert request.data is not None
    side = request.crop or dataset.crop
    count = request.images or dataset.images
    taken = pictures(request.data, channels=3, size=side, folder=request.folder, images=count)
    clean = taken.clean
    if side != size:
        clean = fn.interpolate(clean, (size, size), mode="bilinear", antialias=True).clamp(-1, 1)
    return taken._replace(clean=clean.to(device))


def settled(cell: Cell, label: str, variant: Variant, dataset: str, request: ProtocolRequest) -> Entry:
    """The row's method with the paper's options for the cell's task."""
    text = variant.words[dataset][cell.task.name]
    found = worded("method", text, METHODS, ("label", "steps"))
    if request.steps is not None:
        found = found._replace(beside={})
    made = entry(found, label, cell.task, str(cell.about["prior"]), None, request.steps)
    made = made._replace(particles=variant.runs, settings="paper", options={**made.options, "runs": variant.runs})
    if request.paper == "flair":
        made = made._replace(
            method=partial(made.method, weights=weights()), options={**made.options, "weights": "sd3.5-medium"}
        )
    return made


def weights() -> velocity_error.Weights:
    """FLAIR's weights of the prior over time: the reciprocal of the released errors on 100 times, 1 on average."""
    times, errors = torch.tensor(flair.ERRORS, dtype=torch.float64).T
    grid = torch.linspace(0, 1, 100, dtype=torch.float64)
    error = torch.stack([velocity_error.table(times, errors)(t) for t in grid])
    return velocity_error.table(grid, velocity_error.reciprocal(error))


def beside(name: str, paper: Paper, dataset: str, finished: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Markdown: a line for each task and row, our figures with 95 % intervals beside the published ones."""
    finished = list(finished)
    pictures_of = {row["image"] for row in finished}
    yield f"\n**{paper.title}: {dataset}, {len(pictures_of)} pictures; published: {paper.datasets[dataset].images}**\n"
    columns = [c for c in COLUMNS if any(row[c] is not None for row in finished) or c == "psnr"]
    head = [
        "task",
        "row",
        *(word for c in columns for word in (f"{c.upper()} here", "published")),
        "steps",
        "evaluations",
        "seconds",
    ]
    yield "| " + " | ".join(head) + " |"
    yield "| --- " * len(head) + "|"
    for task in dict.fromkeys(row["task"] for row in finished):
        for label, variant in paper.variants.items():
            mine = [row for row in finished if (row["task"], row["method"]) == (task, label)]
            if not mine:
                continue
            figure = variant.figures.get(dataset, {}).get(task, Figure())
            cells = [task, label]
            for column in columns:
                digits = 2 if column == "psnr" else 3
                theirs = getattr(figure, column)
                ours = interval([row[column] for row in mine if row[column] is not None])
                cells += [ours.shown(digits), "-" if theirs is None else f"{theirs:.{digits}f}"]
            spent = [interval([row[c] for row in mine if row[c] is not None]).value for c in ("evaluations", "seconds")]
            cells += [str(mine[0]["steps"]), f"{spent[0]:.0f}", f"{spent[1]:.2f}"]
            yield "| " + " | ".join(cells) + " |"
    yield f"\nPublished: {paper.source}. Not as in the paper: {'; '.join(paper.apart)}."


def described(name: str, paper: Paper, datasets: Sequence[str]) -> str:
    """Tasks, noise, settings and published figures, without running anything."""
    text = [f"**{paper.title}**", f"{paper.source[0].upper()}{paper.source[1:]}."]
    for dataset in datasets:
        of = paper.datasets[dataset]
        known = {task.name: task for task in TASKS[paper.tasks]((3, of.size, of.size))}
        text += [f"\n{dataset}: {of.images} pictures of {of.size} x {of.size}, {of.where}; network {of.model}\n"]
        text += ["| task | operator | noise | row | method | PSNR | SSIM | LPIPS |", "| --- " * 8 + "|"]
        for task in known.values():
            for label, variant in paper.variants.items():
                figure = variant.figures.get(dataset, {}).get(task.name, Figure())
                shown = ["-" if value is None else f"{value:g}" for value in figure]
                words = variant.words[dataset][task.name] + f", {variant.runs} runs averaged" * (variant.runs > 1)
                text.append("| " + " | ".join([task.name, task.operator, f"{task.std:g}", label, words, *shown]) + " |")
    return "\n".join([*text, f"\nNot as in the paper: {'; '.join(paper.apart)}."])


def _chosen(flag: str, words: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    for word in words:
        if word not in known:
            raise BadInput(f"{flag}: expected one of {', '.join(known)}, got {word!r}; {nearest(word, known)}")
    return {word: known[word] for word in known if not words or word in words}


__all__ = ["PAPERS", "protocol"]
