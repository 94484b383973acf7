"""Restoring from a program: one prior, loaded once, asked many times and from many threads.

    restorer = flowhelm.Restorer("photos-2")
    restored = restorer("photo.jpg", "deblur", std=0.03, operator_options={"sigma": 1.6})
    restored.save("restored.png")

The same settings give the same numbers as `flowhelm restore`, to the bit on the same machine: it is the same code.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ... import operators, raster
from ...known import PHOTOS
from ...step import Step
from ..errors import BadInput, TooLarge
from ..files import pictures
from ..files.atomic import sha256
from ..files.pictures import Picture
from ..models import opening
from ..models.device import exactly, to_device
from ..models.doctor import check_deepinv
from ..models.request import MemoryRequest, ModelRequest
from ..options.request import Plain, called_with
from ..options.signature import options
from ..run import Event, Run, Stepped, drive
from . import blur
from .problem import Problem, channels, opened, prepared
from .request import ITSELF, PictureRequest, RestoreRequest, RestoreSettings, function_of
from .result import finished
from .result import like as like_of
from .run import loop
from .settle import settle

PIXELS = 300_000_000
Shown = str | Path | Image.Image | Tensor | Picture
"""A picture: a file, a Pillow picture, a tensor `(c, h, w)` in [-1, 1] with c 1 (grey) or 3, or one that was read already."""
Given = Plain | Path | Image.Image | np.ndarray | Tensor
"""The value of an option; a picture, an array or a tensor may stand for a file that the option names."""
_turns: dict[str, threading.Lock] = {}
_alone = threading.Lock()


class Restored(NamedTuple):
    """What came out. flowhelm's own.

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
    residual: float | None
    evaluations: int
    seconds: float
    sha256: str
    scores: Mapping[str, Any]
    settings: Mapping[str, Any]
    like: Picture

    @property
    def image(self) -> Image.Image:
        """As a Pillow picture, clamped and rounded."""
        return pictures.shown(self.picture, self.like)

    def png(self) -> bytes:
        """The bytes of the file that `flowhelm restore` would write."""
        return pictures.encoded(self.picture, self.like)

    def save(self, path: str | Path) -> None:
        """As JPEG, PNG, WebP or TIFF, by its suffix. Raises BadInput if it cannot be written."""
        pictures.write(path, self.picture, self.like)


class Ready(NamedTuple):
    """A run that has been checked and prepared, for `Restorer.run`, and its settings as they are told."""

    problem: Problem
    settings: Mapping[str, Any]


class Restorer:
    """A prior that restores pictures, from any number of threads. flowhelm's own.

    Each call gives what it would give alone: preparations run side by side, the loops on one device take turns (as those of
    other restorers in the same process do). Bad input is a `BadInput`, a ValueError of one sentence, and leaves the restorer as it was.

    Args:
        prior: a bundled prior by name, a .safetensors file that `flowhelm train` wrote, or a pipeline of diffusers: a folder or org/name.
        device: cpu or cuda. threads: of the CPU, default torch's; set in each thread that calls.
        limit: pixels of the largest picture that is taken or made (times the particles of a method).
        memory: that one picture, mask or kernel may take to be read, "2GB" say; default half of what is free.
        opening: how a pipeline is opened and what it is told; see `flowhelm.app.models.request.ModelRequest`.
    """

    @called_with(ModelRequest)
    def __init__(
        self,
        prior: str | Path = PHOTOS,
        device: str = "cpu",
        threads: int | None = None,
        *,
        limit: int = PIXELS,
        memory: str | None = None,
        **opening_: Any,
    ):
        with plainly():
            check_deepinv()
            threads = threads or torch.get_num_threads()
            given = {"prior": str(prior), "device": str(to_device(device)), "threads": threads}
            request = ModelRequest.of(given | opening_, "Restorer")
            self.request = request.changed(**opening.settled(request))
            self.given, self.limit = given | opening_, limit
            self.budget = MemoryRequest.of({"memory": memory}, "Restorer").budget
            exactly(self.threads)
            # weights that are made in inference mode could never be differentiated through
            with torch.inference_mode(False):
                self.flow = drive(opened(self.request))
        index = torch.device(self.device).index or 0
        with _alone:
            self._turn = _turns.setdefault(f"{torch.device(self.device).type}:{index}", threading.Lock())

    @property
    def prior(self) -> str:
        return self.request.prior

    @property
    def device(self) -> str:
        return self.request.device

    @property
    def threads(self) -> int:
        return self.request.threads or 1

    @called_with(PictureRequest)
    def __call__(
        self, picture: Shown, operator: str = "deblur", *, watch: Callable[[Step], None] | None = None, **options: Any
    ) -> Restored:
        """The restored picture.

        Args:
            picture: a file, a Pillow picture, or a tensor `(c, h, w)` in [-1, 1] with c 1 (grey) or 3.
            operator: what was done to it, by name; see `flowhelm operators`.
            watch: called with every `Step`, while the device is held; what it raises ends the run.
            options: those of a restoration; see `flowhelm.app.restore.request.PictureRequest`. Where an operator's option names a file
                (a mask, a kernel), a Pillow picture, an array or a tensor may stand for it.

        Raises:
            BadInput: anything that is wrong with what was asked for.
            flowhelm.Diverged: a state that is not finite.
        """
        return self.run(self.prepare(picture, operator, **options), watch)

    @called_with(PictureRequest)
    def prepare(self, picture: Shown, operator: str = "deblur", **options: Any) -> Ready:
        """The first half of a call: reads, builds and checks everything, and does not wait for the device. Arguments as for a call."""
        with (
            tempfile.TemporaryDirectory() as folder, plainly(folder), torch.inference_mode(False), torch.no_grad(),
            raster.within(self.budget),
        ):  # fmt: skip
            exactly(self.threads)
            given, instead = self._filed(operator, options.pop("operator_options", None) or {}, Path(folder))
            options = {**options, "operator": operator, "operator_options": given}
            asked = {name: value for name, value in options.items() if value is not None}
            PictureRequest.of(asked, "Restorer")  # nothing but what a picture takes
            request = RestoreRequest.of({**self.given, **asked, "photo": "picture.png"}, "Restorer")
            function_of("operator", operator)
            read = self._read(picture, channels(operator, request.simulate), request.std)
            looked = request.std == "auto" or blur.asked(operator, given)
            with self._turn if looked else nullcontext():  # noise and blur are estimated by the prior
                settings = settle(request, flow=self.flow, picture=read)
            self._check_size(settings, read)
            # what a decoder cannot say is measured by running it
            with self._turn if settings.codec_error else nullcontext():
                problem = drive(prepared(settings, read, self.flow))
        told = problem.settings.stored()
        told["photo"] = str(Path(picture).absolute()) if isinstance(picture, str | Path) else None
        told["operator_options"] |= instead
        return Ready(problem, {name: value for name, value in told.items() if name != "out"})

    def run(self, ready: Ready, watch: Callable[[Step], None] | None = None) -> Restored:
        """The second half of a call: the loop, when the device is free. A `Ready` serves once: its noise is drawn."""

        def each(event: Event) -> None:
            if watch is not None and isinstance(event, Stepped) and event.step is not None:
                watch(event.step)

        return drive(self.events(ready), each)

    @torch.inference_mode(False)
    @torch.no_grad()
    def events(self, ready: Ready) -> Run[Restored]:
        """`run` as a piece of work, which holds the device; who closes it ends the run. What a method refuses is bad input."""
        problem = ready.problem
        with self._turn, plainly():
            exactly(self.threads)
            place = yield from loop(problem)
            picture, result = finished(problem, place)
        return Restored(
            picture[0], result.residual, place.evaluations, place.seconds, result.sha256, result.scores, ready.settings, like_of(problem)
        )  # fmt: skip

    def _filed(
        self, operator: str, given: Mapping[str, Given], folder: Path
    ) -> tuple[dict[str, Plain], dict[str, Plain]]:
        """The options with files for what stands for one, and what to say of those in the settings."""
        known = options(function_of("operator", operator))
        plain: dict[str, Any] = {}
        instead: dict[str, Plain] = {}
        mask = given.get("mask")
        if operator == "inpaint" and isinstance(mask, str) and mask == ITSELF and not Path(ITSELF).exists():
            raise BadInput(
                "inpaint: mask='alpha' is of the command line; give the transparency itself: image.getchannel('A')"
            )
        for name, value in given.items():
            plain[name] = value
            if isinstance(value, str | bool | int | float | Path | None) or name not in known:
                continue
            if Path not in known[name].types:
                raise BadInput(f"{operator}: {name} names no file; expected a number or a word, got a picture or array")
            if isinstance(value, Image.Image):  # as the operator would read it, whatever its mode
                upright = ImageOps.exif_transpose(value)
                if upright.has_transparency_data:  # what is transparent in a mask is missing
                    upright.convert("RGBA").save(path := folder / f"{name}.png")
                else:
                    upright.convert("F").save(path := folder / f"{name}.tiff")
            else:
                array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
                array = array.squeeze()
                if array.ndim != 2:
                    raise BadInput(f"{operator}: {name}: expected an array (h, w), got shape {array.shape}")
                path = _saved(array, folder / name, operator == "inpaint")
            plain[name], instead[name] = str(path), f"in memory, sha256 {sha256(path)}"
        return plain, instead

    def _read(self, picture: Shown, channels: int, std: str | float) -> Picture:
        if isinstance(picture, Picture):
            return picture
        if isinstance(picture, str | Path):
            return pictures.read(picture, channels=channels, limit=self.limit)
        if isinstance(picture, Image.Image):
            return pictures.of_pil(picture, channels=channels, limit=self.limit)
        if not isinstance(picture, Tensor):
            raise BadInput(f"expected a path, a Pillow picture or a tensor, got {type(picture).__name__}")
        return _of_tensor(picture, channels, std)

    def _check_size(self, settings: RestoreSettings, picture: Picture) -> None:
        channels, height, width = picture.pixels.shape[1:]
        if not settings.simulate:
            builder = function_of("operator", settings.operator)
            _, height, width = operators.clean_shape(builder, (channels, height, width), settings.operator_values)
        rows = max(1, settings.particles)
        if height * width * rows > self.limit:
            what = f"{height} x {width} pixels" + (f" for {rows} particles" if rows > 1 else "")
            raise TooLarge(
                f"the restored picture would have {what}, more than {self.limit / 1e6:g} megapixels; scale the picture down"
            )


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


def _of_tensor(tensor: Tensor, channels: int, std: str | float) -> Picture:
    one = tensor[0] if tensor.dim() == 4 and len(tensor) == 1 else tensor
    if one.dim() != 3 or len(one) not in (1, 3) or not one.numel() or not one.is_floating_point():
        raise BadInput(
            f"expected a tensor (c, h, w) of floats with c 1 or 3, got {tuple(tensor.shape)} of {tensor.dtype}"
        )
    one = one.detach().cpu().float().clone()
    most = 1 + 8 * (0.2 if std == "auto" else float(std))  # noise goes beyond what a picture may hold
    if not one.isfinite().all() or one.abs().max() > most:
        raise BadInput(
            f"expected a tensor in [-1, 1], got values from {one.min():g} to {one.max():g}; for 8 bits take levels / 127.5 - 1"
        )
    grey = len(one) == 1
    if channels < len(one):
        one = pictures.luma(one)
    return Picture(one.expand(channels, -1, -1).contiguous()[None], grey=grey)
