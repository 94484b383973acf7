"""A recipe run to its end: log, curve, samples and weights in one folder, interruptible and resumable at any moment.

OUT/checkpoint.safetensors   the whole state; the same command goes on from it, to the same weights
OUT/run.json                 what is being run; another run is refused in this folder
OUT/log.csv                  step, mean loss since the last row, held-apart loss of the average, rate, norm, seconds
OUT/curve.png, samples.png   the log as a picture; pictures drawn from the average, a row for each class
OUT/NAME.safetensors         the average: what `flowhelm sample OUT/NAME.safetensors` and `--prior` take
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ... import recipes
from ...codec import CodecPrior
from ...priors import bundled, denoisers, tarflow
from ...recipes import Recipe
from ...train import fit, seeded
from ..errors import BadInput
from ..files import atomic as files
from ..files.atomic import going_on, write_json
from ..models.device import to_device
from ..options.signature import bind, options, pick
from ..run import Run, Said
from .keeper import Keeper, carried, tensorboard
from .request import TrainRequest
from .shown import HELD_APART, judged, samples, shown, write


def train(request: TrainRequest) -> Run[Path]:
    """Trains, or goes on training; returns the file of the weights. A tenth of the steps, at most 500, is the warm-up.

    Raises:
        BadInput: anything wrong with what was asked for or with the data; nothing is written then.
        Stopped: all is saved.
        Diverged: the last good state is in the checkpoint and in the weights.
    """
    torch.set_num_threads(request.threads or torch.get_num_threads())
    place = to_device(request.device)
    writer_of = tensorboard() if request.tensorboard else None
    builder = pick("recipe", request.recipe, recipes.ALL)
    values = bind(builder, request.recipe_options)
    out = request.out or Path("runs") / request.recipe
    if request.start and denoisers.named(request.start):
        raise BadInput(
            f"--start: {request.start!r} is not of a network that a recipe trains; give a bundled prior's name or a .safetensors "
            "file that flowhelm train has written"
        )
    load = tarflow.load if request.start and bundled.kind(request.start) == "tarflow" else bundled.load
    begin = load(request.start) if request.start else None
    story = _story(builder, values, request.start)
    resuming = going_on(out, story)
    made = build(builder, values)
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
    it = shown(made, average, request.recipe)
    keeper = Keeper(
        out, steps, request.minutes,
        rows_of=lambda done: len(made.data(done).clean),
        apart=lambda: held_apart(made, average),
        write=lambda done: write(it, made, weights, done),
        sheet=lambda: samples(it, made), writer_of=writer_of,
    )  # fmt: skip
    yield from carried(updates, keeper)
    yield Said(f"wrote {weights}, and beside it log.csv, curve.png and samples.png")
    return weights


@torch.no_grad()
def held_apart(recipe: Recipe, net: nn.Module) -> float:
    """Mean loss of a network over fixed batches that are never trained on."""
    flow, device, losses = replace(recipe.flow, net=net), next(net.parameters()).device, []
    with judged(net):
        for index in range(HELD_APART):
            batch = recipe.apart(index)
            moved = type(batch)(batch.clean.to(device), tuple(c.to(device) for c in batch.condition))
            losses.append(recipe.loss(flow, moved, seeded(0, index, device, purpose="held apart")).mean())
    return float(torch.stack(losses).mean())


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


def build(builder: Callable[..., Recipe], values: Mapping[str, Any]) -> Recipe:
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
    begin: Any = prior.codec if isinstance(prior, CodecPrior) else prior.net
    config: dict[str, Any] = net.config  # type: ignore[assignment]
    other: dict[str, Any] = begin.config
    if config != other:
        differ = ", ".join(f"{k} {other.get(k)} (here {v})" for k, v in config.items() if other.get(k) != v)
        raise BadInput(f"--start: the weights of {prior.name!r} are of another network: {differ}")
    net.load_state_dict(begin.state_dict())
