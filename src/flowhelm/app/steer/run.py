"""Pictures steered by a reward: the settings of a run, the run, and the same run again.

Every picture is steered by itself, one after another, from streams that depend on the seed and on its number alone; its first
particle begins where `flowhelm sample` begins that picture. The best so far is on disk at any moment.
"""

from __future__ import annotations

import glob
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from ... import steer as methods
from ...budget import Budget
from ...cards import keeps_budget, needs_gradient, takes_budget, whole_samples
from ...flow import Flow
from ...rewards import chunked
from ...rng import Noise
from ...step import Diverged, Reward, Step
from ...step import run as checked
from ..draw.conditions import picture_name, prior_name, settled
from ..draw.rows import jobs_of
from ..errors import BadInput
from ..files.atomic import check_writable, raw_run, write_json
from ..files.names import check_below, check_lengths
from ..files.pictures import write
from ..models import device as devices
from ..models import opening as models
from ..models import provenance
from ..options import own
from ..options.signature import pick, read
from ..run import Event, Planned, Run, Said, Stepped, Stopped, near
from ..show import contact_sheet as contact
from ..show.contact_sheet import Tile
from . import record
from . import rewards as scores
from .builders import BUILDERS
from .outlook import outlook
from .problem import Limited, Over, Problem, Rewards, along, bound, prepared
from .record import Best, Particle, PictureRun, RunFile, TraceLine, low, number, numbers, outputs, single
from .request import SteerRequest, SteerSettings

SHOWN = 64
"""Particles on a contact sheet, at most."""


def settle(request: SteerRequest) -> SteerSettings:
    """Settings, checked as far as possible without opening the prior; what the budget chooses is added by `steer`."""
    if not request.reward:
        names = ", ".join(f.__name__ for f in BUILDERS)
        raise BadInput(f"--reward is missing: what the pictures are steered by, one of {names}, or FILE.py:FUNCTION")
    method = pick("method", request.method, methods.ALL)
    options = read(method, request.method_options)  # says at once what does not fit
    terms = [scores.term(text) for text in request.reward]
    beside = [scores.term(text, "held-out") for text in request.held_out]
    for flag, labels in (("reward", [each.label for each in terms]), ("held-out", [each.label for each in beside])):
        if twice := [label for i, label in enumerate(labels) if label in labels[:i]]:
            raise BadInput(f"--{flag} {twice[0]} is given twice; give it once, with a weight")
    move = request.method_options.get("transition")
    if method.__name__ in ("svdd", "rbf") and move in ("euler", "midpoint", "heun"):
        raise BadInput(
            f"{method.__name__} with --transition {move}: all draws would be the same; take a random move, such as ancestral or glass"
        )
    told = settled(request)
    device, judge = (str(devices.to_device(name)) for name in (request.device, request.reward_device or request.device))
    name = f"{prior_name(request.prior)}.steered"
    stem = Path(name) if request.out is None else request.out / name if request.out.is_dir() else request.out
    stem = stem.with_suffix("") if stem.suffix.lower() == ".png" else stem
    check_writable(stem.parent)
    check_lengths(outputs(stem).values())
    given = {"budget", "steps", "path", "grid", "chains", "numbers", "guidance", "size", "count", "seed", "batch"}
    return SteerSettings.of(
        request.model_dump(include=given) | told | models.adapter_path(request) | {
            "prior": models.where(request.prior), "method": own.name_of(method), "method_options": options,
            "reward": [each.text for each in terms], "held_out": [each.text for each in beside],
            "classes": list(dict.fromkeys(request.classes)), "out": str(stem.absolute()),
            "threads": request.threads or torch.get_num_threads(), "reward_device": judge, "device": device,
        },
        "steer",
    )  # fmt: skip


def steer(settings: SteerSettings) -> Run[RunFile]:
    """Steers every picture and writes what came of it; returns what stands in the JSON file.

    Raises:
        BadInput: anything wrong with the settings, before the long work.
        Stopped: what there is was written.
    """
    problem, settings, line = yield from prepared(settings)
    yield from models.hint(settings)
    runs: list[PictureRun] = []
    jobs = jobs_of(settings.classes, settings.count)
    inputs = scores.fingerprints([*problem.terms, *problem.beside]) | own.fingerprints([("method", settings.method)])
    inputs |= provenance.weights(settings)
    environment = provenance.environment(settings, ("numpy", "Pillow", "diffusers", "transformers"))
    first = record.result_of([], "running")
    fresh = RunFile(kind="steer", settings=settings, inputs=inputs, environment=environment, result=first)

    def file(state: record.State) -> RunFile:
        return fresh.changed(result=record.result_of(runs, state))

    yield Planned(problem.turns * len(jobs), text=line)
    if text := outlook(problem, settings, len(jobs)):
        yield Said(text)
    try:
        for i, job in enumerate(jobs):
            runs.append(PictureRun(picture_name(settings.prior, *job), *job))
            yield from _steered(problem, settings, runs, len(jobs))
            if i + 1 < len(jobs):  # at the end all is written
                write_json(outputs(settings.out)["run"], file("running").stored())
    except GeneratorExit:
        if any(each.best is not None for each in runs):
            record.leave(runs, file("stopped"))
        raise
    except (Stopped, RuntimeError, ValueError) as error:
        states: dict[type, record.State] = {Stopped: "stopped", Diverged: "diverged"}
        yield from record.ended(runs, file(states.get(type(error), "failed")))
        raise
    whole = file("finished")
    yield from record.ended(runs, whole)
    return whole


def rerun(path: Path, out: Path | None = None, *, trust: bool = False) -> Run[bool]:
    """Steers again what a JSON file describes; True if the pictures are the same to the bit. Writes to NAME.rerun beside it.

    Args:
        out: the folder to write to, if not the file's own; trust: run code that the file names.
    """
    named = raw_run(path)["settings"]
    own.trust_file(path, own.words_of({"method": named.get("method")}), trust)  # whose options are read with the file
    old = record.read(path)
    if old.result.state != "finished":
        raise BadInput(f"{str(path)!r} is of a run that was {old.result.state}; there is nothing to compare with")
    own.trust_file(path, own.words_of(named), trust)
    folder = (out or path.parent).absolute()
    stem = folder / f"{path.name.removesuffix('.run.json')}.rerun"
    paths = outputs(stem)
    check_below(folder, [*paths.values(), *folder.glob(f"{glob.escape(stem.name)}*")])
    new = yield from _steps_only(steer(old.settings.changed(out=str(stem))))
    if [each.sha256 for each in old.result.pictures] == [each.sha256 for each in new.result.pictures]:
        for written in [*paths.values(), *(single(paths, each.name) for each in new.result.pictures)]:
            written.unlink(missing_ok=True)
        yield Said("identical to the bit")
        return True
    yield Said(f"not identical: {near(paths['best'])} is what came out now")
    for line in provenance.changes((old.inputs, old.environment), (new.inputs, new.environment)):
        yield Said(f"  {line}")
    return False


def _steps_only(events: Run[RunFile]) -> Run[RunFile]:
    """The same work, of which only its progress is shown."""
    try:
        while True:
            event: Event = next(events)
            if isinstance(event, Planned | Stepped):
                yield replace(event, text="") if isinstance(event, Planned) else event
    except StopIteration as end:
        return cast("RunFile", end.value)
    finally:
        events.close()


@torch.no_grad()
def _steered(problem: Problem, settings: SteerSettings, runs: Sequence[PictureRun], pictures: int) -> Run[None]:
    """Steers the last of the runs, and keeps the best so far on disk."""
    *others, made = runs
    who, paths = own.short(own.name_of(problem.method)), outputs(settings.out)
    rank = max((each.best.rank for each in others if each.best is not None), default=(False, -math.inf))
    began = time.monotonic()
    # what is fixed was allotted to fit, to the last evaluation; a method that asks would keep some back for what it cannot know
    ledger = Budget(evaluations=problem.limit) if keeps_budget(problem.method) else Budget()
    told, limit = bound(problem.flow, settings, made.label), problem.limit * problem.chains
    flow = Limited(along(told, settings), problem.batch, ledger.count, limit)
    rewards, gallery = problem.rewards(made.label), Gallery()
    scored = replace(rewards.total, seen=gallery.add) if whole_samples(problem.method) else rewards.total
    reward: Reward = chunked(scored, problem.batch)
    noise = streams(settings.seed, made.number, problem.rows)
    x = flow.source(noise).to(settings.device)
    times = torch.tensor(settings.times, dtype=torch.float64)
    options: dict[str, Any] = dict(problem.options)
    watched: Flow = flow
    if takes_budget(problem.method):
        options["budget"] = ledger
    else:
        watched, reward = ledger.watch(flow, reward, problem.chains)
    last: Step | None = None
    try:
        for each in problem.method(watched, reward, x, times, noise=noise, **options):
            last = step = checked([each])
            values = _values(problem, step, flow, rewards.total)
            best = _better(made.best, step, values, bool(step.t == times[-1]), flow, rewards)
            if best is not made.best:
                if best.rank >= rank:
                    write(paths["best"], best.picture)
                if pictures > 1:
                    write(single(paths, made.name), best.picture)
            made.best, made.seconds = best, time.monotonic() - began
            made.trace.append(line := _line(step, ledger, best, values, bool(step.t == times[-1])))
            yield Stepped(
                len(others) * problem.turns + step.index, problem.turns * pictures,
                f"{'reward' if best.finished else 'estimate'} {best.reward:.4g}", best.picture.unsqueeze(0).clone, line, made.name,
            )  # fmt: skip
    except Over:
        if last is None:
            raise BadInput(f"--budget {settings.budget}: {who} made no step for it; give a larger --budget") from None
        made.cut = True
    if last is None:
        raise ValueError(f"{who} made no step; expected a grid of at least two times")
    made.seconds = time.monotonic() - began
    _shown(made, last, flow, rewards, gallery, problem)


def _better(best: Best | None, step: Step, values: Tensor, finished: bool, flow: Flow, rewards: Rewards) -> Best:
    """The best of before and now. An estimate gives way to any later one; a finished picture only to a better one."""
    row = int(values.nan_to_num(-math.inf).argmax())
    value = float(values[row])
    if best is not None and best.finished and not value > best.reward:
        return best
    picture = flow.decode(step.clean[row : row + 1])
    seen = {name: float(score(picture)) for name, score in rewards.beside.items()}
    return Best(picture[0].float().cpu(), value if math.isfinite(value) else -math.inf, finished, seen)


def streams(seed: int, number: int, rows: int) -> Noise:
    """The first of a picture is that of `flowhelm sample`; the others are its children."""
    return Noise(seed, [(number,), *((number, "child", i) for i in range(1, rows))])


class Gallery:
    """Finished pictures as they are scored, the best of them: thumbnails and scores."""

    def __init__(self) -> None:
        self.kept: list[tuple[float, Image.Image]] = []

    def add(self, image: Tensor, score: Tensor) -> None:
        pairs = zip(score.detach().double().cpu().tolist(), image.detach().float().cpu(), strict=True)
        self.kept += [(value, contact.small(picture)) for value, picture in pairs]
        while len(self.kept) > SHOWN:
            worst = min(range(len(self.kept)), key=lambda i: low(self.kept[i][0]))
            del self.kept[worst]


def _values(problem: Problem, step: Step, flow: Flow, total: Reward) -> Tensor:
    """Rewards of the rows: the method's own where it tells those of the pictures that it shows, else asked for."""
    known = step.info.get("reward")
    if known is not None and not needs_gradient(problem.method) and not known.isnan().any():
        return known.double().cpu()
    with torch.no_grad():
        return total(flow.decode(step.clean)).double().cpu()


def _line(step: Step, ledger: Budget, best: Best, values: Tensor, finished: bool) -> TraceLine:
    more = {name: [number(v) for v in step.info[name]] for name in ("ess", "log_z") if name in step.info}
    spent = {kind: int(amount.sum()) for kind, amount in ledger.spent.items()}
    return TraceLine.model_validate(
        {
            "index": step.index, "of": step.total, "t": float(step.t), "backwards": ledger.count.backward, "finished": finished,
            "reward": number(values.max()), "mean": number(values.mean()), "best": number(best.reward) if best.finished else None,
            "shown": number(best.reward), "held_out": numbers(best.held_out), **spent, **more,
        }
    )  # fmt: skip


def _shown(made: PictureRun, last: Step, flow: Flow, rewards: Rewards, gallery: Gallery, problem: Problem) -> None:
    """The particles at the end, as tiles and as numbers."""
    assert made.best is not None
    if gallery.kept:
        top = max(range(len(gallery.kept)), key=lambda i: low(gallery.kept[i][0]))
        made.tiles = [Tile(picture, f"{value:.4g}", i == top) for i, (value, picture) in enumerate(gallery.kept)]
        made.particles = [Particle(reward=number(value)) for value, _ in gallery.kept]
    else:
        values = _values(problem, last, flow, rewards.total)
        order = sorted(sorted(range(len(values)), key=lambda i: -low(float(values[i])))[:SHOWN])
        pictures = torch.cat([flow.decode(last.clean[i : i + 1]).float().cpu() for i in order])
        seen = {
            name: torch.cat([score(p[None].to(last.clean.device)).cpu() for p in pictures])
            for name, score in rewards.beside.items()
        }
        log_w = last.info.get("log_w")
        shares = None if log_w is None else log_w.softmax(1).flatten()
        top = int(values.nan_to_num(-math.inf).argmax())
        for place, i in enumerate(order):
            held_out = numbers({name: float(score[place]) for name, score in seen.items()})
            weight = {} if shares is None else {"weight": number(shares[i])}
            made.particles.append(Particle(reward=number(values[i]), held_out=held_out, **weight))
            made.tiles.append(Tile(contact.small(pictures[place]), f"{float(values[i]):.4g}", i == top))
    best = made.best.picture[None].to(last.clean.device)
    made.parts = {name: float(score(best)) for name, score in rewards.parts.items()}
