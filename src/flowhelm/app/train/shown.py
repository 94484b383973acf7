"""What a training shows and writes of its weights, for each kind of thing that recipes train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ...bijection import Bijection
from ...masked import Masked
from ...priors import bundled, tokens
from ...priors.bundled import Prior
from ...priors.tarflow import Normalising
from ...priors.tokens import TokenPrior
from ...recipes import Recipe
from ...toughness import plan, toughness
from ...train import Alone, seeded
from ..draw.bijections import draw_bijection
from ..draw.conditions import own_guidance
from ..draw.rows import draw_jobs, jobs_of
from ..draw.solvers import Way
from ..run import drive
from ..show.sheet import class_rows, films, sheet

HELD_APART = 4  # batches of pictures that are never trained on; always the same, with the same draws
Shown = Prior | Normalising | TokenPrior | Alone


def shown(made: Recipe, average: nn.Module, name: str) -> Shown:
    """What a run trains, around its average, to draw from meanwhile."""
    flow = made.flow
    if isinstance(flow, Alone):
        return Alone(average)
    if isinstance(flow, Masked):
        return TokenPrior(average, flow.shape, flow.tokenizer, name, made.about)
    if isinstance(flow, Bijection):
        return Normalising(average, flow.shape, flow.noise, null=flow.null, name=name, about=made.about)
    return Prior(average, flow.shape, null=flow.null, name=name, about=made.about)


def write(it: Shown, made: Recipe, path: Path, done: int) -> None:
    """The file of the weights; of a normalising flow with the plan of its inverse."""
    about: dict[str, Any] = {**made.about, "steps": done}
    if isinstance(it, TokenPrior | Alone) and not hasattr(it.net, "kind"):
        tokens.save(it.net, path, about, getattr(it, "tokenizer", None))
    elif isinstance(it, Normalising):
        bundled.save(it.net, path, about | {"plan": plan(toughness(it, noisy(made, it)))}, "tarflow")
    else:
        bundled.save(it.net, path, about)


def samples(it: Shown, made: Recipe) -> Image.Image:
    """A sheet of the average, the same noise each time: guided as by `flowhelm sample`, four of each class, or sixteen; 20 steps of
    Euler, or of unmasking. Of a tokenizer pictures that were held apart, and below them what comes back of them; of what draws nothing
    the recipe's own rows.
    """
    with judged(it.net), torch.no_grad():
        if made.shown is not None:
            return sheet(made.shown(it.net))
        if isinstance(it, Alone):
            pictures = made.apart(0).clean[:16]
            back = it.net(pictures.to(next(it.net.parameters()).device)).cpu()
            return sheet([("picture", pictures), ("back", back)])
        about: Mapping[str, Any] = it.about
        classes = about.get("classes", ())
        jobs = jobs_of(classes, 4 if classes else 16)
        if isinstance(it, Normalising):
            drawn = drive(draw_bijection(it, jobs))
        elif isinstance(it, TokenPrior):
            drawn = drive(draw_jobs(it, jobs, Way(20, "auto")))  # type: ignore[arg-type]
        else:
            drawn = drive(draw_jobs(it, jobs, Way(20), guidance=own_guidance(it) if classes else None))
        rows = class_rows(drawn, jobs)
        return sheet(films(rows) if drawn.ndim == 5 else rows)


def noisy(recipe: Recipe, flow: Bijection) -> Tensor:
    """Pictures that are never trained on, with the noise of the training: always the same."""
    device = next(flow.net.parameters()).device
    clean = torch.cat([recipe.apart(index).clean for index in range(HELD_APART)]).to(device)
    return clean + flow.noise * torch.randn(clean.shape, generator=seeded(0, 0, device, purpose="noisy"), device=device)


@contextmanager
def judged(net: nn.Module) -> Iterator[None]:
    """Without dropout meanwhile."""
    was = net.training
    net.eval()
    yield
    net.train(was)
