"""`flowhelm presets search`: a method's few strengths, searched for on pictures that are held apart, into a preset file."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args, get_origin

import torch

from ... import __version__
from ...app.errors import BadInput, nearest
from ...app.files import atomic as files
from ...app.files.atomic import check_writable
from ...app.files.dataset import Pictures
from ...app.models import opening
from ...app.options import own
from ...app.options.request import Plain
from ...app.options.signature import options, plain
from ...app.options.words import Worded, worded
from ...app.restore.presets import Preset, add, read, settings
from ...app.run import Planned, Run, Said, Stepped, Written
from ...cards import METHODS
from ...priors.bundled import Prior
from . import runner
from .command import STEPS, entry, own_task, pictures_for, prior_for, tasks_of
from .protocols import Task
from .request import SearchRequest

WORST = {"psnr": 0.0, "ssim": -1.0}
"""Scores that no picture falls below: what a failing trial gets."""


class Range(NamedTuple):
    """Where an option is searched: numbers from low to high, or one of `choices`."""

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[str, ...] = ()

    def __contains__(self, value: object) -> bool:
        if self.choices:
            return str(value) in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high

    @property
    def words(self) -> str:
        if self.choices:
            return "|".join(self.choices)
        return f"{self.low:g}:{self.high:g}" + ":log" * self.log


def search(request: SearchRequest, command: str = "") -> Run[list[Preset]]:
    """Searches, and adds what it finds to the preset file; the same request goes on where it was stopped.

    Args:
        command: what was typed, for the preset file.
    """
    optuna = _optuna()
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    check_writable(request.out.absolute().parent)
    if request.out.exists():
        read(request.out)  # what stands there is kept: better refused before the search than after it
    flow = prior_for(request.prior, request.size, request.device)
    if request.operator is None:
        tasks = [each for _, some in tasks_of(request.protocol, request.task, flow.shape) for each in some]
    else:
        tasks = [own_task(request.operator, request.std)]
    taken = pictures_for(request, flow, request.device)
    weights = files.sha256(opening.weights(request.prior))
    made = []
    for each in tasks:
        for text in request.method:
            chosen = worded("method", text, METHODS)
            cells = list(
                runner.cells(
                    flow, [each], taken, [request.seed], request.batch, {"prior": opening.name_of(flow, request.prior)}
                )
            )
            ranges = ranges_of(chosen, request.vary, each.std)
            known = {
                "steps": request.steps or _steps(chosen, each, flow, cells[0], request.evaluations),
                "vary": {name: r.words for name, r in ranges.items()},
                "score": request.score,
                "seed": request.seed,
                "weights": weights,
                "flowhelm": __version__,
                "command": command,
                **_of(taken),
            }
            found = yield from _search(optuna, chosen, each, cells, ranges, known, request)
            made.append(_preset(chosen, each, cells[0].about["prior"], known, found))
            add(request.out, made[-1:])
            yield Said(
                f"{own.short(own.name_of(chosen.function))}, {each.operator}, noise {each.std:g}: {request.score} {found['best']:.3f} with "
                f"{found['options']}, {found['default']:.3f} with the defaults"
            )
    yield Written([request.out])
    return made


def ranges_of(chosen: Worded, vary: Sequence[str], std: float) -> dict[str, Range]:
    """Where options are searched: as `vary` says, else every positive number that is not given, a tenth to ten times its default.

    A strength is searched around 1 / std^2.
    """
    function, known = chosen.function, options(chosen.function)
    if vary:
        return dict(_range(function, text) for text in vary)
    found = {}
    for option in known.values():
        value = option.default
        if option.name in chosen.given or float not in option.types or not isinstance(value, float) or not value > 0:
            continue
        middle = 1 / std**2 if option.name == "strength" else value
        found[option.name] = Range(min(middle / 10, value), max(middle * 10, value), log=True)
    if not found:
        raise BadInput(f"{function.__name__} has no positive number to search for; say with --vary NAME=LOW:HIGH[:log]")
    return found


def _range(function: Callable[..., Any], text: str) -> tuple[str, Range]:
    name, _, values = text.partition("=")
    known = options(function)
    if name not in known:
        raise BadInput(f"--vary: {function.__name__} has no option {name!r}; {nearest(name, known)}")
    kinds = known[name].types
    numbers = re.fullmatch(r"([^:|]+):([^:|]+)(:log)?", values)
    try:
        if numbers and (float in kinds or int in kinds):
            low, high = float(numbers[1]), float(numbers[2])
            found = Range(low, high, bool(numbers[3]), float not in kinds)
            if low < high < math.inf and (low > 0 or not found.log):
                return name, found
        elif "|" in values:
            return name, Range(choices=tuple(values.split("|")))
    except ValueError:
        pass
    allowed = next((get_args(k) for k in kinds if get_origin(k) is Literal), ())
    form = "|".join(map(str, allowed)) if allowed else "LOW:HIGH[:log] with LOW below HIGH, or A|B"
    raise BadInput(f"--vary {name}: expected {name}={form}, got {text!r}")


def _search(
    optuna: ModuleType,
    chosen: Worded,
    task: Task,
    cells: Sequence[runner.Cell],
    ranges: Mapping[str, Range],
    known: Mapping[str, Any],
    request: SearchRequest,
) -> Run[dict[str, Any]]:
    """Trials up to so many: the first is the default, the second what is taken today. Those of an interrupted search count."""
    trials, journal = request.trials, str(request.out.with_name(request.out.name + ".journal"))
    purpose = {k: v for k, v in known.items() if k != "command"}
    purpose |= {
        "method": own.name_of(chosen.function),
        "given": dict(chosen.given),
        "operator": task.operator,
        "std": task.std,
    }
    purpose |= own.fingerprints((("method", purpose["method"]), ("operator", own.name_of(task.builder))))
    name = hashlib.sha256(json.dumps(purpose, sort_keys=True).encode()).hexdigest()[:16]
    try:
        backend = optuna.storages.journal.JournalFileBackend(journal)
        list(backend.read_logs(0))  # a storage would write into any file before it reads
        storage = optuna.storages.JournalStorage(backend)
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{journal!r} is not the journal of a search ({error}); delete it to begin anew") from error
    default = {o.name: o.default for o in options(chosen.function).values()} | dict(chosen.given)
    usual = {name: _named(default[name]) for name in ranges}
    of = {name: _distribution(optuna, r) for name, r in ranges.items()}
    if "default" not in study.user_attrs:
        tried = [(usual, _score(chosen, {}, task, cells, known))]
        today = usual | _today(chosen, task, cells, ranges)
        if trials > 1 and today != usual and all(today[name] in r for name, r in ranges.items()):
            tried.append((today, _score(chosen, today, task, cells, known)))
        study.set_user_attr("default", tried[0][1])  # after both: a search that is stopped here begins anew
        for values, worth in tried:
            if all(values[name] in r for name, r in ranges.items()):
                study.add_trial(optuna.trial.create_trial(params=values, distributions=of, value=worth))
    done, begun, failed = (getattr(optuna.trial.TrialState, name) for name in ("COMPLETE", "RUNNING", "FAIL"))
    for trial in study.get_trials(deepcopy=False, states=(begun,)):  # left by an interrupted search
        study.tell(trial.number, state=failed)
    first = len(study.get_trials(deepcopy=False, states=(done,)))
    yield Planned(trials, min(first, trials), "searching")
    for number in range(first, trials):
        # a sampler of its own for each trial: an interrupted search goes on as it would have
        study.sampler = optuna.samplers.TPESampler(seed=known["seed"] + 1000 * number)
        trial = study.ask(of)
        value = _score(chosen, trial.params, task, cells, known)
        study.tell(trial, value)
        told = f"{chosen.function.__name__} {task.name}: {known['score']} {study.best_value:.3f}"
        yield Stepped(number + 1, trials, told)
    best = study.best_trial
    better = best.value > study.user_attrs["default"]
    return {
        "default": study.user_attrs["default"],
        "best": best.value if better else study.user_attrs["default"],
        "options": _rounded(best.params) if better else {},
        "trials": len(study.get_trials(deepcopy=False, states=(done,))),
    }


def _today(
    chosen: Worded, task: Task, cells: Sequence[runner.Cell], ranges: Mapping[str, Range]
) -> dict[str, bool | int | float | str]:
    """Of the options that are searched, what the shipped presets say: a search should not end with less than is there already."""
    method, operator = own.name_of(chosen.function), own.name_of(task.builder)
    words = plain(task.builder, {k: str(v) for k, v in task.options.items()})
    found = settings(method, operator, words, task.std, cells[0].about["prior"]).options
    return {name: _named(value) for name, value in found.items() if name in ranges}


def _score(
    chosen: Worded,
    values: Mapping[str, Any],
    task: Task,
    cells: Sequence[runner.Cell],
    known: Mapping[str, Any],
) -> float:
    """The mean over the pictures; the worst there is for a picture that fails."""
    tried = chosen._replace(given={**chosen.given, **_rounded(values)})
    try:
        made = entry(tried, "trial", task, "", None, known["steps"])
    except BadInput:  # a value that the method refuses
        return WORST[known["score"]]
    scores = [row.get(known["score"]) for cell in cells for row in runner.rows_of(cell, made).rows]
    return fmean(WORST[known["score"]] if s is None else s for s in scores)


def _preset(chosen: Worded, task: Task, prior: str, known: Mapping[str, Any], found: Mapping[str, Any]) -> Preset:
    values: dict[str, Any] = {name: _typed(value) for name, value in {**chosen.given, **found["options"]}.items()}
    if "strength" in values:
        values["strength"] = float(f"{values['strength'] * task.std**2:.6g}")
    return Preset(
        method=own.name_of(chosen.function),
        operator=own.name_of(task.builder),
        operator_options=plain(task.builder, {k: str(v) for k, v in task.options.items()}),
        std=task.std,
        prior=prior,
        options=values,
        steps=known["steps"],
        found={k: v for k, v in known.items() if k != "steps"} | {k: v for k, v in found.items() if k != "options"},
    )


def _steps(chosen: Worded, task: Task, flow: Prior, cell: runner.Cell, evaluations: float | None) -> int:
    if evaluations is None:
        return STEPS
    made = entry(chosen, "trial", task, flow.name, None, None)
    return runner.steps_of_budget(cell, made, evaluations=evaluations, seconds=None)


def _of(taken: Pictures) -> dict[str, Any]:
    return {"pictures": list(taken.names), "data": taken.origin, "sha256": taken.sha256, "size": taken.clean.shape[-1]}


def _distribution(optuna: ModuleType, r: Range) -> Any:
    if r.choices:
        return optuna.distributions.CategoricalDistribution(r.choices)
    if r.whole:
        return optuna.distributions.IntDistribution(int(r.low), int(r.high), log=r.log)
    return optuna.distributions.FloatDistribution(r.low, r.high, log=r.log)


def _rounded(values: Mapping[str, Any]) -> dict[str, Plain]:
    """To three digits, which is what is tried: no more of a number matters, nor should a preset show more."""
    return {name: float(f"{v:.3g}") if isinstance(v, float) else v for name, v in values.items()}


def _typed(value: Plain) -> Plain:
    """A number where a word is one, so that JSON holds it as such."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return value


def _named(value: Any) -> Any:
    return value.__name__ if callable(value) else _typed(value)


def _optuna() -> ModuleType:
    try:
        import optuna
    except ImportError as error:
        raise BadInput("presets search needs optuna, which is not installed; pip install 'flowhelm[bench]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
