"""Scratches, dust and creases of a scan as a mask file for `restore --operator inpaint`, and a picture to look at first."""

from __future__ import annotations

import shlex
from pathlib import Path

import torch
from torch import Tensor

from ...flaws import flaws
from ..errors import BadInput
from ..files import stacks
from ..files.atomic import check_writable, put_picture
from ..files.pictures import Picture, to_pil
from ..run import Noted, Run, Said, Warned, Written, near
from .record import check_outputs
from .request import MaskRequest

BELIEVED = 0.005
"""Share of a picture that is marked at the sensitivity SURE, from which scratches are believed without being asked for."""
SURE = 0.3
MUCH = 0.08
"""Share above which what is marked is hardly damage alone."""
RED = (1.0, -0.6, -0.3)


def mask(request: MaskRequest) -> Run[float]:
    """Writes the mask (white is kept, black is to be filled in) and the photograph with the marks in red; returns the share marked.

    Nothing is written where nothing is found. Raises BadInput.
    """
    out = request.out or request.photo.with_name(f"{request.photo.stem}.mask.png")
    if out.suffix.lower() != ".png":
        raise BadInput(f"--out: a mask is a .png file, got {str(out)!r}; name it {out.with_suffix('.png').name}")
    overlay = out.with_name(f"{out.stem.removesuffix('.mask')}.overlay.png")
    check_outputs(out, [str(request.photo)])
    check_outputs(overlay, [str(request.photo)])
    check_writable(out.parent)
    picture = stacks.read(str(request.photo), page=request.page)
    known = flaws(picture.pixels, sensitivity=request.sensitivity, grow=request.grow)
    share = 1 - float(known.mean())
    if not share:
        yield Said("nothing looks like a scratch, dust or a crease; to mark more, give --sensitivity 0.8")
        return share
    yield Said(f"{100 * share:.2g} % of the picture looks like scratches, dust or creases")
    put_picture(out, to_pil(known * 2 - 1))
    put_picture(overlay, to_pil(marked(picture.pixels, known)))
    yield Written([out, overlay])
    if share > MUCH:
        yield Warned("that is much: it may be what the picture shows; look at the overlay, or give --sensitivity 0.3")
    yield Noted(f"look at {near(overlay)} first; what is red is filled in by: {line(request.photo, out)}")
    return share


def line(photo: Path, found: Path) -> str:
    """What to type then."""
    return f"flowhelm restore {shlex.quote(str(photo))} --operator inpaint --mask {shlex.quote(near(found))}"


def marked(pixels: Tensor, known: Tensor) -> Tensor:
    """The picture, paler, with the marks in red."""
    pale = 0.75 * pixels.expand(-1, 3, -1, -1)
    return torch.where(known > 0, pale, torch.tensor(RED)[:, None, None])


def believed(picture: Picture) -> bool:
    """Whether scratches are seen without being asked for: on few pictures that have none."""
    return 1 - float(flaws(picture.pixels, sensitivity=SURE).mean()) > BELIEVED
