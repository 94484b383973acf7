"""What a steered run leaves behind: the best pictures, the sheet of particles, the curve, and the numbers in a JSON file."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..files import atomic as files
from ..files.pictures import write, write_json
from ..show import contact_sheet as contact
from ..show.contact_sheet import Line, Tile

STILL = 0.95
"""Share of the particles that the effective size must have fallen below once, else the strength counted for nothing."""
Say = Callable[[str], None]


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
class Made:
    """One picture's run, as far as it came."""

    name: str
    label: str | None
    number: int
    best: Best | None = None
    trace: list[dict[str, Any]] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)
    particles: list[dict[str, Any]] = field(default_factory=list)
    parts: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    cut: bool = False  # by the budget, before its end


def outputs(out: Path) -> dict[str, Path]:
    """Where the files of a run go."""
    ends = {"best": "best.png", "sheet": "sheet.png", "curve": "curve.png", "run": "run.json"}
    return {what: out.with_name(f"{out.name}.{end}") for what, end in ends.items()}


def leave(
    made: Sequence[Made],
    story: Mapping[str, Any],
    state: str,
    paths: Mapping[str, Path],
    settings: Mapping[str, Any],
    say: Say,
) -> dict[str, Any]:
    kept = [each for each in made if each.best is not None]
    top = max(kept, key=lambda each: each.best.rank)  # type: ignore[union-attr]
    assert top.best is not None
    whole = {**story, "result": result_of(kept, state)}
    write(paths["best"], top.best.picture)
    write_json(paths["run"], whole)
    written = [paths["best"], paths["run"]]
    rows = {
        (each.name if len(kept) > 1 else ""): each.tiles
        or [Tile(contact.small(each.best.picture), f"{each.best.reward:.4g}", True)]
        for each in kept
        if each.best is not None
    }
    files.put_picture(paths["sheet"], contact.contact(rows))
    name = " + ".join(_short(text) for text in settings["reward"])
    files.put(paths["curve"], lambda path: contact.plot(_lines(kept, settings), name, path))
    written += [paths["sheet"], paths["curve"]]
    if settings["count"] * len(settings["classes"] or [0]) > 1:
        written += [single(paths, each.name) for each in kept]
    if state != "finished":
        where = "the best finished picture" if top.best.finished else "the estimate so far, which is not finished,"
        say(f"{state} at picture {len(made)}, step {len(made[-1].trace)}")
        say(f"{where} is {_near(paths['best'])}, all else in {_near(paths['run'])}")
        return whole
    say("wrote " + ", ".join(_near(path) for path in written))
    for each in kept:
        assert each.best is not None
        beside = [f"{_short(k)} {v:.4g}" for k, v in each.parts.items()]
        beside += [f"held out: {_short(k)} {v:.4g}" for k, v in each.best.held_out.items()]
        say(
            f"{each.name}: reward {each.best.reward:.4g}" + "".join(f", {text}" for text in beside)
            + f"; {each.trace[-1]['evaluations']} evaluations, {each.trace[-1]['rewards']} rewards, {each.seconds:.1f} s"
        )  # fmt: skip
    return whole


def remarks(made: Sequence[Made], settings: Mapping[str, Any], say: Say) -> None:
    for each in made:
        if each.cut:
            say(f"note: {each.name}: the budget was spent before the last step")
    k = settings["method_options"].get("particles", 1)
    sizes = [size for each in made for line in each.trace for size in line.get("ess", ()) if size is not None]
    if settings["method"] == "fk" and k > 1 and sizes and min(sizes) > STILL * k:
        say(
            f"note: the effective sample size stayed at {min(sizes):.1f} of {k}, so that the reward hardly counted; "
            f"give a larger --strength than {settings['method_options']['strength']:g}"
        )


def result_of(made: Sequence[Made], state: str) -> dict[str, Any]:
    pictures = []
    for each in made:
        if each.best is None:
            continue
        last = each.trace[-1]
        pictures.append(
            {
                "name": each.name, "class": each.label, "number": each.number, "finished": each.best.finished, "cut": each.cut,
                "reward": number(each.best.reward), "parts": plain_of(each.parts),
                "held_out": plain_of(each.best.held_out), "sha256": files.hash_of(each.best.picture),
                **{kind: last[kind] for kind in ("evaluations", "rewards", "decodes", "backwards")},
                "seconds": each.seconds, "particles": each.particles, "trace": each.trace,
            }
        )  # fmt: skip
    return {"state": state, "pictures": pictures}


def _lines(made: Sequence[Made], settings: Mapping[str, Any]) -> list[Line]:
    lines = []
    for each in made:
        done = [(line["evaluations"], line["best"]) for line in each.trace if line["best"] is not None]
        way = [
            (line["evaluations"], line["shown"])
            for line in each.trace
            if line["shown"] is not None and line["best"] is None
        ]
        if way:
            lines.append(Line("reward", way + done[:1], part=True))
        if done:
            lines.append(Line("reward", done))
        for name in settings["held_out"]:
            seen = [(line["evaluations"], line["held_out"][name]) for line in each.trace]
            if known := [(e, v) for e, v in seen if v is not None]:
                lines.append(Line(f"held out: {_short(name)}", known, part=bool(way), beside=True))
    return lines


def plain_of(seen: Mapping[str, float]) -> dict[str, float | None]:
    return {name: number(value) for name, value in seen.items()}


def single(paths: Mapping[str, Path], name: str) -> Path:
    best = paths["best"]
    return best.with_name(f"{best.name.removesuffix('.best.png')}.{name}.best.png")


def number(value: float | Tensor) -> float | None:
    """None for what JSON cannot hold."""
    return float(value) if math.isfinite(float(value)) else None


def low(value: float) -> float:
    return value if not math.isnan(value) else -math.inf


def _short(text: str) -> str:
    """A reward's words without the folders of its files."""
    return re.sub(r"[^=*,: ]*/", "", text)


def _near(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
