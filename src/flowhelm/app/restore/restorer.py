"""Restoring from a program: one prior, loaded once, asked many times and from many threads.

    restorer = flowhelm.Restorer("photos")
    restored = restorer("photo.jpg", "deblur", std=0.03, operator_options={"sigma": 1.6})
    restored.save("restored.png")

The same settings give the same numbers as `flowhelm restore`, to the bit on the same machine: it is the same code.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ... import guide, operators
from ...step import Step, run
from ..errors import BadInput, TooLarge
from ..files import atomic as files
from ..files import pictures as images
from ..files.pictures import Picture
from ..models import opening as models
from ..models.doctor import check_deepinv
from ..options.request import Plain
from ..options.signature import bind, options, pick
from . import run as job
from .observed import restore as steps_of
from .presets import STD
from .problem import Problem, begun, channels, opened, prepared, timed
from .result import finished
from .result import like as like_of

PIXELS = 300_000_000
Given = Plain | Path | Image.Image | np.ndarray | Tensor
"""The value of an option; a picture, an array or a tensor may stand for a file that the option names."""
_turns: dict[str, threading.Lock] = {}
_alone = threading.Lock()


class Restored(NamedTuple):
    """What came out.

    Attributes:
        picture: `(c, h, w)` float32 on the CPU, nominally in [-1, 1], not clamped.
        residual: root mean square misfit in units of the noise; about 1 fits.
        evaluations: of the network, for one picture. seconds: that the loop took.
        sha256: of the numbers in `picture`; that of `flowhelm restore` with the same settings.
        scores: `psnr`, `ssim`, `degraded_psnr`, `degraded_ssim` of a simulation, where they exist; else nothing.
        settings: all of the run, as JSON can hold them.
        like: what `save` takes over from the picture that was given: transparency, 16 bits, profile, EXIF.
    """

    picture: Tensor
    residual: float
    evaluations: int
    seconds: float
    sha256: str
    scores: Mapping[str, Any]
    settings: Mapping[str, Any]
    like: Picture

    @property
    def image(self) -> Image.Image:
        """As a Pillow picture, clamped and rounded."""
        return images.shown(self.picture, self.like)

    def png(self) -> bytes:
        """The bytes of the file that `flowhelm restore` would write."""
        return images.encoded(self.picture, self.like)

    def save(self, path: str | Path) -> None:
        """As JPEG, PNG, WebP or TIFF, by its suffix. Raises BadInput if it cannot be written."""
        images.write(path, self.picture, self.like)


class Ready(NamedTuple):
    """A run that has been checked and prepared, for `Restorer.run`."""

    problem: Problem
    settings: Mapping[str, Any]


class Restorer:
    """A prior that restores pictures, from any number of threads.

    Each call gives what it would give alone: preparations run side by side, the loops on one device take turns (as those of
    other restorers in the same process do). Bad input is a `BadInput`, a ValueError of one sentence, and leaves the restorer as it was.

    Args:
        prior: a bundled prior by name, a .safetensors file that `flowhelm train` wrote, or a pipeline of diffusers: a folder or org/name.
        device: cpu or cuda. threads: of the CPU, default torch's; set in each thread that calls.
        prompt, negative, scale, dtype, quantize, checkpointing, tiling, no_plan: of pipelines, as for `flowhelm restore`.
        limit: pixels of the largest picture that is taken or made (times the particles of a method).
    """

    def __init__(
        self,
        prior: str | Path = "photos",
        device: str = "cpu",
        threads: int | None = None,
        *,
        prompt: str | None = None,
        negative: str | None = None,
        scale: float | None = None,
        dtype: str | None = None,
        quantize: str | None = None,
        checkpointing: bool = False,
        tiling: bool = False,
        no_plan: bool = False,
        limit: int = PIXELS,
    ):
        with plainly():
            check_deepinv()
            self.prior, self.device, self.limit = str(prior), str(files.to_device(device)), limit
            self.threads = threads or torch.get_num_threads()
            self.model: dict[str, Any] = {
                "prompt": prompt, "negative": negative, "scale": scale, "dtype": dtype, "quantize": quantize,
                "checkpointing": checkpointing, "tiling": tiling, "no_plan": no_plan,
            }  # fmt: skip
            opening = models.settled(self.prior, device=self.device, **self.model)
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
            self._set_threads()
            # weights that are made in inference mode could never be differentiated through
            with torch.inference_mode(False):
                self.flow = opened({"prior": self.prior, "device": self.device, **opening})
        index = torch.device(self.device).index or 0
        with _alone:
            self._turn = _turns.setdefault(f"{torch.device(self.device).type}:{index}", threading.Lock())

    def __call__(
        self,
        picture: str | Path | Image.Image | Tensor,
        operator: str = "deblur",
        *,
        method: str | None = None,
        std: float = STD,
        steps: int | None = None,
        seed: int = 0,
        simulate: bool = False,
        tile: int | None = None,
        keep: bool = False,
        warm: float | None = None,
        codec_error: bool = False,
        operator_options: Mapping[str, Given] | None = None,
        method_options: Mapping[str, Plain] | None = None,
        watch: Callable[[Step], None] | None = None,
    ) -> Restored:
        """The restored picture.

        Args:
            picture: a file, a Pillow picture, or a tensor `(c, h, w)` in [-1, 1] with c 1 (grey) or 3.
            operator: what was done to it, by name; see `flowhelm operators`.
            method: by name; see `flowhelm methods`; none: the operator's preset.
            std: standard deviation of its noise, with pixel values in [-1, 1] (8-bit levels / 127.5).
            steps: none: the operator's preset.
            seed: the same seed gives the same result.
            simulate: the picture is clean: degrade it first, and score the result.
            tile: cut the network call into tiles of so many pixels; 0: never; none: as memory asks.
            keep: give back what was measured exactly as it was, noise and all; linear operators.
            warm: begin from the photograph at this time, 0.2 to 0.5 say, not from noise at 0.
            codec_error: add to std what the prior's decoder cannot say.
            operator_options: by name. Where one names a file (a mask, a kernel), a Pillow picture, an array or a tensor may stand for it.
            method_options: by name.
            watch: called with every `Step`, while the device is held; what it raises ends the run.

        Raises:
            BadInput: anything that is wrong with what was asked for.
            flowhelm.Diverged: a state that is not finite.
        """
        ready = self.prepare(
            picture, operator, method=method, std=std, steps=steps, seed=seed, simulate=simulate, tile=tile, keep=keep, warm=warm,
            codec_error=codec_error, operator_options=operator_options, method_options=method_options,
        )  # fmt: skip
        return self.run(ready, watch)

    def prepare(
        self,
        picture: str | Path | Image.Image | Tensor | Picture,
        operator: str = "deblur",
        *,
        method: str | None = None,
        std: float = STD,
        steps: int | None = None,
        seed: int = 0,
        simulate: bool = False,
        tile: int | None = None,
        keep: bool = False,
        warm: float | None = None,
        codec_error: bool = False,
        operator_options: Mapping[str, Given] | None = None,
        method_options: Mapping[str, Plain] | None = None,
    ) -> Ready:
        """The first half of a call: reads, builds and checks everything, and does not wait for the device. Arguments as for a call."""
        with tempfile.TemporaryDirectory() as folder, plainly(folder), torch.inference_mode(False), torch.no_grad():
            self._set_threads()
            if steps is not None and steps < 1:
                raise BadInput(f"steps: expected at least 1, got {steps}")
            if tile is not None and tile < 0:
                raise BadInput(f"tile: expected 0 (never) or a number of pixels, got {tile}")
            given, instead = self._filed(operator, operator_options or {}, Path(folder))
            settings = job.settle(
                Path("picture.png"), operator, given={"operator": given, "method": method_options or {}}, method=method, steps=steps,
                std=std, seed=seed, prior=self.prior, simulate=simulate, out=None, threads=self.threads, device=self.device, tile=tile,
                model=self.model, keep=keep, warm=warm, codec_error=codec_error, flow=self.flow,
            )  # fmt: skip
            read = self._read(picture, channels(settings), std)
            self._check_size(settings, read)
            # what a decoder cannot say is measured by running it
            with self._turn if codec_error else nullcontext():
                problem = prepared(settings, read, lambda line: None, self.flow)
            settings = dict(timed(problem, settings))
        settings["photo"] = str(Path(picture).absolute()) if isinstance(picture, str | Path) else None
        settings["operator_options"] = settings["operator_options"] | instead
        return Ready(problem, {name: value for name, value in settings.items() if name != "out"})

    def run(self, ready: Ready, watch: Callable[[Step], None] | None = None) -> Restored:
        """The second half of a call: the loop, when the device is free. A `Ready` serves once: its noise is drawn."""
        problem, settings = ready
        counted = guide.counted(problem.flow)
        with self._turn, torch.inference_mode(False), torch.no_grad():
            self._set_threads()
            times = torch.tensor(settings["times"], dtype=torch.float64)
            began = time.monotonic()
            with plainly():
                x = begun(problem, settings, times)
                steps = steps_of(counted, problem.observed, problem.method, times, problem.noise, x=x)
            last = run(_told(steps), watch)
            seconds = time.monotonic() - began
            picture, result = finished(problem, settings, last.x, job.carried(problem.method, last.info))
        residual, sha256 = result.pop("residual"), result.pop("sha256")
        like = like_of(problem, settings)
        return Restored(picture[0], residual, counted.count.rows, seconds, sha256, result, settings, like)

    def _set_threads(self) -> None:
        if torch.get_num_threads() != self.threads:  # each thread has its own
            torch.set_num_threads(self.threads)

    def _filed(
        self, operator: str, given: Mapping[str, Given], folder: Path
    ) -> tuple[dict[str, Plain], dict[str, Plain]]:
        """The options with files for what stands for one, and what to say of those in the settings."""
        known = options(pick("operator", operator, operators.ALL))
        plain: dict[str, Any] = {}
        instead: dict[str, Plain] = {}
        for name, value in given.items():
            plain[name] = value
            if isinstance(value, str | bool | int | float | Path | None) or name not in known:
                continue
            if Path not in known[name].types:
                raise BadInput(f"{operator}: {name} names no file; expected a number or a word, got a picture or array")
            if isinstance(value, Image.Image):  # as the operator would read it, whatever its mode
                value.convert("F").save(path := folder / f"{name}.tiff")
            else:
                array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
                array = array.squeeze()
                if array.ndim != 2:
                    raise BadInput(f"{operator}: {name}: expected an array (h, w), got shape {array.shape}")
                path = _saved(array, folder / name, operator == "inpaint")
            plain[name], instead[name] = str(path), f"in memory, sha256 {files.sha256(path)}"
        return plain, instead

    def _read(self, picture: str | Path | Image.Image | Tensor | Picture, channels: int, std: float) -> Picture:
        if isinstance(picture, Picture):
            return picture
        if isinstance(picture, str | Path):
            return images.read(picture, channels=channels, limit=self.limit)
        if isinstance(picture, Image.Image):
            return images.of_pil(picture, channels=channels, limit=self.limit)
        if not isinstance(picture, Tensor):
            raise BadInput(f"expected a path, a Pillow picture or a tensor, got {type(picture).__name__}")
        return _of_tensor(picture, channels, std)

    def _check_size(self, settings: Mapping[str, Any], picture: Picture) -> None:
        builder = pick("operator", settings["operator"], operators.ALL)
        channels, height, width = picture.pixels.shape[1:]
        if not settings["simulate"]:
            values = bind(builder, settings["operator_options"])
            _, height, width = operators.clean_shape(builder, (channels, height, width), values)
        rows = max(1, int(settings["method_options"].get("particles") or 1))
        if height * width * rows > self.limit:
            what = f"{height} x {width} pixels" + (f" for {rows} particles" if rows > 1 else "")
            raise TooLarge(
                f"the restored picture would have {what}, more than {self.limit / 1e6:g} megapixels; scale the picture down"
            )


def _told(steps: Iterator[Step]) -> Iterator[Step]:
    """The steps, with what a method refuses as bad input (what a watcher raises is its own)."""
    with plainly():
        yield from steps


@contextmanager
def plainly(folder: str | None = None) -> Iterator[None]:
    """What was asked wrongly as BadInput, in the words of Python: `codec_error`, not `--codec-error`; `folder` is not told."""
    try:
        yield
    except ValueError as error:
        said = re.sub(r"--([a-z][a-z-]*)", lambda flag: flag[1].replace("-", "_"), str(error))
        said = said.replace(f"{folder}{os.sep}", "") if folder else said
        raise (TooLarge if isinstance(error, TooLarge) else BadInput)(said) from error


def _saved(array: np.ndarray, stem: Path, mask: bool) -> Path:
    """An array as a file: of a mask, 1 (known) is white."""
    if not mask:
        np.save(path := stem.with_suffix(".npy"), array, allow_pickle=False)
        return path
    if not np.isin(array, (0, 1)).all():
        raise BadInput("inpaint: mask: expected 0 (missing) and 1 (known), got other values; compare it first")
    Image.fromarray(array.astype(np.uint8) * 255).save(path := stem.with_suffix(".png"))
    return path


def _of_tensor(tensor: Tensor, channels: int, std: float) -> Picture:
    one = tensor[0] if tensor.dim() == 4 and len(tensor) == 1 else tensor
    if one.dim() != 3 or len(one) not in (1, 3) or not one.numel() or not one.is_floating_point():
        raise BadInput(
            f"expected a tensor (c, h, w) of floats with c 1 or 3, got {tuple(tensor.shape)} of {tensor.dtype}"
        )
    one = one.detach().cpu().float().clone()
    if not one.isfinite().all() or one.abs().max() > 1 + 8 * std:  # noise goes beyond what a picture may hold
        raise BadInput(
            f"expected a tensor in [-1, 1], got values from {one.min():g} to {one.max():g}; for 8 bits take levels / 127.5 - 1"
        )
    grey = len(one) == 1
    if channels < len(one):
        one = images.luma(one)
    return Picture(one.expand(channels, -1, -1).contiguous()[None], grey=grey)
