"""What a steered run leaves behind: the best pictures, the sheet of particles, the curve, and the numbers in a JSON file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field
from torch import Tensor

from ..files import atomic as files
from ..files.atomic import write_json
from ..files.pictures import write
from ..options.request import Request
from ..run import Event, Noted, Said, Written, near
from ..show import contact_sheet as contact
from ..show.contact_sheet import Line, Tile
from .request import SteerSettings

STILL = 0.95
"""Share of the particles that the effective size must have fallen below once, else the strength counted for nothing."""
Scores = dict[str, float | None]
State = Literal["running", "finished", "stopped", "diverged", "failed"]


# --- the JSON file ---


class Scored(Request):
    """What a picture is worth, None where JSON cannot hold the number, and what was spent on it."""

    finished: bool
    reward: float | None
    held_out: Scores
    evaluations: int
    rewards: int
    decodes: int
    backwards: int


class TraceLine(Scored):
    """One step. `best` is of pictures that are finished, `shown` of estimates, too."""

    index: int
    total: int = Field(alias="of")
    t: float
    mean: float | None
    best: float | None
    shown: float | None
    ess: list[float | None] = Field([])
    log_z: list[float | None] = Field([])


class Particle(Request):
    """One particle at the end."""

    reward: float | None
    held_out: Scores = Field(default_factory=dict)
    weight: float | None = None


class Picture(Scored):
    """One picture, and how it came about."""

    name: str
    label: str | None = Field(alias="class")
    number: int
    cut: bool
    parts: Scores
    sha256: str
    seconds: float
    particles: list[Particle]
    trace: list[TraceLine]


class Result(Request):
    state: State
    pictures: list[Picture]


class RunFile(Request):
    """What `flowhelm rerun` reads."""

    kind: Literal["steer"] = "steer"
    settings: SteerSettings
    inputs: dict[str, str]
    environment: dict[str, str]
    result: Result

    def stored(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_unset=True, by_alias=True)


def read(path: Path) -> RunFile:
    """Raises BadInput for any other file."""
    return RunFile.of_json({"kind": "steer"} | files.raw_run(path), repr(str(path)))


# --- a run, as far as it came ---


class Best(NamedTuple):
    """The picture that is kept: `(c, h, w)` on the CPU, its reward, whether it is finished, and scores that nobody optimised."""

    picture: Tensor
    reward: float
    finished: bool
    held_out: Mapping[str, float]

    @property
    def rank(self) -> tuple[bool, float]:
        return self.finished, self.reward


@dataclass
class PictureRun:
    """One picture's run, as far as it came."""

    name: str
    label: str | None
    number: int
    best: Best | None = None
    trace: list[TraceLine] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)
    particles: list[Particle] = field(default_factory=list)
    parts: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    cut: bool = False  # by the budget, before its end

    @property
    def result(self) -> Picture:
        assert self.best is not None
        last = self.trace[-1]
        return Picture(
            **{"class": self.label}, name=self.name, number=self.number, finished=self.best.finished, cut=self.cut,
            reward=number(self.best.reward), parts=numbers(self.parts), held_out=numbers(self.best.held_out),
            sha256=files.hash_of(self.best.picture), evaluations=last.evaluations, rewards=last.rewards, decodes=last.decodes,
            backwards=last.backwards, seconds=self.seconds, particles=self.particles, trace=self.trace,
        )  # fmt: skip


def outputs(out: str | Path) -> dict[str, Path]:
    """Where the files of a run go."""
    ends = {"best": "best.png", "sheet": "sheet.png", "curve": "curve.png", "run": "run.json"}
    return {what: Path(out).with_name(f"{Path(out).name}.{end}") for what, end in ends.items()}


def single(paths: Mapping[str, Path], name: str) -> Path:
    """Where the best of one of several pictures goes."""
    best = paths["best"]
    return best.with_name(f"{best.name.removesuffix('.best.png')}.{name}.best.png")


def result_of(runs: Sequence[PictureRun], state: State) -> Result:
    return Result(state=state, pictures=[each.result for each in runs if each.best is not None])


def leave(runs: Sequence[PictureRun], file: RunFile) -> list[Path]:
    """Writes the files of a run; returns them."""
    settings, paths = file.settings, outputs(file.settings.out)
    kept = [(each, each.best) for each in runs if each.best is not None]
    write(paths["best"], max((best for _, best in kept), key=lambda best: best.rank).picture)
    write_json(paths["run"], file.stored())
    rows = {}
    for each, best in kept:
        tiles = each.tiles or [Tile(contact.small(best.picture), f"{best.reward:.4g}", True)]
        rows[each.name if len(kept) > 1 else ""] = tiles
    files.put_picture(paths["sheet"], contact.contact(rows))
    name = " + ".join(_short(text) for text in settings.reward)
    curves = [line for each in runs for line in _lines(each, settings.held_out)]
    files.put(paths["curve"], lambda path: contact.plot(curves, name, path))
    several = [each.name for each, _ in kept] if settings.count * len(settings.classes or [0]) > 1 else []
    return [*(paths[what] for what in ("best", "run", "sheet", "curve")), *(single(paths, name) for name in several)]


def ended(runs: Sequence[PictureRun], file: RunFile) -> Iterator[Event]:
    """Leaves the files of a run that has ended, in whatever way, and says what there is."""
    if not file.result.pictures:
        yield Said(f"{file.result.state} before the first step; nothing was written")
        return
    written = leave(runs, file)
    if file.result.state != "finished":
        finished = any(each.best is not None and each.best.finished for each in runs)
        where = "the best finished picture" if finished else "the estimate so far, which is not finished,"
        yield Said(f"{file.result.state} at picture {len(runs)}, step {len(runs[-1].trace)}")
        yield Said(f"{where} is {near(written[0])}, all else in {near(written[1])}")
        return
    yield Written(tuple(written))
    for each in file.result.pictures:
        named = each.parts | {f"held out: {name}": value for name, value in each.held_out.items()}
        beside = [f"{_short(name)} {value:.4g}" for name, value in named.items() if value is not None]
        scores = ", ".join([f"reward {-math.inf if each.reward is None else each.reward:.4g}", *beside])
        spent = f"{each.evaluations} evaluations, {each.rewards} rewards, {each.seconds:.1f} s"
        yield Said(f"{each.name}: {scores}; {spent}")
    for each in file.result.pictures:
        if each.cut:
            yield Noted(f"{each.name}: the budget was spent before the last step")
    options = file.settings.method_options
    particles, strength = getattr(options, "particles", 1), getattr(options, "strength", None)
    sizes = [size for each in runs for line in each.trace for size in line.ess if size is not None]
    if file.settings.method == "fk" and particles > 1 and sizes and min(sizes) > STILL * particles:
        yield Noted(
            f"the effective sample size stayed at {min(sizes):.1f} of {particles}, so that the reward hardly counted; "
            f"give a larger --strength than {strength:g}"
        )


def _lines(run: PictureRun, held_out: Sequence[str]) -> Iterator[Line]:
    """Its curves: estimates on the way, finished pictures, and what was held out."""
    done = [(line.evaluations, line.best) for line in run.trace if line.best is not None]
    way = [(line.evaluations, line.shown) for line in run.trace if line.shown is not None and line.best is None]
    if way:
        yield Line("reward", way + done[:1], part=True)
    if done:
        yield Line("reward", done)
    for name in held_out:
        seen = [(line.evaluations, line.held_out[name]) for line in run.trace]
        if known := [(evaluations, value) for evaluations, value in seen if value is not None]:
            yield Line(f"held out: {_short(name)}", known, part=bool(way), beside=True)


def numbers(scores: Mapping[str, float]) -> Scores:
    return {name: number(value) for name, value in scores.items()}


def number(value: float | Tensor) -> float | None:
    """None for what JSON cannot hold."""
    return float(value) if math.isfinite(float(value)) else None


def low(value: float) -> float:
    return value if not math.isnan(value) else -math.inf


def _short(text: str) -> str:
    """A reward's words without the folders of its files."""
    return re.sub(r"[^=*,: ]*/", "", text)
