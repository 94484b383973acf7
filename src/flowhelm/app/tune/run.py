"""A prior fine-tuned towards a reward: adapter, curves, sheets of samples and a card in one folder, interruptible and resumable.

OUT/adapter.safetensors     the adapter of the last healthy check: what `flowhelm sample PRIOR --adapter` and diffusers load
OUT/checkpoint.safetensors  the whole state; the same command goes on from it, to the same adapter
OUT/run.json                what is being run; another run is refused in this folder
OUT/log.csv, checks.csv     a row per update; a row per check (mean rewards, errors, diversity, distance, look)
OUT/curves.png              the checks as curves
OUT/samples/0000020.png     the same pictures at each check, the prior's in the first
OUT/README.md               the card: what was made of what, by which command, with which figures
"""

from __future__ import annotations

import csv
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import __version__, priors, tune
from ...cards import card, needs_gradient
from ...flow import Flow
from ...guide.counted import Count, Counted
from ...learning import Copy
from ...priors import adapters
from ...rewards import differentiable
from ...rng import Noise
from ...step import Diverged, Reward, Update, rows_of
from ..draw.conditions import conditioned, guidance_of, prior_name
from ..errors import BadInput
from ..files import atomic as files
from ..files.atomic import going_on, write_json
from ..models import device as devices
from ..models import opening as models
from ..models import provenance
from ..models.batches import batches
from ..models.request import check_flow, size_of
from ..options.signature import bind, options, pick
from ..run import Planned, Run, Said, Stepped, Stopped, Warned, near, unbroken
from ..show.reward_curves import reward_curves
from ..show.sheet import sheet
from ..steer import rewards as scores
from ..steer.builders import BUILDERS, Subject
from ..steer.scored import Saved
from . import check
from .request import AlignRequest
from .state import State

SHOWN = 36  # pictures of a sheet
OWN = ("updates", "done", "noise", "value", "old")
"""Arguments of a method that the run itself gives."""


@dataclass(frozen=True, eq=False)
class ByRow:
    """A reward that asks each row about its own class."""

    by_label: Mapping[str | None, Reward]
    labels: Sequence[str | None]

    def __call__(self, image: Tensor) -> Tensor:
        if len(self.by_label) == 1:
            return next(iter(self.by_label.values()))(image)
        repeat = len(image) // len(self.labels)
        labels = [label for label in self.labels for _ in range(repeat)]
        out = image.new_zeros(len(image))
        for label in dict.fromkeys(labels):
            index = torch.tensor([i for i, each in enumerate(labels) if each == label], device=image.device)
            out = out.index_put((index,), self.by_label[label](image[index]).to(out))
        return out

    def rows(self, index: Tensor, total: int) -> Reward:
        labels = [self.labels[int(i) * len(self.labels) // total] for i in index]
        return ByRow({label: rows_of(self.by_label[label], index, total) for label in dict.fromkeys(labels)}, labels)


@dataclass(eq=False)
class Problem:
    """What is trained: everything that the request names, opened and tried."""

    request: AlignRequest
    method: Callable[..., Iterator[Update]]
    values: Mapping[str, Any]
    base: Any
    flow: Any
    labels: Sequence[str | None]  # classes, or None alone
    rewards: Mapping[
        str | None, Mapping[str, Reward]
    ]  # by class, then by name; the first is the one that is trained on
    held_out: Sequence[str]
    device: torch.device
    guided: bool

    @property
    def trained(self) -> str:
        return next(name for name in next(iter(self.rewards.values())) if name not in self.held_out)

    @property
    def group(self) -> int:
        return int(self.values.get("group", 1))

    def bound(self, flow: Any, labels: Sequence[str | None]) -> Any:
        """A prior, told what each row shows."""
        if models.is_pipeline(self.request.prior):
            return flow  # a prompt for all rows, bound when it was opened
        # not guided unless it is asked for, as in steering: the law that is trained is the prior's
        plain = self.request.scale == 1 and self.request.guidance is None
        rule = None if plain else guidance_of(self.request)
        return conditioned(flow, labels, self.request.prompt, self.request.numbers, rule)

    @property
    def told(self) -> bool:
        return bool(self.request.classes or self.request.prompt is not None or self.request.numbers)

    def reward(self, name: str, labels: Sequence[str | None]) -> Reward:
        return ByRow({label: self.rewards[label][name] for label in dict.fromkeys(labels)}, labels)

    def classes(self, update: int, rows: int) -> list[str | None]:
        """Of the rows of an update: group by group in turn, so that all classes come as often."""
        first = update * (rows // self.group)
        return [self.labels[(first + i // self.group) % len(self.labels)] for i in range(rows)]


def align(request: AlignRequest) -> Run[Path]:
    """Trains, or goes on training; returns the file of the adapter.

    Raises:
        BadInput: anything wrong with what was asked for; nothing is written then.
        Stopped: all is saved.
        Diverged: the adapter is that of the last healthy check, and the checkpoint as before the update.
    """
    problem = yield from _prepared(request)
    request = problem.request
    out = request.out or Path("runs") / f"{prior_name(request.prior)}-{request.method}"
    story = _story(problem)
    resuming = going_on(out, story)
    state = _state(problem)
    if resuming:
        state.restore(out / "checkpoint.safetensors")
    (out / "samples").mkdir(parents=True, exist_ok=True)
    write_json(out / "run.json", story)
    yield from _trained(problem, state, out)
    return out / "adapter.safetensors"


def _prepared(request: AlignRequest) -> Run[Problem]:
    if not request.reward:
        names = ", ".join(f.__name__ for f in BUILDERS)
        raise BadInput(
            f"--reward is missing: what the pictures are trained towards, one of {names}, or FILE.py:FUNCTION"
        )
    devices.exactly(request.threads or torch.get_num_threads())
    device = devices.to_device(request.device)
    method = pick("method", request.method, tune.ALL)
    own = {"group": _group(request.rows)} if "group" in options(method) else {}
    values = bind(method, own | dict(request.method_options))
    if taken := [name for name in OWN if name in values]:
        raise BadInput(f"--{taken[0]} is set by the run itself; leave it out")
    group = values.get("group", 1)
    if "group" in options(method) and (group < 2 or request.rows % group):
        raise BadInput(
            f"--rows {request.rows}: {request.method} compares pictures in groups of --group {group}, which must divide it"
        )
    terms, beside = (
        [scores.term(text) for text in request.reward],
        [scores.term(text, "held-out") for text in request.held_out],
    )
    pipeline = models.is_pipeline(request.prior)
    base: Any
    if pipeline:
        request = request.changed(device=str(device))
        request = request.changed(**models.settled(request))
        base = models.told((yield from models.opened(request, size=size_of(request.size))), request)
    else:
        check_flow(request.prior)
        base = priors.bundled.load(request.prior, str(device))
    classes = tuple(getattr(base, "about", {}).get("classes", ()))
    labels: Sequence[str | None] = list(dict.fromkeys(request.classes)) or [None]
    subject = Subject(request.prompt, None, classes, request.reward_device or str(device))
    trained = " + ".join(each.text for each in terms)
    made: dict[str | None, dict[str, Reward]] = {}
    for label in labels:
        told = subject._replace(label=label)
        made[label] = {trained: Saved(scores.summed([(each.weight, each.make(told)) for each in terms]))}
        for each in beside:
            if each.text in made[label]:
                raise BadInput(f"--held-out {each.text} is what is trained on; hold out another")
            made[label][each.text] = Saved(scores.summed([(each.weight, each.make(told))]))
    flow = base.with_lora(request.rank, request.targets or None)
    problem = Problem(request, method, values, base, flow, labels, made, [each.text for each in beside], device, False)
    bound = problem.bound(base, labels)  # what is wrong with a condition is said before the long work
    problem.guided = getattr(bound, "guidance", None) is not None
    _tried(problem, bound)
    return problem


def _group(rows: int) -> int:
    """The largest group of at most 24 that divides the rows into two groups or more, else all."""
    return next((size for size in range(24, 1, -1) if rows % size == 0 and rows > size), rows)


def _tried(problem: Problem, bound: Flow) -> None:
    """Scores two pictures, so that what is wrong with a reward is said at once."""
    shape = bound.shape if bound.pixels else (3, *problem.base.size)
    pictures = torch.linspace(-0.9, 0.9, 2 * shape[0] * shape[1] * shape[2]).view(2, *shape).to(problem.device)
    for name in next(iter(problem.rewards.values())):
        with torch.no_grad():
            found = problem.reward(name, [problem.labels[0]])(pictures)
        if found.shape != (2,):
            raise BadInput(f"{name}: expected one number per picture, got a tensor of shape {tuple(found.shape)}")
    if needs_gradient(problem.method):
        free = ", ".join(each.__name__ for each in tune.ALL if not needs_gradient(each))
        what = f"{problem.request.method} follows the gradient of the reward, and {problem.trained}"
        if not all(differentiable(each[problem.trained]) for each in problem.rewards.values()):
            raise BadInput(f"{what} has none; take --method {free}")
        with torch.enable_grad():
            if not problem.reward(problem.trained, [problem.labels[0]])(pictures.requires_grad_()).requires_grad:
                raise BadInput(f"{what} does not depend on the picture by it; take --method {free}")


def _state(problem: Problem) -> State:
    request, wanted = problem.request, inspect.signature(problem.method).parameters
    torch.manual_seed(request.seed)
    value = priors.field(problem.base) if "value" in wanted else None
    groups = [
        {"params": problem.flow.trained()},
        *([{"params": list(value.parameters())}] if value is not None else []),
    ]
    optimizer = torch.optim.AdamW(groups, lr=request.rate, weight_decay=1e-4)
    noise = Noise(request.seed, request.rows).named("align")
    trained = problem.flow.trained()
    return State(trained, value, optimizer, Copy(trained), Copy(trained) if "old" in wanted else None, noise)


def _trained(problem: Problem, state: State, out: Path) -> Run[None]:
    request = problem.request
    keeper = Keeper(problem, state, out)
    count = Count()
    began, saved, ended, average = time.monotonic(), time.monotonic(), "", 0.0
    if not keeper.rows:
        yield Said(f"the prior's own pictures are drawn, {request.checked} of them")
        keeper.check()
    yield Planned(
        request.updates, state.done, f"going on after update {state.done}" if state.done else f"into {near(out)}"
    )
    try:
        while state.done < request.updates and not (ended := keeper.ended()):
            before = count.rows
            labels = problem.classes(state.done, request.rows)
            told, frozen = (Counted(problem.bound(each, labels), count) for each in (problem.flow, problem.base))
            more: dict[str, Any] = dict(problem.values)
            if state.value is not None:
                more["value"] = state.value.told(*getattr(told.flow, "condition", ()))  # type: ignore[operator]
            if state.old is not None:
                more["old"] = state.old
            with unbroken():  # an update, its average and its row are whole
                update = next(
                    problem.method(
                        told, frozen, problem.reward(problem.trained, labels), state.optimizer, noise=state.noise,
                        updates=request.updates, done=state.done, **more,
                    )
                )  # fmt: skip
                state.average.follow(request.average)
                state.done, state.spent = update.index, state.spent + count.rows - before
                state.seconds, began = state.seconds + time.monotonic() - began, time.monotonic()
                average = float(update.info["reward"].mean())
                keeper.log(update)
                last = state.done == request.updates or keeper.spent()
                if state.done % request.check_every == 0 or last:
                    keeper.check(last)
                    state.save(out / "checkpoint.safetensors")
                    saved = time.monotonic()
                elif time.monotonic() - saved > 60 * request.minutes:
                    state.save(out / "checkpoint.safetensors")
                    saved = time.monotonic()
            text = f"reward {average:.4g}, diversity {keeper.rows[-1]['diversity']:.2f}, {state.spent} evaluations"
            yield Stepped(state.done, request.updates, text, figures=keeper.rows[-1])
    except (Stopped, GeneratorExit):
        state.save(out / "checkpoint.safetensors")
        raise
    except Diverged:
        state.save(out / "checkpoint.safetensors")
        keeper.card("the training diverged")
        raise
    if ended := ended or keeper.ended():
        yield Warned(
            f"stopped after update {state.done}: {ended}; the adapter is that of update {state.about.get('kept', 0)}"
        )
    keeper.card(ended)
    row = keeper.rows[-1]
    began_at, reached = keeper.rows[0][problem.trained], row[problem.trained]
    yield Said(f"reward {began_at:.4g} -> {reached:.4g}, diversity {row['diversity']:.2f} of the prior's")
    yield Said(f"wrote {near(out / 'adapter.safetensors')}; draw with: {keeper.command()}")


class Keeper:
    """Writes what a run shows of itself."""

    def __init__(self, problem: Problem, state: State, out: Path):
        self.problem, self.state, self.out = problem, state, out
        request = problem.request
        self.labels = [problem.labels[i % len(problem.labels)] for i in range(request.checked)]
        self.batch = 1 if models.is_pipeline(request.prior) else batches(problem.base, request.checked, problem.guided)
        self.rows: list[dict[str, Any]] = state.about.setdefault("rows", [])
        self.first, self.plotted = self._drawn(problem.base), time.monotonic()
        kept = [line for line in _lines(out / "log.csv") if int(line["update"]) <= state.done]
        files.put(out / "log.csv", lambda temporary: _write(temporary, kept, LOG))

    def _drawn(self, flow: Any) -> Tensor:
        numbers = [i // len(self.problem.labels) for i in range(len(self.labels))]  # those that `flowhelm sample` draws
        noise = Noise(self.problem.request.seed, numbers)
        return check.drawn(
            self.problem.bound(flow, self.labels),
            noise,
            self.problem.request.check_steps,
            self.batch,
            self.problem.device,
        )

    def log(self, update: Update) -> None:
        row = {
            "update": update.index, "reward": float(update.info["reward"].mean()), "loss": float(update.loss),
            "norm": float(update.info["norm"]), "evaluations": self.state.spent, "seconds": round(self.state.seconds, 3),
        }  # fmt: skip
        with (self.out / "log.csv").open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, LOG).writerow(row)

    @torch.no_grad()
    def check(self, last: bool = False) -> None:
        """Draws from the average, measures, writes; a healthy adapter is kept. The curves are drawn now and then, and at the last."""
        problem, state, request = self.problem, self.state, self.problem.request
        if state.done:
            with state.average.used():
                pictures = self._drawn(problem.flow)
        else:
            pictures = self.first
        names = [problem.trained, *problem.held_out]
        rewards = {name: problem.reward(name, self.labels) for name in names}
        row = check.measured(pictures, self.first, rewards, problem.device)
        self.rows.append({"update": state.done, "evaluations": state.spent, **row})
        if state.done and check.healthy(row, self.rows[0], problem.held_out, request.least_diversity):
            with state.average.used():
                adapters.save(problem.flow, self.out / "adapter.safetensors", self.about())
            state.about["kept"] = state.done
        files.put(self.out / "checks.csv", lambda temporary: _write(temporary, self.rows, list(self.rows[0])))
        if last or self.ended() or time.monotonic() - self.plotted > 20:
            kept = state.about.get("kept")
            curves = reward_curves(self.rows, problem.trained, problem.held_out, kept)
            files.put_picture(self.out / "curves.png", curves)
            self.plotted = time.monotonic()
        order = sorted(range(min(SHOWN, len(pictures))), key=lambda i: (problem.labels.index(self.labels[i]), i))
        files.put_picture(self.out / "samples" / f"{state.done:07d}.png", sheet([("", pictures[order])]))

    def spent(self) -> bool:
        budget = self.problem.request.budget
        return budget is not None and self.state.spent >= budget

    def ended(self) -> str:
        """Why it ends before its last update."""
        request = self.problem.request
        if found := check.verdict(self.rows, self.problem.held_out, request.least_diversity, request.patience):
            return found
        return f"the budget of {request.budget} evaluations is spent" if self.spent() else ""

    def about(self) -> dict[str, Any]:
        request, row = self.problem.request, self.rows[-1]
        return {
            "method": request.method, "reward": request.reward, "updates": self.state.done, "flowhelm": __version__,
            "reached": row[self.problem.trained], "diversity": row["diversity"],
        }  # fmt: skip

    def command(self) -> str:
        """That draws with the adapter."""
        request = self.problem.request
        words = ["flowhelm", "sample", request.prior, *(f"--class '{name}'" for name in request.classes)]
        words += [f"--prompt '{request.prompt}'"] if request.prompt else []
        told = self.problem.told and not models.is_pipeline(request.prior)
        scale = request.scale if request.scale is not None else 1 if told and request.guidance is None else None
        words += [f"--scale {scale:g}"] if scale is not None else []
        words += ["--solver euler"] if not models.is_pipeline(request.prior) else []  # as the checks draw
        return " ".join([*words, "--adapter", near(self.out / "adapter.safetensors")])

    def card(self, ended: str) -> None:
        request, first = self.problem.request, self.rows[0]
        last = next((r for r in self.rows if r["update"] == self.state.about.get("kept")), first)
        shown = [self.problem.trained, *self.problem.held_out, "diversity", "frechet", "dark", "edges", "saturation"]
        lines = [
            f"# {prior_name(request.prior)} towards {self.problem.trained}", "",
            f"A LoRA adapter of rank {request.rank} for the prior `{Path(request.prior).name}`, trained by",
            card(self.problem.method).partition("\n")[0],
            "", f"    {self.command()}", "",
            f"| of {request.checked} pictures, the same seeds | the prior | update {last['update']} |", "| --- | --- | --- |",
            *(f"| {name} | {first[name]:.4g} | {last[name]:.4g} |" for name in shown), "",
            f"{self.state.done} updates of {request.rows} pictures, {self.state.spent} evaluations, {self.state.seconds:.0f} s.",
            *([f"It ended early: {ended}."] if ended else []),
            "", "Everything needed to run it again stands in run.json; the licence is that of the prior.", "",
        ]  # fmt: skip
        files.put(self.out / "README.md", lambda temporary: temporary.write_text("\n".join(lines), encoding="utf-8"))


LOG = ["update", "reward", "loss", "norm", "evaluations", "seconds"]


def _lines(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row.get("seconds") and (row["update"] or "").isdigit()]


def _write(path: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def _story(problem: Problem) -> dict[str, Any]:
    """What makes a run the same run; files by what is in them. More updates, another budget or place do not make it another."""
    request = problem.request
    free = {
        "out",
        "updates",
        "budget",
        "minutes",
        "device",
        "reward_device",
        "threads",
        "method_options",
        "patience",
        "least_diversity",
    }
    terms = [scores.term(text) for text in (*request.reward, *request.held_out)]
    asked = request.model_dump(mode="json", exclude=free)
    settings = asked | {"method_options": _plain(problem), "prior": models.where(request.prior)}
    return {"settings": settings, "inputs": scores.fingerprints(terms) | provenance.weights(request)}


def _plain(problem: Problem) -> dict[str, Any]:
    from ..options.signature import plain

    return {
        name: value for name, value in plain(problem.method, problem.request.method_options).items() if name not in OWN
    }
