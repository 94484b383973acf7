"""A recipe run to its end: log, curve, samples and weights in one folder, interruptible and resumable at any moment.

OUT/checkpoint.safetensors   the whole state; the same command goes on from it, to the same weights
OUT/run.json                 what is being run; another run is refused in this folder
OUT/log.csv                  step, mean loss since the last row, held-apart loss of the average, rate, norm, seconds
OUT/curve.png, samples.png   the log as a picture; pictures drawn from the average, a row for each class
OUT/NAME.safetensors         the average: what `flowhelm sample OUT/NAME.safetensors` and `--prior` take
"""

import csv
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ... import recipes
from ...codec import CodecPrior
from ...priors import bundled, denoisers
from ...priors.bundled import Prior
from ...recipes import Recipe
from ...step import Update
from ...train import fit, seeded
from ..draw.conditions import own_guidance
from ..draw.rows import draw_jobs, jobs_of
from ..errors import BadInput
from ..files import atomic as files
from ..files.atomic import going_on, write_json
from ..models.device import to_device
from ..options.signature import bind, options, pick
from ..run import Planned, Run, Said, Stepped, Stopped, drive, unbroken
from ..show.loss_curve import curve
from ..show.sheet import class_rows, sheet
from .request import TrainRequest

HELD_APART = 4  # batches of pictures that are never trained on; always the same, with the same draws
SHEETS = 10  # of samples, over a run
Row = dict[str, float | None]
_COLUMNS = ("step", "loss", "held_apart", "rate", "norm", "seconds")


def train(request: TrainRequest) -> Run[Path]:
    """Trains, or goes on training; returns the file of the weights. A tenth of the steps, at most 500, is the warm-up.

    Raises:
        BadInput: anything wrong with what was asked for or with the data; nothing is written then.
        Stopped: all is saved.
        Diverged: the last good state is in the checkpoint and in the weights.
    """
    torch.set_num_threads(request.threads or torch.get_num_threads())
    place = to_device(request.device)
    writer_of = _tensorboard() if request.tensorboard else None
    builder = pick("recipe", request.recipe, recipes.ALL)
    values = bind(builder, request.recipe_options)
    out = request.out or Path("runs") / request.recipe
    if request.start and denoisers.named(request.start):
        raise BadInput(
            f"--start: {request.start!r} is not of a network that a recipe trains; give a bundled prior's name or a .safetensors "
            "file that flowhelm train has written"
        )
    begin = bundled.load(request.start) if request.start else None
    story = _story(builder, values, request.start)
    resuming = going_on(out, story)
    made = _build(builder, values)
    made.flow.net.to(place)
    steps, rate = request.steps or made.steps, made.rate if request.rate is None else request.rate
    if begin is not None and not resuming:
        _begin_from(made.flow.net, begin)
    average = deepcopy(made.flow.net)
    weights = out / f"{request.recipe}.safetensors"
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "run.json", story)
    updates = fit(
        made.flow, made.loss, made.data, steps=steps, average=average, rate=rate, warmup=min(500, steps // 10), ema=made.ema,
        seed=values.get("seed", 0), bf16=request.bf16, compiled=request.compiled, checkpoint=out / "checkpoint.safetensors",
        minutes=request.minutes,
    )  # fmt: skip
    prior = (
        None
        if made.shown
        else Prior(average, made.flow.shape, null=made.flow.null, name=request.recipe, about=made.about)
    )
    keeper = _Keeper(prior, average, made, out, weights, steps, request.minutes, writer_of)
    with closing(updates):  # which writes the checkpoint
        with unbroken():  # a step and its row are whole
            update = next(updates, None)
            keeper.begin(steps if update is None else update.index - 1, update)
        done = keeper.done
        try:
            if update is None:
                yield Said(f"{out} holds a finished run")
            else:
                yield Planned(steps, done, f"going on after step {done}" if done else f"into {out}")
            while update is not None:
                yield Stepped(keeper.index, steps, keeper.text, figures=keeper.row or None)
                with unbroken():
                    update = next(updates, None)
                    keeper.step(update)
            keeper.samples()
        except Stopped:
            if keeper.index < steps:
                updates.close()
                yield Said(
                    f"stopped after step {keeper.index} of {steps}, all saved in {out}; go on with the same command"
                )
            raise
        finally:  # at a divergence, too: the average is as before it
            keeper.close()
    yield Said(f"wrote {weights}, and beside it log.csv, curve.png and samples.png")
    return weights


@torch.no_grad()
def held_apart(recipe: Recipe, net: nn.Module) -> float:
    """Mean loss of a network over fixed batches that are never trained on."""
    flow, device, losses = replace(recipe.flow, net=net), next(net.parameters()).device, []
    with _judged(net):
        for index in range(HELD_APART):
            batch = recipe.apart(index)
            moved = type(batch)(batch.clean.to(device), tuple(c.to(device) for c in batch.condition))
            losses.append(recipe.loss(flow, moved, seeded(0, index, device, purpose="held apart")).mean())
    return float(torch.stack(losses).mean())


@contextmanager
def _judged(net: nn.Module) -> Iterator[None]:
    was = net.training
    net.eval()
    yield
    net.train(was)


class _Log:
    """log.csv; on resuming, rows after the checkpoint are dropped, since they come again."""

    def __init__(self, path: Path, done: int):
        self.path, self.rows = path, [row for row in read_log(path) if (row["step"] or 0) <= done]
        self.seconds = (self.rows[-1]["seconds"] or 0.0) if self.rows else 0.0
        files.put(path, lambda temporary: self._append(temporary, _COLUMNS, *map(_texts, self.rows)))

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self._append(self.path, _texts(row))

    def _append(self, path: Path, *rows: Sequence[str]) -> None:
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


def read_log(path: Path) -> list[Row]:
    """The rows of a log.csv; none if there is none, and without a last one that was cut off in the writing."""
    if not path.exists():
        return []
    found = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                found.append({name: float(row[name]) if row[name] else None for name in _COLUMNS})
            except (KeyError, TypeError, ValueError):
                break
    return found


def _texts(row: Row) -> list[str]:
    values = ((name, row[name]) for name in _COLUMNS)
    return ["" if value is None else f"{value:.0f}" if name == "step" else f"{value:.6g}" for name, value in values]


@dataclass
class _Keeper:
    """Writes what a run shows of itself."""

    prior: Prior | None  # with the average; None of what draws nothing
    net: nn.Module  # the average
    recipe: Recipe
    out: Path
    path: Path  # of the weights
    steps: int
    minutes: float
    writer_of: Any

    def __post_init__(self) -> None:
        self.every, self.row, self.writer = min(100, max(1, self.steps // 100)), dict[str, float | None](), None
        self.losses, self.text = list[Tensor](), ""
        self.began = self.saved = self.drawn = self.measured = time.monotonic()

    def begin(self, done: int, update: Update | None) -> None:
        """After `done` steps; `update`: the one that comes after them, if there is one."""
        self.done = self.index = done
        self.log = _Log(self.out / "log.csv", done)
        self.rows = len(self.recipe.data(done).clean)
        if self.writer_of is not None and update is not None:
            self.writer = self.writer_of(str(self.out / "tensorboard"), purge_step=done + 1)
        self.step(update)

    def step(self, update: Update | None) -> None:
        """A step is made: its row, and now and then the weights and samples."""
        if update is None:
            return
        self.losses.append(update.loss)
        self.index, now = update.index, time.monotonic()
        index, every, last = self.index, self.every, self.index == self.steps
        if index % every == 0 or last or not self.text:
            loss = float(torch.stack(self.losses).mean())
            self.text = f"loss {loss:.4f}, {len(self.losses) * self.rows / (now - self.measured):.3g} pictures/s"
        if index % every == 0 or last:
            apart = held_apart(self.recipe, self.net) if index % (10 * every) == 0 or last else None
            self.row = {
                "step": index,
                "loss": loss,
                "held_apart": apart,
                "seconds": self.log.seconds + now - self.began,
            }
            self.row |= {name: float(update.info[name]) for name in ("rate", "norm")}
            self.log.add(self.row)
            for name, value in self.row.items():
                if self.writer is not None and value is not None and name not in ("step", "seconds"):
                    self.writer.add_scalar(name, value, index)
            self.losses.clear()
            self.measured = time.monotonic()
        if index * SHEETS // self.steps != (index - 1) * SHEETS // self.steps and now - self.drawn > 60 and not last:
            self.samples()
            self.drawn = time.monotonic()
        if now - self.saved > 60 * self.minutes and not last:
            self.weights()
            self.saved = time.monotonic()

    def close(self) -> None:
        self.weights()
        if self.writer is not None:
            self.writer.close()

    def weights(self) -> None:
        bundled.save(self.net, self.path, {**self.recipe.about, "steps": self.index})  # type: ignore[arg-type]
        points = {
            name.replace("_", " "): [
                (row["step"] or 0.0, value) for row in self.log.rows if (value := row[name]) is not None
            ]
            for name in ("loss", "held_apart")
        }
        files.put_picture(self.out / "curve.png", curve(points))

    def samples(self) -> None:
        """A sheet of the average, guided as by `flowhelm sample`: four of each class, or sixteen; 20 Euler steps, the same noise."""
        with _judged(self.net):
            picture = sheet(self._rows())
        files.put_picture(self.out / "samples.png", picture)
        if self.writer is not None:
            import numpy as np

            self.writer.add_image("samples", np.asarray(picture), self.index, dataformats="HWC")

    def _rows(self) -> list[tuple[str, Tensor]]:
        if self.prior is None:
            assert self.recipe.shown is not None
            with torch.no_grad():
                return self.recipe.shown(self.net)
        classes = self.prior.about.get("classes", ())
        jobs = jobs_of(classes, 4 if classes else 16)
        rule = own_guidance(self.prior) if classes else None
        return class_rows(drive(draw_jobs(self.prior, jobs, guidance=rule, steps=20)), jobs)


def _story(builder: Callable[..., Recipe], values: Mapping[str, Any], start: str | None) -> dict[str, Any]:
    """What makes a run the same run, beside the settings that the checkpoint holds itself; files by what is in them."""
    story: dict[str, Any] = {"recipe": builder.__name__}
    for name, option in options(builder).items():
        value = values.get(name, option.default)
        if isinstance(value, Path):
            if not value.is_file():
                raise BadInput(f"--{name}: {str(value)!r} does not exist; name the file")
            story[f"{name} sha256"] = files.sha256(value)
        else:
            story[name] = value
    story["start sha256"] = files.sha256(bundled.weights(start)) if start else None
    return story


def _build(builder: Callable[..., Recipe], values: Mapping[str, Any]) -> Recipe:
    """The recipe with its data read; whatever is wrong with the files becomes one sentence."""
    try:
        return builder(**values)
    except ValueError as error:
        if str(error).startswith(tuple(f"{name}: " for name in [*options(builder), "shuffled"])):
            raise
        reason: BaseException = error
    except Exception as error:  # on other people's files, numpy, zipfile and Pillow raise nearly anything
        reason = error
    text = " ".join(str(reason).split()) or type(reason).__name__
    raise BadInput(
        f"the files are not those that recipe {builder.__name__} reads ({type(reason).__name__}: {text}); "
        "`flowhelm train --help` says what it expects"
    ) from reason


def _begin_from(net: nn.Module, prior: Any) -> None:
    begin = prior.codec if isinstance(prior, CodecPrior) else prior.net
    config: dict[str, Any] = net.config  # type: ignore[assignment]
    other: dict[str, Any] = begin.config
    if config != other:
        differ = ", ".join(f"{k} {other.get(k)} (here {v})" for k, v in config.items() if other.get(k) != v)
        raise BadInput(f"--start: the weights of {prior.name!r} are of another network: {differ}")
    net.load_state_dict(begin.state_dict())


def _tensorboard() -> Callable[..., Any]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise BadInput("--tensorboard needs the package tensorboard: pip install 'flowhelm[train]'") from error
    return SummaryWriter  # type: ignore[no-any-return, unused-ignore]
