"""Pictures steered by a reward, as the command line makes them: settings, the run, and what it leaves behind.

Every picture is steered by itself, one after another, from streams that depend on the seed and on its number alone; its first
particle begins where `flowhelm sample` begins that picture. The best so far is on disk at any moment.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import steer, transition
from ...budget import Budget
from ...flow import Flow, Wrapped
from ...interfaces.cli.progress import bar
from ...path import Ends
from ...priors import bundled
from ...priors.bundled import NAMES
from ...rewards import chunked, differentiable
from ...rng import Noise
from ...step import Diverged, Reward, Step, run
from ..draw.sample import guidance_of, numbers_of
from ..errors import BadInput
from ..files import atomic as files
from ..files.pictures import check_writable, write, write_json
from ..models import opening as models
from ..models import provenance
from ..models.batches import batches
from ..options.signature import bind, pick, plain
from ..run import Stopped, signals
from ..show import contact_sheet as contact
from ..show.contact_sheet import Tile
from . import allotment as courses
from . import rewards as scores
from .record import Best, Made, leave, low, number, outputs, plain_of, remarks, result_of, single

GRADIENT = ("mpc_flow", "mpc_flow_dt", "flow_chef", "oc_flow", "flow_grad", "d_flow", "flow_opt")
"""They follow the gradient of the reward."""
WHOLE = ("best_of", "noise_search")
"""What they score are finished pictures, each of which is shown."""
SHOWN = 64
"""Particles on a contact sheet, at most."""
Say = Callable[[str], None]
Watch = Callable[[int, int, Tensor, Mapping[str, Any]], None]
"""Told after each step: turns made, how many there are, the best picture `(c, h, w)`, the line of its trace. May raise `Stopped`."""


class Over(Exception):
    """The budget is spent."""


@dataclass
class Tally:
    limit: float
    spent: int = 0


@dataclass(frozen=True, eq=False)
class Held(Wrapped):
    """A flow that works on at most `size` rows at a time, and ends a run rather than exceed its budget."""

    flow: Flow
    size: int
    tally: Tally

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        if self.tally.spent + len(x) > self.tally.limit:
            raise Over
        self.tally.spent += len(x)
        if len(x) <= self.size:
            return self.flow.velocity(x, t)
        indices = torch.arange(len(x)).split(self.size)
        parts = zip(indices, x.split(self.size), strict=True)
        return torch.cat(
            [
                self.flow.rows(index, len(x)).velocity(rows, t if t.ndim == 0 else t[index.to(t.device)])
                for index, rows in parts
            ]
        )

    def decode(self, clean: Tensor) -> Tensor:
        return torch.cat([self.flow.decode(rows) for rows in clean.split(self.size)])


# --- settings ---


def settle(
    prior: str,
    *,
    method: str,
    given: Mapping[str, Any],
    reward: Sequence[str],
    held_out: Sequence[str] = (),
    budget: int | None = None,
    steps: int | None = None,
    chains: int | None = None,
    classes: Sequence[str] = (),
    prompt: str | None = None,
    numbers: Sequence[str] = (),
    scale: float | None = None,
    guidance: str | None = None,
    size: str | None = None,
    count: int = 1,
    seed: int = 0,
    batch: int | None = None,
    out: Path | None = None,
    device: str = "cpu",
    reward_device: str | None = None,
    threads: int | None = None,
    model: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Settings, checked as far as possible without opening the prior; what the budget chooses is added by `start`.

    Args:
        given: options of the method as they were typed. model: of a pipeline, by the names of `models.settled`.
    """
    if not reward:
        names = ", ".join(f.__name__ for f in scores.BUILDERS)
        raise BadInput(
            f"--reward is missing: what the pictures are steered by, one of {names}, or FILE.py:FUNCTION of your own"
        )
    chosen = pick("method", method, steer.ALL)
    bind(chosen, given)  # says at once what does not fit
    terms = [scores.term(text) for text in reward]
    beside = [scores.term(text, "held-out") for text in held_out]
    for listed, flag in ((terms, "reward"), (beside, "held-out")):
        twice = [a.label for a, b in itertools.combinations(listed, 2) if a.label == b.label]
        if twice:
            raise BadInput(f"--{flag} {twice[0]} is given twice; give it once, with a weight")
    if chosen.__name__ in ("svdd", "rbf") and str(given.get("transition", "")) in ("euler", "midpoint", "heun"):
        raise BadInput(
            f"{chosen.__name__} with --transition {given['transition']}: all draws would be the same; take a random move, "
            "such as ancestral or glass"
        )
    pipeline = models.is_pipeline(prior)
    if pipeline:
        if classes or numbers:
            raise BadInput(f"--{'class' if classes else 'number'} is for bundled priors; say it in the --prompt")
        opening = models.settled(prior, device=device, prompt=prompt, scale=scale, **(model or {}))
    else:
        opening = models.settled(prior, device=device, **(model or {})) | {"prompt": prompt, "scale": scale}
        if size is not None:
            raise BadInput(f"--size is for pipelines of diffusers; the prior {prior!r} has its own")
    guidance_of(guidance, scale)
    if size is not None:
        models.size_of(size)
    where, judge = str(files.to_device(device)), str(files.to_device(reward_device or device))
    name = prior_name(prior)
    stem = Path(f"{name}.steered") if out is None else out / f"{name}.steered" if out.is_dir() else out
    stem = stem.with_suffix("") if stem.suffix.lower() == ".png" else stem
    check_writable(stem.parent)
    return {
        "prior": str(Path(prior).absolute()) if prior not in NAMES and Path(prior).exists() else prior,
        "method": chosen.__name__,
        "method_options": dict(given),
        "reward": [each.text for each in terms],
        "held_out": [each.text for each in beside],
        "budget": budget,
        "steps": steps,
        "chains": chains,
        "classes": list(dict.fromkeys(classes)),
        "numbers": numbers_of(numbers),
        "guidance": guidance,
        "size": size,
        "count": count,
        "seed": seed,
        "batch": batch,
        "out": str(stem.absolute()),
        "threads": threads or torch.get_num_threads(),
        "reward_device": judge,
        **opening,
        "device": where,
    }


def prior_name(prior: str) -> str:
    if models.is_pipeline(prior):
        return Path(prior).resolve().name if Path(prior).is_dir() else prior.rpartition("/")[2]
    return Path(prior).stem


# --- the run ---


class Built(NamedTuple):
    """What is optimised, its terms alone if that is not the same, and what is only looked at."""

    total: scores.Saved
    parts: Mapping[str, Reward]
    beside: Mapping[str, Reward]


@dataclass(frozen=True, eq=False)
class Problem:
    """What is run: everything that the settings name, opened."""

    flow: Any
    method: Callable[..., Iterator[Step]]
    options: Mapping[str, Any]  # values of the method's options
    terms: Sequence[scores.Term]
    beside: Sequence[scores.Term]
    built: Callable[[str | None], Built]  # for pictures of a class
    rows: int
    chains: int
    limit: float  # evaluations of one chain
    batch: int
    turns: int


def start(settings: Mapping[str, Any], say: Say = print, watch: Watch | None = None) -> dict[str, Any]:
    """Steers every picture and writes what came of it; returns what stands in the JSON file.

    Raises:
        BadInput: anything wrong with the settings, before the long work.
        Stopped: by a signal; what there is was written.
    """
    problem, settings, line = prepare(settings, say)
    if models.is_pipeline(settings["prior"]):
        models.hint(settings, say)
    say(line)
    paths = outputs(Path(settings["out"]))
    story = {
        "kind": "steer",
        "settings": settings,
        "inputs": _inputs(settings, problem),
        "environment": provenance.environment(settings, ("numpy", "Pillow", "diffusers", "transformers")),
    }
    made: list[Made] = []
    jobs = _jobs(settings)
    with signals():
        try:
            with bar(problem.turns * len(jobs)) as tell:
                for i, job in enumerate(jobs):
                    made.append(Made(*job))
                    _steered(problem, settings, made, i, paths, tell, watch)
                    if i + 1 < len(jobs):  # at the end all is written
                        write_json(paths["run"], story | {"result": result_of(made, "running")})
        except (Stopped, RuntimeError, ValueError) as error:
            state = {Stopped: "stopped", Diverged: "diverged"}.get(type(error), "failed")
            if any(each.best is not None for each in made):
                leave(made, story, state, paths, settings, say)
            else:
                say(f"{state} before the first step; nothing was written")
            raise
        found = leave(made, story, "finished", paths, settings, say)
    remarks(made, settings, say)
    return found


def rerun(path: Path, old: Mapping[str, Any], say: Say = print) -> bool:
    """Steers again what a JSON file describes; True if the pictures are the same to the bit. Writes to NAME.rerun beside it."""
    if old["result"]["state"] != "finished":
        raise BadInput(f"{str(path)!r} is of a run that was {old['result']['state']}; there is nothing to compare with")
    out = path.with_name(f"{path.name.removesuffix('.run.json')}.rerun")
    new = start({**old["settings"], "out": str(out.absolute())}, say=lambda line: None)
    before, after = ([each["sha256"] for each in run["result"]["pictures"]] for run in (old, new))
    if before == after:
        for written in [
            *outputs(out).values(),
            *(single(outputs(out), each["name"]) for each in new["result"]["pictures"]),
        ]:
            written.unlink(missing_ok=True)
        say("identical to the bit")
        return True
    say(f"not identical: {outputs(out)['best']} is what came out now")
    for line in provenance.changes(old, new):
        say(f"  {line}")
    return False


def prepare(settings: Mapping[str, Any], say: Say) -> tuple[Problem, dict[str, Any], str]:
    """Opens all, settles what the budget buys, tries the reward out; the settings completed, and a line that says what is run."""
    torch.set_num_threads(settings["threads"])
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    flow = _opened(settings, say)
    for label in settings["classes"] or [None]:  # what is wrong with a condition is said before the long work
        _told(flow, settings, label)
    method = pick("method", settings["method"], steer.ALL)
    given, pipeline = settings["method_options"], models.is_pipeline(settings["prior"])
    course, budget = courses.settle(
        method, given, flow, budget=settings["budget"], steps=settings["steps"], chains=settings["chains"],
        long=models.STEPS if pipeline else courses.LONG, edit=_begun,
    )  # fmt: skip
    given = dict(given) if course.name == "chains" else {**given, course.name: course.width}
    chains = course.width if course.name == "chains" else settings["chains"] or 1
    complete = dict(settings) | {
        "budget": budget, "steps": course.steps, "chains": chains, "method_options": plain(method, given),
        "times": flow.times(course.steps).tolist(),
    }  # fmt: skip
    guided = getattr(_told(flow, settings, next(iter(settings["classes"]), None)), "guidance", None) is not None
    batch = settings["batch"] or (1 if pipeline else batches(flow, 10**9, guided))
    terms, beside = ([scores.term(text, flag) for text in settings[part]] for part, flag in _PARTS)
    values, known = bind(method, given), tuple(getattr(flow, "about", {}).get("classes", ()))
    told = scores.Told(settings["prompt"], None, known, settings["reward_device"])
    built = lru_cache(1)(lambda label: _built(terms, beside, told._replace(label=label)))  # models are loaded once
    problem = Problem(
        flow, method, _begun(values), terms, beside, built, chains * values.get("particles", 1), chains,
        math.inf if budget is None else budget // chains, batch, course.turns,
    )  # fmt: skip
    _tried(problem, settings)
    spent = f"{course.evaluations}" + (f" of {budget}" if budget is not None else "")
    width = f"{course.width} {course.name}" if course.name != "chains" else f"{chains} chain" + "s" * (chains > 1)
    if course.name != "chains" and chains > 1:
        width += f" in each of {chains} chains"
    line = f"{settings['method']}: {course.steps} steps, {width}; at most {spent} evaluations per picture"
    return problem, complete, line


_PARTS = (("reward", "reward"), ("held_out", "held-out"))


def _opened(settings: Mapping[str, Any], say: Say) -> Any:
    if models.is_pipeline(settings["prior"]):
        size = settings["size"] and models.size_of(settings["size"])
        # the least that it takes: one particle, and a reward of no memory
        options = {name: value for name, value in settings["method_options"].items() if name != "particles"}
        work = models.Work(settings["method"], size, settings["steps"] or models.STEPS, options)
        return models.opened(settings["prior"], settings, size=size, work=work, say=say)
    return bundled.load(settings["prior"], settings["device"])


def _told(flow: Any, settings: Mapping[str, Any], label: str | None) -> Any:
    """The prior, told what the pictures show; one row, which all particles share."""
    guidance, scale = settings["guidance"], settings["scale"]
    if models.is_pipeline(settings["prior"]):
        return models.told(flow, settings, guidance=guidance_of(guidance, scale) if guidance else None)
    rule, prompt, numbers = guidance_of(guidance, scale), settings["prompt"], settings["numbers"]
    if label is None and prompt is None and not numbers:
        if rule is not None:
            raise BadInput(f"guidance of prior '{flow.name}': expected a class, a prompt or a number, got none")
        return flow
    return flow.told(
        None if label is None else [label],
        prompts=None if prompt is None else [prompt],
        numbers=[numbers] if numbers else None,
        guidance=rule,
    )


def _jobs(settings: Mapping[str, Any]) -> list[tuple[str, str | None, int]]:
    """(name, class, number) of every picture."""
    name, labels = prior_name(settings["prior"]), settings["classes"] or [None]
    return [
        (f"{'_'.join((label or name).split())}-{i:03d}", label, i) for label in labels for i in range(settings["count"])
    ]


def _built(terms: Sequence[scores.Term], beside: Sequence[scores.Term], told: scores.Told) -> Built:
    made = [(each, each.make(told)) for each in terms]
    shared = {each.label: reward for each, reward in made}
    total = scores.Saved(scores.summed([(each.weight, reward) for each, reward in made]))
    alone = len(terms) == 1 and terms[0].weight == 1
    parts = {} if alone else {each.label: scores.Saved(reward) for each, reward in made}
    others = {each.text: [(each.weight, shared.get(each.label) or each.make(told))] for each in beside}
    return Built(total, parts, {name: scores.Saved(scores.summed(pairs)) for name, pairs in others.items()})


def _tried(problem: Problem, settings: Mapping[str, Any]) -> None:
    """Scores two pictures, so that what is wrong with a reward is said at once."""
    flow = problem.flow
    pixels = flow.shape if flow.pixels else (3, *flow.size)
    ramp = torch.linspace(-0.9, 0.9, math.prod(pixels), device=settings["device"]).view(1, *pixels)
    pictures = torch.cat([ramp, ramp.flip(-1)])
    follows = problem.method.__name__ in GRADIENT or problem.options.get("proposal", "prior") != "prior"
    reward, _, others = problem.built(next(iter(settings["classes"]), None))
    tried: list[Reward] = [reward, *others.values()]
    with torch.no_grad():
        for each in tried:
            score = each(pictures)
            if score.shape != (2,):
                raise BadInput(f"--reward: expected one number per picture, got a tensor of shape {tuple(score.shape)}")
    if follows:
        told = f"{problem.method.__name__} follows the gradient of the reward"
        remedy = "take fk, svdd, rbf, best_of, path_search or noise_search, without a --proposal"
        if not differentiable(reward):
            raise BadInput(f"{told}, and {' + '.join(t.label for t in problem.terms)} has none; {remedy}")
        pictures = pictures.requires_grad_()
        with torch.enable_grad():
            score = reward(pictures)
        if not score.requires_grad:
            raise BadInput(f"{told}, and {' + '.join(t.label for t in problem.terms)} does not depend on it; {remedy}")


@torch.no_grad()
def _steered(
    problem: Problem,
    settings: Mapping[str, Any],
    all_made: Sequence[Made],
    index: int,
    paths: Mapping[str, Path],
    tell: Callable[[int, str], None],
    watch: Watch | None = None,
) -> None:
    """Steers picture `index`, and keeps the best so far on disk."""
    made, who = all_made[index], problem.method.__name__
    others = [each for each in all_made[:index] if each.best is not None]
    rank = max((each.best.rank for each in others if each.best is not None), default=(False, -math.inf))
    tally, began = Tally(problem.limit * problem.chains), time.monotonic()
    flow = Held(_told(problem.flow, settings, made.label), problem.batch, tally)
    built, gallery = problem.built(made.label), Gallery()
    scored = replace(built.total, seen=gallery.add) if who in WHOLE else built.total
    reward: Reward = chunked(scored, problem.batch)
    noise = streams(settings["seed"], made.number, problem.rows)
    device = settings["device"]
    x = flow.source(noise).to(device)
    times = torch.tensor(settings["times"], dtype=torch.float64)
    # what is fixed was settled to fit, to the last evaluation; a method that asks would keep some back for what it cannot know
    ledger = Budget(evaluations=problem.limit) if who in courses.ASKS else Budget()
    options = dict(problem.options)
    asked: Flow = flow
    if courses.takes_budget(problem.method):
        options["budget"] = ledger
    else:
        asked, reward = ledger.watch(flow, reward, problem.chains)
    last: Step | None = None

    def each(step: Step) -> None:
        nonlocal last
        last = step
        values = _values(who, step, flow, built.total)
        row = int(values.nan_to_num(-math.inf).argmax())
        finished = bool(step.t == times[-1])
        best, value = made.best, float(values[row])
        if best is None or not best.finished or value > best.reward:
            picture = flow.decode(step.clean[row : row + 1])
            seen = {name: float(score(picture)) for name, score in built.beside.items()}
            best = Best(picture[0].float().cpu(), value if math.isfinite(value) else -math.inf, finished, seen)
        line = _line(step, ledger, best, values, finished)
        if best is not made.best:
            if best.rank >= rank:
                write(paths["best"], best.picture)
            if len(all_made) > 1 or settings["count"] * len(settings["classes"] or [0]) > 1:
                write(single(paths, made.name), best.picture)
        made.best = best
        made.trace.append(line)
        made.seconds = time.monotonic() - began
        done = index * problem.turns + step.index
        tell(done, f"{'reward' if best.finished else 'estimate'} {best.reward:.4g}")
        if watch is not None:
            watch(done, problem.turns * len(all_made), best.picture, {**line, "name": made.name})

    try:
        run(problem.method(asked, reward, x, times, noise=noise, **options), each)
    except Over:
        if last is None:
            raise BadInput(
                f"--budget {settings['budget']}: {who} made no step for it; give a larger --budget"
            ) from None
        made.cut = True
    made.seconds = time.monotonic() - began
    assert last is not None
    assert made.best is not None
    _shown(made, last, flow, built, gallery, who)


def streams(seed: int, number: int, rows: int) -> Noise:
    """The first of a picture is that of `flowhelm sample`; the others are its children."""
    return Noise(seed, [(number,), *((number, "child", i) for i in range(1, rows))])


class Gallery:
    """Finished pictures as they are scored, the best of them: thumbnails and scores."""

    def __init__(self) -> None:
        self.kept: list[tuple[float, contact.Image.Image]] = []

    def add(self, image: Tensor, score: Tensor) -> None:
        pairs = zip(score.detach().double().cpu().tolist(), image.detach().float().cpu(), strict=True)
        self.kept += [(value, contact.small(picture)) for value, picture in pairs]
        while len(self.kept) > SHOWN:
            worst = min(range(len(self.kept)), key=lambda i: low(self.kept[i][0]))
            del self.kept[worst]


def _values(who: str, step: Step, flow: Flow, total: Reward) -> Tensor:
    """Rewards of the rows: the method's own where it tells those of the pictures that it shows, else asked for."""
    told = step.info.get("reward")
    if who not in GRADIENT and told is not None and not told.isnan().any():
        return told.double().cpu()
    with torch.no_grad():
        return total(flow.decode(step.clean)).double().cpu()


def _line(step: Step, ledger: Budget, best: Best, values: Tensor, finished: bool) -> dict[str, Any]:
    spent = {kind: int(amount.sum()) for kind, amount in ledger.spent.items()}
    found: dict[str, Any] = {"index": step.index, "of": step.total, "t": float(step.t), **spent}
    found |= {"backwards": ledger.count.backward, "finished": finished}
    found |= {"reward": number(values.max()), "mean": number(values.mean())}
    found["best"] = number(best.reward) if best.finished else None
    found["shown"] = number(best.reward)
    found |= {name: [number(v) for v in step.info[name]] for name in ("ess", "log_z") if name in step.info}
    return found | {"held_out": plain_of(best.held_out)}


def _shown(made: Made, last: Step, flow: Flow, built: Built, gallery: Gallery, who: str) -> None:
    """The particles at the end, as tiles and as numbers."""
    assert made.best is not None
    if gallery.kept:
        top = max(range(len(gallery.kept)), key=lambda i: low(gallery.kept[i][0]))
        made.tiles = [Tile(picture, f"{value:.4g}", i == top) for i, (value, picture) in enumerate(gallery.kept)]
        made.particles = [{"reward": number(value)} for value, _ in gallery.kept]
    else:
        values = _values(who, last, flow, built.total)
        order = sorted(sorted(range(len(values)), key=lambda i: -low(float(values[i])))[:SHOWN])
        pictures = torch.cat([flow.decode(last.clean[i : i + 1]).float().cpu() for i in order])
        seen = {
            name: torch.cat([score(p[None].to(last.clean.device)).cpu() for p in pictures])
            for name, score in built.beside.items()
        }
        log_w = last.info.get("log_w")
        shares = None if log_w is None else log_w.softmax(1).flatten()
        top = int(values.nan_to_num(-math.inf).argmax())
        for place, i in enumerate(order):
            told = {"reward": number(values[i]), "held_out": plain_of({k: float(v[place]) for k, v in seen.items()})}
            if shares is not None:
                told["weight"] = number(shares[i])
            made.particles.append(told)
            made.tiles.append(Tile(contact.small(pictures[place]), f"{float(values[i]):.4g}", i == top))
    best = made.best.picture[None].to(last.clean.device)
    made.parts = {name: float(score(best)) for name, score in built.parts.items()}


# --- what a run is made of ---


def _begun(values: dict[str, Any]) -> dict[str, Any]:
    """Langevin moves have an infinite diffusion at t = 0: the first one is ancestral."""
    found = dict(values)
    move, moments = values.get("transition"), values.get("moments")
    if getattr(move, "func", move) is transition.langevin:

        def moved(flow: Flow, x: Tensor, s: Tensor, t: Tensor, noise: Noise | None, ends: Ends | None = None) -> Tensor:
            first = flow.path(s.double()).alpha == 0
            return (transition.ancestral if first else move)(flow, x, s, t, noise, ends)  # type: ignore[misc]

        found["transition"] = moved
    if getattr(moments, "func", moments) is transition.langevin_moments:

        def told(flow: Flow, x: Tensor, s: Tensor, t: Tensor, ends: Ends | None = None) -> tuple[Tensor, Tensor]:
            first = flow.path(s.double()).alpha == 0
            return (transition.ancestral_moments if first else moments)(flow, x, s, t, ends)  # type: ignore[misc]

        found["moments"] = told
    return found


def _inputs(settings: Mapping[str, Any], problem: Problem) -> dict[str, str]:
    found = scores.fingerprints([*problem.terms, *problem.beside])
    if models.is_pipeline(settings["prior"]):
        return found | {"prior fingerprint": models.fingerprint(settings["prior"])}
    return found | {"prior sha256": files.sha256(files.weights(settings["prior"]))}
