"""Drawing from a program: what `flowhelm sample` draws, as tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import transition
from ...flow import Flow
from ...priors import bundled
from ...priors.bundled import Prior
from ...priors.pipelines import Pipeline
from ...rng import Noise
from ...solve import integrate
from ...step import Step, run
from ..errors import BadInput
from ..files import atomic as files
from ..models import opening as models
from . import pipelines, sample


def generate(
    prior: str | Path | Flow,
    *,
    count: int = 1,
    steps: int = 25,
    seed: int = 0,
    solver: str | transition.Transition = "euler",
    classes: Sequence[str] = (),
    prompt: str | None = None,
    numbers: Mapping[str, float] | None = None,
    negative: str | None = None,
    scale: float | None = None,
    guidance: str | None = None,
    size: tuple[int, int] | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    quantize: str | None = None,
    tiling: bool = False,
    no_plan: bool = False,
    watch: Callable[[int], object] | None = None,
) -> Tensor:
    """Pictures `(count, c, h, w)` float32 on the CPU, nominally in [-1, 1], not clamped: those of `flowhelm sample`, to the bit.

        flowhelm.generate("fashion", classes=["coat", "bag"], count=8)
        flowhelm.generate("stabilityai/stable-diffusion-3.5-medium", prompt="a lighthouse", device="cuda")
        flowhelm.generate(flow, steps=50, solver="heun")

    Picture number i of a seed is the same however many are drawn (but for the last bits, which may depend on the size of a batch).

    Args:
        prior: a bundled prior by name, a .safetensors file that `flowhelm train` wrote, a pipeline of diffusers (a folder or
            org/name), or any `Flow` that is open already; what is bound to its rows stays.
        count: pictures; of each class if there are classes: `(classes * count, c, h, w)`, class by class.
        steps: of the solver. solver: euler, midpoint or heun by name, or any transition.
        classes, numbers: what a bundled prior is told. prompt: words that it knows, or any text for a pipeline.
        negative: for pipelines that are guided. scale, guidance: as for `flowhelm sample`: by default the
            prior's own, if it is told anything.
        size: (height, width) of a pipeline's pictures; default its own. device: for a prior by name.
        dtype, quantize, tiling, no_plan: of a pipeline by name, as for `flowhelm sample`.
        watch: called with the steps done, of all batches together; what it raises ends the run.

    Raises:
        ValueError: anything that is wrong with what was asked for.
    """
    if count < 1 or steps < 1:
        raise BadInput(f"generate: expected at least 1 picture and 1 step, got {count} and {steps}")
    move = sample.named("solver", solver, sample.SOLVERS) if isinstance(solver, str) else solver
    each = watch or (lambda done: None)
    edit = sample.guidance_of(guidance, scale) if guidance else None
    with (
        torch.inference_mode(False),
        torch.no_grad(),
    ):  # weights made in inference mode could never be differentiated through
        if isinstance(prior, Flow):
            told = [classes, prompt, numbers, negative, size, dtype, quantize, tiling, no_plan]
            if not isinstance(prior, Prior) or prior.condition:
                if any(told) or scale is not None or guidance is not None:
                    raise BadInput(
                        "generate: a flow that is open already is told what to draw by its own `bind` or `told`; give nothing but count, "
                        "steps, seed and solver"
                    )
                return _bound(prior, count, steps, move, seed, each)
            flow: Flow = prior
        elif models.is_pipeline(str(prior)):
            if classes or numbers:
                raise BadInput("generate: classes and numbers are for bundled priors; say it in the prompt")
            device = str(files.to_device(device))
            given: dict[str, Any] = {
                "negative": negative,
                "dtype": dtype,
                "quantize": quantize,
                "tiling": tiling,
                "no_plan": no_plan,
            }
            settings = models.settled(str(prior), device=device, prompt=prompt, scale=scale, **given) | {
                "device": device
            }
            work = models.Work("sample", size, steps)
            opened = models.opened(str(prior), settings, size=size, work=work, say=lambda line: None)
            told_flow = models.told(opened, settings, guidance=edit)
            return pipelines.draw(told_flow, count, steps=steps, solver=move, seed=seed, each=each)
        else:
            models.settled(
                str(prior),
                device=device,
                negative=negative,
                dtype=dtype,
                quantize=quantize,
                tiling=tiling,
                no_plan=no_plan,
            )
            flow = bundled.load(prior, str(files.to_device(device)))
        assert isinstance(flow, Prior)
        each_of: Sequence[str | None] = classes or [None]
        jobs = [(name, index) for name in each_of for index in range(count)]
        edit = sample.guidance_for(flow, guidance, scale, told=bool(classes or prompt is not None or numbers))
        return sample.draw(
            flow, jobs, prompt=prompt, numbers=numbers, guidance=edit, steps=steps, solver=move, seed=seed, each=each
        )


def _bound(
    flow: Flow, count: int, steps: int, move: transition.Transition, seed: int, each: Callable[[int], object]
) -> Tensor:
    """From a flow as it is; pipelines one row at a time, since one fills the memory."""

    size, device, parts = 1 if isinstance(flow, Pipeline) else count, _device(flow), []
    for first in range(0, count, size):
        rows = range(first, first + size)

        def tell(step: Step, done: int = first // size * steps) -> None:
            each(done + step.index)

        part = flow.rows(torch.tensor(rows), count)
        moves = integrate(part, part.source(Noise(seed, rows)).to(device), flow.times(steps), transition=move)
        parts.append(part.decode(run(moves, tell).x).float().cpu())
    return torch.cat(parts)


def _device(flow: Flow) -> torch.device:
    net = getattr(flow, "net", None)
    parameters = next(net.parameters(), None) if isinstance(net, torch.nn.Module) else None
    return getattr(net, "device", torch.device("cpu")) if parameters is None else parameters.device
