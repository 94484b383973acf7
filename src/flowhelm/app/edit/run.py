"""A picture edited by a prior that is told something else: opened, edited, written.

OUT                        the result, of the size of the prior's pictures
NAME.edited.strip.png      the picture as the prior saw it, and every result of the method (FlowOpt has one for each iteration)
"""

from __future__ import annotations

import inspect
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ... import edit as methods
from ...flow import Flow
from ...rng import Noise
from ...step import run as final
from ..draw.conditions import conditioned, guidance_of, own_guidance, settled
from ..errors import BadInput
from ..files.atomic import check_writable, put_picture
from ..files.pictures import read, write
from ..models import device as devices
from ..models import opening as models
from ..models.request import size_of
from ..options.signature import bind, pick
from ..run import Noted, Planned, Run, Said, Stepped, Written
from ..show.strip import strip
from .request import EditRequest

SHOWN = 9  # results on the strip


@torch.no_grad()
def edit(request: EditRequest) -> Run[Path]:
    """Edits a picture; returns the file that was written.

    Raises:
        BadInput: anything wrong with what was asked for. Nothing is written then.
    """
    torch.set_num_threads(request.threads or torch.get_num_threads())
    method = pick("method", request.method, methods.ALL)
    options = bind(method, request.method_options)
    out = request.out or request.photo.with_name(f"{request.photo.stem}.edited.png")
    check_writable(out.parent)
    photo = read(request.photo)
    new, old = yield from flows(request)
    picture = yield from fitted(photo.pixels, new)
    times = new.times(request.steps)[int(request.keep * request.steps) :]
    level = float(new.path(times[0]).sigma)
    yield Said(f"{request.method}: {len(times) - 1} of {request.steps} steps, from noise of {level:.2g}.")
    clean = new.encode(picture.to(devices.to_device(request.device)))
    begun = method(new, old, clean, times, noise=Noise(request.seed, rows=1), **options)
    results: list[Tensor] = []
    often = inspect.signature(method).parameters.get("iterations")
    yield Planned(int(options.get("iterations", often.default if often else len(times) - 1)))
    for step in begun:
        text = f"{float(step.info['distance'].mean()):.3f} from the picture" if "distance" in step.info else ""
        if "distance" in step.info or step.index == step.total:
            results.append(new.decode(final([step]).x).float().cpu())
        yield Stepped(step.index, step.total, text, picture=lambda x=step.clean: new.decode(x).float().cpu())  # type: ignore[misc]
    write(out, results[-1].clamp(-1, 1))
    beside = out.with_name(f"{out.stem}.strip.png")
    names = [f"{i}" for i in range(1, len(results) + 1)] if len(results) > 1 else ["edited"]
    panels = [("picture", picture), *islice(zip(names, results, strict=True), SHOWN)]
    put_picture(beside, strip(panels, height=max(128, picture.shape[-2])))
    yield Written((out, beside))
    return out


def flows(request: EditRequest) -> Run[tuple[Flow, Flow]]:
    """The prior under what the picture should show, and under what it shows.

    Raises:
        BadInput: a condition that the prior does not take, or none.
    """
    settled(request)
    if not (request.classes or request.prompt is not None or request.numbers):
        raise BadInput("nothing says what the picture should show; give --class, --number or --prompt")
    if models.is_pipeline(request.prior):
        if request.source_class is not None:
            raise BadInput("--from-class is for bundled priors; say it in --from-prompt")
        request = request.changed(device=str(devices.to_device(request.device)))
        request = request.changed(**settled(request))
        opened = yield from models.opened(request, size=size_of(request.size))
        plain = request.changed(prompt=request.source_prompt or "", scale=1.0, guidance=None)
        return models.told(opened, request, guidance=guidance_of(request) if request.guidance else None), models.told(
            opened, plain
        )
    if len(request.classes) > 1:
        raise BadInput(f"--class is given {len(request.classes)} times; a picture becomes one of them")
    models.check_draws(request.prior)
    flow = models.bundled_prior(request, str(devices.to_device(request.device)))
    rule = guidance_of(request) or own_guidance(flow)
    new = conditioned(flow, request.classes or [None], request.prompt, request.numbers, rule)
    return new, conditioned(flow, [request.source_class], request.source_prompt, None, None)


def fitted(pixels: Tensor, flow: Flow) -> Run[Tensor]:
    """The middle of a picture, at the size and with the channels of a prior's."""
    channels, height, width = flow.shape if flow.pixels else (3, *cast("Any", flow).size)
    x = pixels if channels == pixels.shape[1] else pixels.mean(1, keepdim=True)
    tall, wide = x.shape[-2:]
    scale = max(height / tall, width / wide)
    if (tall, wide) == (height, width):
        return x
    cut_tall, cut_wide = min(tall, round(height / scale)), min(wide, round(width / scale))
    top, left = (tall - cut_tall) // 2, (wide - cut_wide) // 2
    x = x[..., top : top + cut_tall, left : left + cut_wide]
    yield Noted(
        f"the picture of {wide} x {tall} pixels is cropped and scaled to {width} x {height}, the size of the prior's"
    )
    return interpolate(x, (height, width), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
