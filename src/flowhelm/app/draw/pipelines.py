"""Pictures drawn from a pipeline of diffusers: `flowhelm sample FOLDER_OR_HUB`, which is also `flowhelm generate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...interfaces.cli.progress import bar
from ...priors.pipelines import Pipeline
from ...rng import Noise
from ...solve import integrate
from ...step import Step, run
from ...transition import Transition
from ..files import atomic as files
from ..models import opening as models
from .sample import SOLVERS, guidance_of, named, places, put


@torch.no_grad()
def draw(
    flow: Pipeline,
    count: int,
    *,
    steps: int,
    solver: Transition,
    seed: int,
    each: Callable[[int], object] = lambda done: None,
) -> Tensor:
    """Pictures number 0 ... count - 1 of a seed, one after another, since one fills the memory: `(count, 3, h, w)`, not clamped.

    `each` is called with the steps done, of count * steps.
    """
    pictures = []
    for index in range(count):

        def tell(step: Step, done: int = index * steps) -> None:
            each(done + step.index)

        x = flow.source(Noise(seed, [index])).to(flow.net.device)
        moves = integrate(flow, x, flow.times(steps), transition=solver)
        pictures.append(flow.decode(run(moves, tell).x).float().cpu())
    return torch.cat(pictures)


def generate(
    prior: str,
    *,
    size: str | None = None,
    guidance: str | None = None,
    steps: int = 25,
    solver: str = "euler",
    seed: int = 0,
    count: int | None = None,
    out: Path | None = None,
    folder: Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
    model: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Draws pictures and writes a sheet, or each of them to `folder`, or both; returns what was written.

    Args:
        size: of the pictures, "512x768"; None for the pipeline's own. count: None for one.
        guidance: name of a rule, instead of the pipeline's own. model: by the names of `models.settled`.

    Raises:
        ValueError: anything that is wrong with what was asked for. Nothing is written then.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    device = str(files.to_device(device))
    settings = models.settled(prior, device=device, **(model or {})) | {"device": device}
    move, rule = named("solver", solver, SOLVERS), guidance_of(guidance, settings["scale"]) if guidance else None
    sides, count = None if size is None else models.size_of(size), count or 1
    name = Path(prior).resolve().name if Path(prior).is_dir() else prior.rpartition("/")[2]
    out = places(name, out, folder)
    work = models.Work("sample", sides, steps)
    flow = models.told(models.opened(prior, settings, size=sides, work=work, say=say), settings, guidance=rule)
    models.hint(settings, say)
    with bar(count * steps) as tell:
        drawn = draw(
            flow, count, steps=steps, solver=move, seed=seed, each=lambda done: tell(done, f"{count} pictures"[: None if count > 1 else -1])
        )  # fmt: skip
    return put(name, [(None, index) for index in range(count)], drawn, [("", drawn)], out, folder, say)
