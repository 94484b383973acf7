"""A loaded diffusers pipeline as a flow: what all families share. A family says how its network is asked, and little else.

    flow = flowhelm.load("black-forest-labs/FLUX.2-dev").sized(512, 512).bind(["a portrait, sharp, natural light"])
    final = run(steer.mpc_flow(flow, y, flow.source(noise), flow.times(28)))

Only public pieces of a pipeline are used: its components, `encode_prompt`, the scheduler's `set_timesteps`. Every family has
noise at sigma = 1 and clean latents at sigma = 0 on the linear path; here t = 1 - sigma, and what its network wants to be told
(1000 sigma, 1 - sigma, a rounded label), the sign of its answer, its packing and its latents' units stay inside its file.
"""

from __future__ import annotations

import abc
import inspect
import math
from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from ...adapter import Adaptable
from ...codec import Codec
from ...flow import Flow, Guidance
from ...guide import cfg
from ...path import Path, linear
from ..codecs import autoencoder

Told = Mapping[str, Tensor]
"""What a network is told about each row, each `(rows, ...)`, under the names of the pipeline's own arguments."""


@dataclass(frozen=True, eq=False)
class Pipeline(Adaptable, Flow, abc.ABC):
    """A diffusers pipeline as a prior; made by `load` and `wrap`.

    Attributes:
        pipe: the pipeline. Its weights are frozen by `load` and `wrap`; it is not changed otherwise.
        size: of the pictures, (height, width) in pixels; see `sized`.
        told, null: what the network is told of each row, and what guidance compares with; see `bind`.
        guidance: how the two velocities are joined; None if the network is asked once.
        grid: "pipeline" for the noise levels that the pipeline itself would visit, whatever its scheduler does to them (SD3's is
            shifted twice), "exact" for evenly spaced levels shifted once, down to 0.

    The state `(b, c, h, w)` is the latent in the units of the network, float32; the network and the decoder run in their own
    dtype and on their own device. A batch of a multiple of the bound rows repeats each of them: particles.
    """

    pipe: Any
    size: tuple[int, int]
    told: Told = field(default_factory=dict)
    null: Told | None = None
    guidance: Guidance | None = None
    grid: Literal["pipeline", "exact"] = "pipeline"
    _known: dict[Any, Any] = field(default_factory=dict, repr=False)  # what the encoders said of texts, for all copies

    classes: ClassVar[tuple[str, ...]] = ()
    """Pipeline classes of this family, by name."""
    scale: ClassVar[float] = 4.0
    """Of guidance, where `bind` is given none; the pipeline's own default."""
    needs: ClassVar[tuple[str, ...]] = ("prompt_embeds",)
    """Names that embeddings must have when `bind` is given them instead of texts."""
    reads: ClassVar[tuple[str, ...]] = ("tokenizer", "text_encoder")
    """Components without which it reads no texts."""

    @classmethod
    def fits(cls, pipe: Any) -> bool:
        """Whether this family is for a pipeline of its classes; where one class stands for several kinds of model."""
        return True

    def __post_init__(self) -> None:
        height, width = self.size
        step = self.multiple
        if height < step or width < step or height % step or width % step:
            near = " x ".join(str(max(step, round(side / step) * step)) for side in self.size)
            raise ValueError(
                f"{self.name}: expected a height and a width that {step} divides, got {height} x {width}; {near} would do"
            )

    # --- what a family says -------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _ask(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        """d x_t / dt: state `(b, *shape)` in the network's dtype, sigma = 1 - t `(b,)` at least float32 -> velocity towards clean."""

    @abc.abstractmethod
    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        """Embeddings of texts, one row each, under the names of `needs`; without gradient."""

    def _texts(
        self, prompts: list[str], negatives: list[str] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Embeddings of the texts and of those that guidance compares with; where a family treats the latter differently."""
        return self._text(prompts), None if negatives is None else self._text(negatives)

    def _rule(self, scale: float) -> Guidance | None:
        """The family's own guidance; None if `scale` asks for none."""
        return partial(cfg, scale=scale) if scale > 1 else None

    def _extra(self, told: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
        """What else the network is told, such as an embedded guidance scale; each `(rows, ...)`."""
        return told

    def _against(self, told: dict[str, Tensor], null: dict[str, Tensor]) -> dict[str, Tensor]:
        """What guidance compares with, where that is not said by embeddings alone."""
        return null

    def stand_in(self, rows: int = 1, words: int | None = None) -> dict[str, Tensor]:
        """In the place of what `_text` makes, where only shapes count (`flowhelm plan`): ones under the names of `needs`, on the network's
        device, as its config alone says.

        Args:
            words: tokens of each text, none masked; None for as many as the pipeline pads a text to, or takes at most.

        A family whose network takes anything but embeddings `(rows, words, width)`, int64 masks `(rows, words)` and pooled texts
        `(rows, width)` says so here, and so does one that does not name their widths as others do.
        """
        count = words or self._words
        made = {}
        for name in self.needs:
            if "mask" in name:
                made[name] = self._ones(rows, count, dtype=torch.int64)
            elif "pooled" in name:
                made[name] = self._ones(rows, self._width("pooled_projection_dim"))
            else:
                made[name] = self._ones(rows, count, self._width(*_WIDTHS))
        return made

    @property
    def net(self) -> Any:
        """The network: the transformer or U-Net."""
        return self.pipe.transformer

    def with_net(self, net: Any) -> Self:
        """The same prior over another network; the pipeline is a copy that shares everything else."""
        pipe = copy(self.pipe)
        name = next(name for name, each in self.pipe.components.items() if each is self.net)
        setattr(pipe, name, net)
        return replace(self, pipe=pipe)

    @property
    def nets(self) -> tuple[Any, ...]:
        """All networks that a velocity asks, where guidance has one of its own."""
        return (self.net,)

    @property
    def multiple(self) -> int:
        """What divides the height and the width of every picture."""
        return self.pipe.vae_scale_factor

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        factor = self.pipe.vae_scale_factor
        return (self.net.config.in_channels, self.size[0] // factor, self.size[1] // factor)

    @cached_property
    def codec(self) -> Codec:
        """Between latents in the units of the network and pictures."""
        return autoencoder(self.pipe.vae)

    def _levels(self, scheduler: Any, steps: int) -> None:
        """Sets the scheduler's noise levels as the pipeline does."""
        scheduler.set_timesteps(steps)

    def native(self, x: Tensor) -> Tensor:
        """The state in the layout in which the pipeline takes `latents`; for comparing the two."""
        return x

    def returned(self, latents: Tensor) -> Tensor:
        """What the pipeline returns as latents, as a state; for comparing the two."""
        return latents

    def factor(self, t: Tensor) -> Tensor:
        """The pipeline's latents at time t (0-dim) in units of the state; for comparing the two."""
        return torch.ones_like(t)

    @property
    def reference(self) -> Any:
        """The pipeline to compare with: itself, unless only another scheduler of it takes Euler steps."""
        return self.pipe

    def arguments(self, prompt: str | Told, negative: str | Told | None, scale: float) -> dict[str, Any]:
        """Of the pipeline's own call: what says the same as `bind` with these; for comparing the two."""
        told: dict[str, Any] = {"prompt": prompt} if isinstance(prompt, str) else dict(prompt)
        if isinstance(negative, str):
            told["negative_prompt"] = negative
        elif negative is not None:
            told |= {f"negative_{name}": each for name, each in negative.items()}
        return told | {"guidance_scale": scale}

    # --- what all do ---------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return type(self.pipe).__name__

    @property
    def path(self) -> Path:  # type: ignore[override]
        return linear

    @property
    def pixels(self) -> bool:  # type: ignore[override]
        return False

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        told = self._for(self.told, len(x))
        if self.guidance is None:
            return self._slope(x, t, told)
        null = self._for(self.null or {}, len(x))
        if told.keys() == null.keys() and all(told[name].shape == null[name].shape for name in told):
            both = {name: torch.cat([told[name], null[name]]) for name in told}
            twice = t if t.ndim == 0 else torch.cat([t, t])
            given, without = self._slope(torch.cat([x, x]), twice, both).chunk(2)
        else:  # texts of different lengths
            given, without = (self._slope(x, t, each) for each in (told, null))
        return self.guidance(given, without, t)

    def _slope(self, x: Tensor, t: Tensor, told: Told) -> Tensor:
        """The network's velocity, in the dtype and on the device of x."""
        # half precision cannot tell 999 from 1000
        device, dtype = self._place
        sigma = (1 - t).to(device, torch.promote_types(dtype, torch.float32)).expand(len(x))
        return self._ask(x.to(device, dtype), sigma, told).to(x)

    @property
    def _place(self) -> tuple[torch.device, torch.dtype]:
        """Where the network is and what it computes in. A model of diffusers walks over all its modules to say so: too slow to be
        asked at every evaluation, so it is asked once for each type that its first weight has had."""
        first = next(self.net.parameters())
        if first.dtype not in self._computes:
            self._computes[first.dtype] = self.net.dtype
        return first.device, self._computes[first.dtype]

    @cached_property
    def _computes(self) -> dict[torch.dtype, torch.dtype]:
        return {}

    def encode(self, image: Tensor) -> Tensor:
        return self.codec.encode(image)

    def decode(self, clean: Tensor) -> Tensor:
        return self.codec.decode(clean)

    def times(self, steps: int) -> Tensor:
        even = super().times(steps)  # says what is wrong with the number
        if self.grid == "exact":
            return self._exact(even)
        times = self.visited(steps)
        times[0] = 0  # pure noise, even where a scheduler calls its level 0.9997
        return times

    def visited(self, steps: int) -> Tensor:
        """The times that the pipeline itself would visit, `(steps + 1,)` float64 on the CPU; the first may be a little above 0."""
        scheduler = deepcopy(self.pipe.scheduler)  # the pipeline's own keeps its state
        self._levels(scheduler, steps)
        return 1 - scheduler.sigmas.double().cpu()

    def _exact(self, even: Tensor) -> Tensor:
        """Evenly spaced levels with the shift of the scheduler applied once."""
        factor, sigma = self._shift(len(even) - 1), 1 - even
        return 1 - factor * sigma / (1 + (factor - 1) * sigma)

    def _shift(self, steps: int) -> float:
        """What sigma / (1 - sigma) is multiplied by."""
        config = self.pipe.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return config.get("shift") or config.get("flow_shift") or 1.0
        mu = self._mu(steps)
        return mu if config.get("time_shift_type") == "linear" else math.exp(mu)

    def _mu(self, steps: int) -> float:
        """Log of the shift for this size, linear in the number of tokens (2 x 2 latents)."""
        c = self.pipe.scheduler.config
        few, many = c.get("base_image_seq_len", 256), c.get("max_image_seq_len", 4096)
        low, high = c.get("base_shift", 0.5), c.get("max_shift", 1.15)
        return low + (high - low) * (self._tokens - few) / (many - few)

    @property
    def _tokens(self) -> int:
        return self.shape[-2] * self.shape[-1] // 4

    def bind(
        self,
        prompts: Sequence[str] | Told,
        *,
        negative: str | Sequence[str] | Told | None = None,
        scale: float | None = None,
        guidance: Guidance | None = None,
    ) -> Self:
        """The same prior, told what each row shows.

        Args:
            prompts: one text per row; or their embeddings, under the names that the pipeline's own call gives them
                (`prompt_embeds`, `pooled_prompt_embeds`, ...), each `(rows, ...)`.
            negative: what guidance compares with: a text for all rows, one each, or embeddings. None is the empty text.
            scale: of guidance; None for the family's default. Families with an embedded scale (FLUX.1, FLUX.2) are told it.
            guidance: instead of the family's own rule, for instance `partial(guide.raag, scale=10.0)`.

        The text encoders run here, without gradient, and only once for each text. Cost of a velocity with guidance: two rows per row.

        Raises:
            ValueError: no rows, unequal rows, or embeddings that lack a name.
        """
        value = self.scale if scale is None else scale
        rule = guidance if guidance is not None else self._rule(value)
        if isinstance(prompts, Mapping):
            told = self._checked(prompts)
            null = None
            if rule is not None:
                if not isinstance(negative, Mapping):
                    raise ValueError(
                        f"{self.name}: expected embeddings as `negative`, too, since guidance compares with them; "
                        "or pass scale=1"
                    )
                null = self._checked(negative)
        else:
            texts = [prompts] if isinstance(prompts, str) else list(prompts)
            if not texts:
                raise ValueError(f"{self.name}: expected at least one prompt, got none; pass [''] for no words")
            if isinstance(negative, Mapping):
                raise ValueError(f"{self.name}: expected texts as `negative`, since the prompts are texts")
            others = [negative or ""] * len(texts) if negative is None or isinstance(negative, str) else list(negative)
            if len(others) != len(texts):
                raise ValueError(f"{self.name}: expected {len(texts)} negative prompts, got {len(others)}")
            told, null = self._read(texts, others if rule is not None else None)
        device, _ = self._place  # moved once, not at every evaluation
        told = {name: each.detach().to(device) for name, each in self._extra(told, value).items()}
        if null is not None:
            null = {
                name: each.detach().to(device) for name, each in self._against(told, self._extra(null, value)).items()
            }
        return replace(self, told=told, null=null, guidance=rule)

    def _read(self, texts: list[str], others: list[str] | None) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Embeddings of texts: every different pair goes through the encoders once in the life of the flow and its copies."""
        pairs = list(zip(texts, texts if others is None else others, strict=True))
        once = tuple(dict.fromkeys(pairs))
        key = (once, others is None)
        if key not in self._known:
            self._can_read()
            given = [text for text, _ in once]
            with torch.no_grad():  # encode_prompt outside a pipeline's call would build a graph
                self._known[key] = self._texts(given, None if others is None else [other for _, other in once])
        row = torch.tensor([once.index(pair) for pair in pairs])

        def all_rows(said: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: each.detach()[row.to(each.device)] for name, each in said.items()}

        told, null = self._known[key]
        return all_rows(told), None if null is None else all_rows(null)

    @property
    def text_device(self) -> torch.device:
        """Where the text encoders are: families give it to `encode_prompt`, since it may not be where the network is."""
        device = next((each.device for name, each in self._encoders() if each is not None), None)
        return self.net.device if device is None else device

    def without_encoders(self) -> Self:
        """The same prior with the text encoders let go, to have their memory. Texts that were bound before can be bound again.

        They are taken out of `pipe`, too: who holds it cannot use them any more.
        """
        for name, each in self._encoders():
            if each is not None:
                setattr(self.pipe, name, None)
        return self

    def _encoders(self) -> list[tuple[str, Any]]:
        return [(name, each) for name, each in self.pipe.components.items() if name.startswith("text_encoder")]

    def sized(self, height: int, width: int) -> Self:
        """The same prior for pictures of another size in pixels; ValueError if the family cannot take it."""
        return replace(self, size=(height, width))

    def rows(self, index: Tensor, total: int) -> Self:
        if not self.told:
            return self

        def picked(told: Told) -> dict[str, Tensor]:
            return {name: each[index.to(each.device)] for name, each in self._for(told, total).items()}

        return replace(self, told=picked(self.told), null=None if self.null is None else picked(self.null))

    def _for(self, told: Told, rows: int) -> dict[str, Tensor]:
        """What each of so many rows is told, on the network's device."""
        if not told:
            raise ValueError(
                f"{self.name}: the flow has no prompt yet; call flow.bind(['a prompt']) first ([''] will do)"
            )
        bound = len(next(iter(told.values())))
        if rows % bound:
            raise ValueError(
                f"{self.name}: expected a multiple of the {bound} bound rows, got a batch of {rows}; bind one prompt per row"
            )
        device, _ = self._place
        return {
            name: each.to(device) if bound == rows else each.to(device).repeat_interleave(rows // bound, dim=0)
            for name, each in told.items()
        }

    def _checked(self, embeddings: Told) -> dict[str, Tensor]:
        lacking = [name for name in self.needs if name not in embeddings]
        if lacking:
            raise ValueError(
                f"{self.name}: expected embeddings {', '.join(self.needs)}, got none for {', '.join(lacking)}"
            )
        if len({len(each) for each in embeddings.values()}) != 1:
            rows = {name: len(each) for name, each in embeddings.items()}
            raise ValueError(f"{self.name}: expected as many rows of every embedding, got {rows}")
        return dict(embeddings)

    @property
    def _words(self) -> int:
        """Tokens that `encode_prompt` pads a text to, or takes at most, unless it is told another number."""
        known = inspect.signature(type(self.pipe).encode_prompt).parameters.get("max_sequence_length")
        return known.default if known is not None and isinstance(known.default, int) else 512

    def _width(self, *keys: str) -> int:
        """Of embeddings: the first of these that the network's config has."""
        found = next((self.net.config[key] for key in keys if isinstance(self.net.config.get(key), int)), None)
        if found is None:
            raise ValueError(
                f"{self.name}: expected the width of its embeddings in the network's config, under {' or '.join(keys)}, got none; "
                "say it in the family's stand_in"
            )
        return found

    def _ones(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        device, own = self._place
        return torch.ones(shape, dtype=dtype or own, device=device)

    def _can_read(self) -> None:
        lacking = [name for name in self.reads if getattr(self.pipe, name, None) is None]
        if lacking:
            raise ValueError(
                f"{self.name}: expected a {' and a '.join(lacking)} to read prompts with, got none; load the pipeline with them, "
                f"or bind embeddings ({', '.join(self.needs)})"
            )


_WIDTHS = ("joint_attention_dim", "caption_channels", "cap_feat_dim", "cross_attention_dim", "text_embed_dim")
"""What networks call the width of embeddings."""
