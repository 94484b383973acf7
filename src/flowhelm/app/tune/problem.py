"""What a fine-tuning trains: everything that a request names, opened and tried before the long work."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import priors, tune
from ...cards import needs_gradient
from ...flow import Flow
from ...learning import Copy
from ...learning.together import place
from ...rng import Noise
from ...step import Reward, Update, rows_of
from ..draw.conditions import conditioned, guidance_of
from ..errors import BadInput
from ..models import device as devices
from ..models import opening as models
from ..models import provenance
from ..models.request import check_flow, size_of
from ..options.signature import bind, options, pick, plain
from ..run import Run
from ..steer import rewards as scores
from ..steer.builders import BUILDERS, Subject
from ..steer.scored import Saved, check_reward
from .request import AlignRequest
from .state import State

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


def prepared(request: AlignRequest) -> Run[Problem]:
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
    if request.rows % (place()[1] * group):
        whole = f"whole groups of --group {group}" if group > 1 else "as many pictures"
        raise BadInput(
            f"--rows {request.rows}: each of the {place()[1]} processes takes {whole}; choose a multiple of {place()[1] * group}"
        )
    terms = [scores.term(text) for text in request.reward]
    beside = [scores.term(text, "held-out") for text in request.held_out]
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
    made = problem.rewards[problem.labels[0]]
    follows = f"{problem.request.method} follows the gradient of the reward, and {problem.trained}"
    free = ", ".join(each.__name__ for each in tune.ALL if not needs_gradient(each))
    check_reward(
        [made[name] for name in (problem.trained, *problem.held_out)], shape, str(problem.device),
        follows * needs_gradient(problem.method), f"take --method {free}",
    )  # fmt: skip


def begun(problem: Problem) -> State:
    request, wanted = problem.request, inspect.signature(problem.method).parameters
    torch.manual_seed(request.seed)
    value = priors.field(problem.base) if "value" in wanted else None
    groups = [{"params": problem.flow.trained()}]
    groups += [{"params": list(value.parameters())}] if value is not None else []
    optimizer = torch.optim.AdamW(groups, lr=request.rate, weight_decay=1e-4)
    noise = Noise(request.seed, request.rows).named("align")
    trained = problem.flow.trained()
    return State(trained, value, optimizer, Copy(trained), Copy(trained) if "old" in wanted else None, noise)


def story_of(problem: Problem) -> dict[str, Any]:
    """What makes a run the same run; files by what is in them. More updates, another budget or place do not make it another."""
    request = problem.request
    free = {"out", "tensorboard", "updates", "budget", "minutes", "device", "reward_device", "threads"}
    free |= {"method_options", "patience", "least_diversity"}
    terms = [scores.term(text) for text in (*request.reward, *request.held_out)]
    asked = request.model_dump(mode="json", exclude=free)
    given = plain(problem.method, request.method_options)
    settings = asked | {"method_options": {name: value for name, value in given.items() if name not in OWN}}
    settings["prior"] = models.where(request.prior)
    return {"settings": settings, "inputs": scores.fingerprints(terms) | provenance.weights(request)}
