"""CogView4 as a flow. Read off diffusers' CogView4Pipeline; the tests hold it to the same latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor

from .pipeline import Pipeline, Told
from .tokens import aligned, by_length


@dataclass(frozen=True, eq=False)
class CogView4(Pipeline):
    """CogView4: its clock is not its noise level. It is told 1000 u where sigma = f u / (1 + (f - 1) u), f the shift for this size.

    The pipeline visits whole numbers 1000 u only; with the shift inverted any time may be asked for. Texts are not masked, so that their
    padding counts: each is read alone, and rows of equal length are asked for together.
    """

    classes: ClassVar = ("CogView4Pipeline",)
    scale: ClassVar = 5.0

    def _ask(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        return by_length(self._asked, x, sigma, told)

    def _asked(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        size = torch.tensor([self.size]).expand(len(x), 2).to(x)
        return -self.net(
            hidden_states=x,
            encoder_hidden_states=told["prompt_embeds"].to(x),
            timestep=self._clock(sigma),
            original_size=size,
            target_size=size,
            crop_coords=torch.zeros_like(size),
            return_dict=False,
        )[0]

    def _clock(self, sigma: Tensor) -> Tensor:
        factor = self._shift(1)
        return 1000 * sigma / (factor - (factor - 1) * sigma)

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        return aligned(
            [
                self.pipe.encode_prompt([each], do_classifier_free_guidance=False, device=self.text_device)[0][0]
                for each in prompts
            ]
        )

    def _levels(self, scheduler: Any, steps: int) -> None:
        clock = numpy.linspace(1000, 1, steps).astype(int)
        scheduler.set_timesteps(timesteps=clock, sigmas=clock / 1000, mu=self._mu(steps))

    def _mu(self, steps: int) -> float:
        """Logarithm of the shift, or the shift itself (`time_shift_type`): linear in the root of the number of tokens."""
        c = self.pipe.scheduler.config
        tokens = self.shape[-2] * self.shape[-1] // self.net.config.patch_size**2
        low, slope = c.get("base_shift", 0.25), c.get("max_shift", 0.75)
        return low + slope * (tokens / c.get("base_image_seq_len", 256)) ** 0.5

    @property
    def multiple(self) -> int:
        return self.pipe.vae_scale_factor * self.net.config.patch_size
