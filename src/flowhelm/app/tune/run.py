"""A prior fine-tuned towards a reward: adapter, curves, sheets of samples and a card in one folder, interruptible and resumable.

OUT/adapter.safetensors     the adapter of the last healthy check: what `flowhelm sample PRIOR --adapter` and diffusers load
OUT/checkpoint.safetensors  the whole state; the same command goes on from it, to the same adapter
OUT/run.json                what is being run; another run is refused in this folder
OUT/log.csv, checks.csv     a row per update; a row per check (mean rewards, errors, diversity, distance, look)
OUT/curves.png              the checks as curves
OUT/samples/0000020.png     the same pictures at each check, the prior's in the first
OUT/README.md               the card: what was made of what, by which command, with which figures

Under `accelerate launch` each process trains on its part of the pictures of an update; n of them make the adapter of one, and one may go
on where n were. Each draws the checks itself, and the first one alone writes and speaks.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ...guide.counted import Count, Counted
from ...learning.together import agreed, gathered, mine, place
from ...step import Diverged
from ..draw.conditions import prior_name
from ..errors import BadInput
from ..files.atomic import going_on, write_json
from ..run import Planned, Run, Said, Stepped, Stopped, Warned, drive, near, unbroken
from ..train.keeper import tensorboard
from . import check, processes
from .keeper import Keeper
from .problem import Problem, begun, prepared, story_of
from .request import AlignRequest
from .state import State


def align(request: AlignRequest) -> Run[Path]:
    """Trains, or goes on training; returns the file of the adapter.

    Raises:
        BadInput: anything wrong with what was asked for; nothing is written then.
        Stopped: all is saved; of several processes what the last checkpoint has.
        Diverged: the adapter is that of the last healthy check, and the checkpoint as before the update.
    """
    request = request.changed(device=processes.joined(request.device))
    if place()[0] == 0:
        return (yield from _aligned(request))
    try:
        return drive(_aligned(request))
    except (BadInput, Diverged) as error:  # the first process has said it
        raise Stopped(2 if isinstance(error, BadInput) else 1) from error


def _aligned(request: AlignRequest) -> Run[Path]:
    problem = yield from prepared(request)
    request = problem.request
    out = request.out or Path("runs") / f"{prior_name(request.prior)}-{request.method}"
    story = story_of(problem)
    resuming = bool(agreed(going_on(out, story)))
    state = begun(problem)
    if resuming:
        state.restore(out / "checkpoint.safetensors")
    with processes.desk(out) as folder:
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        write_json(folder / "run.json", story)
        yield from _trained(problem, state, folder)
    return out / "adapter.safetensors"


def _trained(problem: Problem, state: State, out: Path) -> Run[None]:
    request = problem.request
    keeper = Keeper(problem, state, out, tensorboard() if request.tensorboard else None)
    count, many = Count(), place()[1]
    noise = state.noise.rows(mine(request.rows))
    began, saved, ended, average = time.monotonic(), time.monotonic(), "", 0.0
    if not keeper.rows:
        yield Said(f"the prior's own pictures are drawn, {request.checked} of them")
        keeper.check()
    yield Planned(
        request.updates, state.done, f"going on after update {state.done}" if state.done else f"into {near(out)}"
    )
    try:
        while state.done < request.updates and not agreed(bool(ended := keeper.ended())):
            before = count.rows
            every = problem.classes(state.done, request.rows)
            labels = [every[i] for i in mine(request.rows)]
            told, frozen = (Counted(problem.bound(each, labels), count) for each in (problem.flow, problem.base))
            more: dict[str, Any] = dict(problem.values)
            if state.value is not None:
                more["value"] = state.value.told(*getattr(told.flow, "condition", ()))  # type: ignore[operator]
            if state.old is not None:
                more["old"] = state.old
            with unbroken():  # an update, its average and its row are whole
                update = next(
                    problem.method(
                        told, frozen, problem.reward(problem.trained, labels), state.optimizer, noise=noise,
                        updates=request.updates, done=state.done, **more,
                    )
                )  # fmt: skip
                update = update._replace(info={**update.info, "reward": gathered(update.info["reward"])})
                state.average.follow(request.average)
                state.done, state.spent = update.index, state.spent + many * (count.rows - before)
                state.seconds, began = state.seconds + time.monotonic() - began, time.monotonic()
                average = float(update.info["reward"].mean())
                keeper.log(update)
                last = state.done == request.updates or keeper.spent()
                checked = state.done % request.check_every == 0 or last
                if checked:
                    keeper.check(last)
                if checked or agreed(time.monotonic() - saved) > 60 * request.minutes:
                    processes.save(state, out / "checkpoint.safetensors")
                    saved = time.monotonic()
            text = f"reward {average:.4g}, diversity {keeper.rows[-1]['diversity']:.2f}, {state.spent} evaluations"
            yield Stepped(state.done, request.updates, text, figures=keeper.rows[-1])
    except (Stopped, GeneratorExit):
        if many == 1:  # others may stand elsewhere
            state.save(out / "checkpoint.safetensors")
        raise
    except Diverged:
        processes.save(state, out / "checkpoint.safetensors")
        keeper.card("the training diverged")
        raise
    if ended := ended or keeper.ended():
        yield Warned(
            f"stopped after update {state.done}: {ended}; the adapter is that of update {state.about.get('kept', 0)}"
        )
    keeper.card(ended)
    row = keeper.rows[-1]
    if odd := check.strange(row, keeper.rows[0]):
        yield Warned(odd)
    began_at, reached = keeper.rows[0][problem.trained], row[problem.trained]
    yield Said(f"reward {began_at:.4g} -> {reached:.4g}, diversity {row['diversity']:.2f} of the prior's")
    yield Said(f"wrote {near(out / 'adapter.safetensors')}; draw with: {keeper.command()}")
