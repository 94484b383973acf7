"""One way to say that something went wrong: one sentence, and the exit status that goes with it.

What a person got wrong is a `BadInput`: what, expected, got, remedy. A fault of the program keeps its traceback.
"""

import difflib
import errno
from collections.abc import Iterable


class BadInput(ValueError):
    """What the user named cannot be used; the message is one sentence fit to be shown as it is."""


class Unwritable(BadInput):
    """A file or a folder cannot be written to: no fault of what was read."""


class TooLarge(BadInput):
    """A picture of more pixels than are allowed."""


class Broken(RuntimeError):
    """The installation is at fault; the message says how to mend it."""


def nearest(name: str, names: Iterable[str]) -> str:
    """`did you mean ...?` if one of the names is near, else all of them."""
    close = difflib.get_close_matches(name, list(names := list(names)), 1, 0.5)
    return f"did you mean {close[0]}?" if close else f"expected {', '.join(names) or 'none'}"


def first_line(error: BaseException) -> str:
    """Of what a stranger's code says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def sentence(error: BaseException) -> str | None:
    """What a person is told of a failure, in one sentence; None for a fault of the program, whose traceback matters."""
    from ..memory import is_short  # these need torch, and what only reads words must not wait for it
    from ..step import Diverged

    if isinstance(error, ValueError | Diverged | Broken):
        return " ".join(str(error).split())
    if is_short(error):
        where = " on the GPU" * (type(error).__name__ == "OutOfMemoryError")
        return (
            f"there is not enough memory{where} for this; take a smaller picture, cut the network's work with --tile 512, or see what "
            "`flowhelm plan PRIOR METHOD --vram GIB` says"
        )
    if isinstance(error, RuntimeError | OverflowError) and "overflow" in str(error):  # torch, of 1e300 for a float32
        return "one of the numbers is too large to compute with; choose a smaller one"
    return None


def is_full(error: BaseException | None) -> bool:
    """Whether the disk is, or the user's share of it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            return True
        error = error.__cause__ or error.__context__
    return False
