"""A student distilled from a prior: pairs, stages, log, curve, sheet, weights and a card in one folder, resumable at any moment.

OUT/student.safetensors      the average in fp16: what `flowhelm sample PRIOR --student` and `--prior` take
OUT/checkpoint.safetensors   the whole state; the same command goes on from it, to the same student
OUT/pairs.safetensors        sources and the teacher's pictures of them, where the method reads any
OUT/reflow/                  of reflow: the stage that makes paths straight, with a log, a curve and a checkpoint of its own
OUT/run.json                 what is being run; another run is refused in this folder
OUT/log.csv, curve.png       the loss, and how far the student's pictures end from the teacher's of the same noise, held apart
OUT/samples.png              the teacher beside the student, from the same noise
OUT/README.md                the card: what was made of what, by which command, with which figures
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ... import sample
from ...cards import card
from ...distil.reflow import begun
from ...flow import Guidance
from ...learning import Data
from ...priors import bundled, distilled
from ...solve import straightness
from ...step import Update
from ...step import run as ended
from ...train import fit
from ..draw.rows import draw_jobs, jobs_of
from ..draw.solvers import Way
from ..errors import BadInput
from ..files import atomic as files
from ..files.atomic import going_on, write_json
from ..models.batches import batches
from ..options.signature import plain
from ..run import Planned, Run, Said, Stepped, Stopped, drive, near, unbroken
from ..show.sheet import sheet
from ..train.keeper import Keeper, carried, read_log
from .problem import OWN, Problem, folder, prepared
from .request import DistilRequest

HELD = 60  # pictures, about, on which the student is compared with the teacher; never trained on
FINE = 20  # steps of UniPC that draw the teacher's
SHOWN = 6  # classes of a sheet
APART, PAIRS = 1, 1000
"""Added to the seed, for sources of what is held apart and of pairs: other ones than `flowhelm sample` draws from by default."""


def distil(request: DistilRequest) -> Run[Path]:
    """Distils, or goes on; returns the file of the student.

    Raises:
        BadInput: anything wrong with what was asked for; nothing is written then.
        Stopped: all is saved. Diverged: the last good state is in the checkpoint and in the student.
    """
    problem = prepared(request)
    out = folder(request)
    story = _story(problem)
    going_on(out, story)
    if not problem.drawn:
        problem.data()  # what is wrong with the files is said before anything is written
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "run.json", story)
    pairs: Sequence[Tensor] = (yield from _pairs(problem, out)) if problem.drawn else ()
    check = _Check(problem)
    yield Said(f"The student begins {check.distance(problem.flow.net):.4f} from the teacher's pictures.")
    data = problem.data(pairs)
    net = problem.flow.net
    if problem.stages == 2:
        yield Said(f"Straightness of the teacher {check.straightness(problem.teacher):.4f} (0: one step is exact).")
        inner = out / "reflow"
        inner.mkdir(exist_ok=True)
        average = deepcopy(net)
        yield from _stage(problem, inner, average, data, problem.reflowed, check, last=False)
        net.load_state_dict(average.state_dict())
        yield Said(f"Straightness after reflow {check.straightness(problem.drawing(average)):.4f}.")
    average = deepcopy(net)
    yield from _stage(problem, out, average, data, request.updates, check, last=True)
    _card(problem, out, check, average)
    yield Said(f"wrote {near(out / 'student.safetensors')}; draw with: {_command(problem, out)}")
    return out / "student.safetensors"


def _stage(
    problem: Problem, out: Path, average: nn.Module, data: Data, updates: int, check: _Check, *, last: bool
) -> Run[None]:
    request, flow = problem.request, problem.flow
    steps: Generator[Update, None, None] = fit(
        flow, problem.loss(last), data, steps=updates, average=average, rate=request.rate, warmup=min(100, updates // 10),
        ema=request.average, seed=request.seed, checkpoint=out / "checkpoint.safetensors", minutes=request.minutes,
        weight_decay=0.0,
    )  # fmt: skip
    name = "student.safetensors" if last else "straight.safetensors"

    def write(done: int) -> None:
        distilled.save(problem.trained(average), out / name, problem.about, problem.base)

    keeper = Keeper(
        out, updates, request.minutes, rows_of=lambda done: request.rows, apart=lambda: check.distance(average),
        write=write, sheet=lambda: check.sheet(average),
    )  # fmt: skip
    yield from carried(steps, keeper)


class _Check:
    """The teacher's pictures of some sources, and the student's of the same ones."""

    def __init__(self, problem: Problem):
        self.problem = problem
        classes = problem.classes
        self.jobs = jobs_of(classes, max(1, HELD // len(classes)) if classes else HELD)
        self.teacher = self._drawn(problem.base, problem.teacher.guidance, FINE, "unipc")

    @torch.no_grad()
    def _drawn(self, flow: Any, rule: Guidance | None, steps: int, solver: str) -> Tensor:
        way = Way(steps, solver, seed=self.problem.request.seed + APART)
        return drive(draw_jobs(flow, self.jobs, way, guidance=rule))

    def student(self, net: nn.Module) -> Tensor:
        about = self.problem.about
        rule = self.problem.teacher.guidance if about.kind == "refiner" else None
        return self._drawn(self.problem.drawing(net), rule, about.calls, about.solver)

    def distance(self, net: nn.Module) -> float:
        """Root mean square difference of a pixel, in [-1, 1]."""
        return float((self.student(net) - self.teacher).square().mean().sqrt())

    def straightness(self, flow: Any) -> float:
        rows = range(min(32, len(self.jobs)))
        seed = self.problem.request.seed + APART
        told, x = begun(self.problem.teacher, rows, seed)
        bound = told if flow is self.problem.teacher else flow.bind(*told.condition) if told.condition else flow
        return float(straightness(bound, x, bound.times(20)).mean())

    def sheet(self, net: nn.Module) -> Image.Image:
        """Rows of the teacher, each with the student's of the same noise below."""
        student, classes = self.student(net), self.problem.classes
        if not classes:
            return sheet([("teacher", self.teacher[:8]), ("student", student[:8])])
        rows: list[tuple[str, Tensor]] = []
        for label in classes[:SHOWN]:
            own = [i for i, (name, _) in enumerate(self.jobs) if name == label]
            rows += [(f"{label}, teacher", self.teacher[own]), ("student", student[own])]
        return sheet(rows)


@torch.no_grad()
def _pairs(problem: Problem, out: Path) -> Run[list[Tensor]]:
    """Sources, the teacher's pictures of them, and what each was told; drawn in parts, and gone on with where a run was cut."""
    request, path = problem.request, out / "pairs.safetensors"
    if request.rows > request.pairs:
        raise BadInput(f"--pairs {request.pairs}: expected at least the {request.rows} of an update; ask for more")
    size = batches(problem.base, request.pairs, problem.teacher.guidance is not None)
    sources, ends = _read(path, request.pairs, size)
    done, saved = sum(map(len, sources)), time.monotonic()
    if done < request.pairs:
        yield Planned(request.pairs, done, f"{request.pairs} pictures of the teacher")

    def keep() -> None:
        tensors = {"source": torch.cat(sources), "clean": torch.cat(ends)}
        files.put(path, lambda temporary: save_file(tensors, temporary))

    try:
        while done < request.pairs:
            bound, x = begun(problem.teacher, range(done, min(done + size, request.pairs)), request.seed + PAIRS)
            end = ended(sample.unipc(bound, x, bound.times(request.pair_steps))).x
            with unbroken():  # both, or none
                sources.append(x.cpu())
                ends.append(end.cpu())
            done += len(x)
            if done == request.pairs or time.monotonic() - saved > 60 * request.minutes:
                keep()
                saved = time.monotonic()
            yield Stepped(done, request.pairs, "drawing pairs")
    except Stopped:
        if ends and len(sources) == len(ends):
            keep()
        yield Said(f"stopped after {done} of {request.pairs} pairs, all saved in {out}; go on with the same command")
        raise
    index = torch.arange(request.pairs)
    return [torch.cat(sources), torch.cat(ends), *(c[index % len(c)] for c in problem.told)]


def _read(path: Path, count: int, size: int) -> tuple[list[Tensor], list[Tensor]]:
    """The whole parts that are there."""
    if not path.exists():
        return [], []
    try:
        with safe_open(path, framework="pt") as f:
            source, clean = f.get_tensor("source"), f.get_tensor("clean")
    except Exception as error:  # safetensors raises its own type
        raise BadInput(f"{str(path)!r} cannot be read ({error}); delete it to draw the pairs anew") from error
    kept = len(source) if len(source) == count else len(source) // size * size
    if source.shape != clean.shape or len(source) > count:
        raise BadInput(f"{str(path)!r} is of another run; use another --out")
    return ([source[:kept]], [clean[:kept]]) if kept else ([], [])


def _command(problem: Problem, out: Path) -> str:
    return f"flowhelm sample {problem.request.prior} --student {near(out / 'student.safetensors')}"


def _typed(request: DistilRequest) -> str:
    """The command again."""
    words = ["flowhelm distil", request.prior]
    for name, value in request.model_dump(mode="json", exclude_defaults=True).items():
        if name not in ("prior", "method_options", "out", "threads", "minutes"):
            words.append(f"--{name.replace('_', '-')} {Path(value).name if name == 'data' else value}")
    return " ".join([*words, *(f"--{n.replace('_', '-')} {v}" for n, v in request.method_options.items())])


def _card(problem: Problem, out: Path, check: _Check, average: nn.Module) -> None:
    request, about = problem.request, problem.about
    net = problem.trained(average)
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in problem.base.net.parameters())
    rows = read_log(out / "log.csv")
    spent = sum(float(log[-1]["seconds"]) for each in (out, out / "reflow") if (log := read_log(each / "log.csv")))
    file = out / "student.safetensors"
    drawn = f", and {request.pairs} pictures of the teacher" if problem.drawn else ""
    read = {"nothing": "no pictures", "pictures": request.data.name if request.data else "pictures of the teacher"}
    begin = float(rows[0]["held_apart"] or 0) if rows else check.distance(problem.flow.net)
    lines = [
        f"# A student of {problem.base.name}, {about.calls} call{'s' * (about.calls > 1)}", "",
        f"Distilled from the prior `{problem.base.name}`" + (f" with guidance of scale {about.scale:g} inside" if about.scale != 1 else "")
        + f", by {card(problem.method).partition(chr(10))[0]}",
        "", f"    {_typed(request)}", f"    {_command(problem, out)}", "",
        "| | |", "| --- | --- |",
        f"| file | `{file.name}`, fp16, {file.stat().st_size / 1e6:.2f} MB; opens beside the prior's own weights |",
        f"| trained | {trained:,} numbers, {trained / whole:.1%} of the {whole:,} of the prior |",
        f"| read | {read.get(problem.way.reads, 'pairs')}{drawn} |",
        f"| updates | {request.updates} of {request.rows} rows"
        + (f", after {problem.reflowed} of reflow" if problem.stages == 2 else "") + f"; {spent:.0f} s of training |",
        f"| distance to the teacher's pictures of the same noise | {check.distance(average):.4f} root mean square of a pixel in [-1, 1]"
        + (f" (early in the training {begin:.4f})" if begin else "") + f", on {len(check.jobs)} sources that were not trained on |",
        "| terms | those of the prior and of its data |", "",
        "samples.png shows the teacher beside the student, from the same noise.", "",
    ]  # fmt: skip
    files.put_text(out / "README.md", "\n".join(lines))


def _story(problem: Problem) -> dict[str, Any]:
    """What makes a run the same run; files by what is in them."""
    request = problem.request
    asked = request.model_dump(mode="json", exclude={"out", "minutes", "device", "threads", "method_options", "data"})
    given = plain(problem.method, request.method_options)
    settings = asked | {"method_options": {name: value for name, value in given.items() if name not in OWN}}
    inputs = {"prior sha256": files.sha256(bundled.weights(request.prior))}
    if request.data is not None:
        if not request.data.is_file():
            raise BadInput(f"--data: {str(request.data)!r} does not exist; name the file")
        inputs["data sha256"] = files.sha256(request.data)
    return {"settings": json.loads(json.dumps(settings)), "inputs": inputs}


__all__ = ["distil"]
