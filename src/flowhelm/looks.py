"""Ways to look at a picture that a prior takes for equally likely: as it is, mirrored, turned by quarters."""

from __future__ import annotations

from typing import Literal, NamedTuple

from .shapes import State

Looks = Literal["upright", "mirrored", "turned"]
"""Upright: as it is; mirrored: and mirrored left to right; turned: and all eight of a square's mirrored and turned ones."""


class Look(NamedTuple):
    """Mirrored along some axes, then rows and columns exchanged or not.

    Attributes:
        axes: of a state `(b, c, h, w)`; exchanged: whether it becomes `(b, c, w, h)`.
    """

    axes: tuple[int, ...] = ()
    exchanged: bool = False

    def at(self, picture: State) -> State:
        """The picture `(b, c, h, w)` as it is looked at."""
        seen = picture.flip(self.axes) if self.axes else picture
        return seen.transpose(-2, -1).contiguous() if self.exchanged else seen

    def back(self, seen: State) -> State:
        """The inverse of `at`."""
        picture = seen.transpose(-2, -1).contiguous() if self.exchanged else seen
        return picture.flip(self.axes) if self.axes else picture


_MIRRORED = Look(), Look((-1,))
_FOUR = (*_MIRRORED, Look((-2,)), Look((-2, -1)))
ALL: dict[Looks, tuple[Look, ...]] = {
    "upright": (Look(),),
    "mirrored": _MIRRORED,
    "turned": (*_FOUR, *(Look(each.axes, True) for each in _FOUR)),
}
