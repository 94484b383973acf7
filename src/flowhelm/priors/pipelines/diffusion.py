"""Variance-preserving diffusion pipelines as flows: what Stable Diffusion 1 and 2, SDXL and PixArt share.

Their state is sqrt(a) clean + sqrt(1 - a) noise, with a = alphas_cumprod of an integer label. Divided by sqrt(a) + sqrt(1 - a)
it is a state of the linear path at t = sqrt(a) / (sqrt(a) + sqrt(1 - a)), and one step of DDIM (Song et al. 2021,
arXiv:2010.02502, eq. 12, eta = 0) is one Euler step there. The conversion is `priors.foreign`'s.

The two ends. Such a pipeline begins with pure noise at its first label, where a picture would still leave a trace (t = 0.07 for
Stable Diffusion), and often ends at label 0 (t = 0.97), not at the clean picture. So there are two grids:

    grid="exact"     the default: from t = 0, where the state is `source`, to t = 1; between them even labels. At t = 0 the network
                     is asked at its noisiest label. This is what methods want: some refuse a grid that does not end at 1.
    grid="pipeline"  the labels that DDIM visits with the spacing, offset and last level that the scheduler's configuration says,
                     as times. Its first time is above 0, its last may be below 1. The pipeline's latents at time t are `factor(t)`
                     times the state: begin with flow.source(noise) / flow.factor(times[0]), and Euler steps give its own latents.
                     DDIM goes down by a whole number of labels. With the spacing "trailing" these are the labels it asks next only if
                     the steps divide the schedule (others are refused), with "linspace" never: "leading" stands for it.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..foreign import Foreign
from .pipeline import Pipeline, Told

_KINDS = {"epsilon": "noise", "v_prediction": "v", "sample": "clean"}


@dataclass(frozen=True, eq=False)
class Diffusion(Pipeline):
    """A family of variance-preserving pipelines; of it, `_ask` returns what the network predicts, told a label `(b,)` float32."""

    grid: Literal["pipeline", "exact"] = "exact"

    scale: ClassVar = 7.5

    def __post_init__(self) -> None:
        super().__post_init__()
        config = self.pipe.scheduler.config
        if config.get("prediction_type", "epsilon") not in _KINDS or not hasattr(self.pipe.scheduler, "alphas_cumprod"):
            raise ValueError(
                f"{self.name}: expected a scheduler with alphas_cumprod whose prediction_type is one of {', '.join(_KINDS)}, got "
                f"{type(self.pipe.scheduler).__name__} with {config.get('prediction_type')}; give the pipeline the one of its card"
            )
        if self.net.config.get("time_cond_proj_dim"):
            raise ValueError(
                f"{self.name}: expected a diffusion network, got a consistency model (time_cond_proj_dim is set), whose answer is "
                "no velocity; load the model that it was distilled from"
            )

    @cached_property
    def convention(self) -> Foreign:
        """How the network's states, labels and predictions are read."""
        scheduler = self.pipe.scheduler
        kind = _KINDS[scheduler.config.get("prediction_type", "epsilon")]
        return Foreign(self.net, self.shape, kind=kind, schedule=scheduler.alphas_cumprod.cpu())

    def _slope(self, x: Tensor, t: Tensor, told: Told) -> Tensor:
        device, dtype = self._place

        def ask(state: Tensor, label: Tensor) -> Tensor:
            # float32: half precision cannot tell 999 from 1000
            said = self._ask(state.to(device, dtype), label.to(device, torch.float32).expand(len(x)), told)
            return said[:, : x.shape[1]].to(x)  # those behind are a learned variance

        return self.convention.converted(x, t, ask)

    def times(self, steps: int) -> Tensor:
        if self.grid == "exact":
            return self.convention.times(steps)
        super(Pipeline, self).times(steps)  # says what is wrong with the number
        return self.visited(steps)

    def visited(self, steps: int) -> Tensor:
        scheduler = self._ddim
        labels = scheduler.config.num_train_timesteps
        if scheduler.config.timestep_spacing == "trailing" and labels % steps:
            raise ValueError(
                f"{self.name}: expected a number of steps that divides {labels} for the trailing spacing of its scheduler, got {steps}: "
                'DDIM does not go to the labels that it asks next; use grid="exact"'
            )
        scheduler.set_timesteps(steps)
        visited = scheduler.timesteps.long().cpu()
        last = int(visited[-1]) - labels // steps  # what DDIM's last step goes to
        end = scheduler.alphas_cumprod[last] if last >= 0 else scheduler.final_alpha_cumprod
        kept = torch.cat([scheduler.alphas_cumprod[visited], end[None]]).double()
        return kept.sqrt() / (kept.sqrt() + (1 - kept).sqrt())

    def factor(self, t: Tensor) -> Tensor:
        return (
            1 / (t**2 + (1 - t) ** 2).sqrt()
        )  # alpha + sigma where alpha : sigma is t : 1 - t and alpha^2 + sigma^2 = 1

    @property
    def reference(self) -> Any:
        """The pipeline with DDIM in the place of its scheduler, whose labels and noise levels it keeps."""
        same = copy(self.pipe)
        same.scheduler = self._ddim
        return same

    @property
    def _ddim(self) -> Any:
        from diffusers import DDIMScheduler

        config = self.pipe.scheduler.config
        spacing = config.get("timestep_spacing", "leading")
        return DDIMScheduler.from_config(
            config,
            # a pipeline in pixels would clip; a scheduler that does not say so does not
            clip_sample=config.get("clip_sample", False),
            timestep_spacing="leading" if spacing == "linspace" else spacing,
            steps_offset=config.get("steps_offset", 0),
        )
