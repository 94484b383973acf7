"""What workers of tests do. No torch, so that they start at once."""

import time
from contextlib import suppress
from types import SimpleNamespace

from flowhelm.app.run import Planned, Stepped


def failing():
    """Every job fails, each seed in its own way."""

    def fails(job):
        from flowhelm.step import Diverged

        yield Planned(1)
        raise (
            Diverged("the state is not finite; lower the strength", None),
            MemoryError(),
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            RuntimeError("value cannot be converted to type float without overflow"),
            RuntimeError("a secret of the inside"),
        )[job[0]["seed"]]

    return fails


def endless(how, folder):
    """A job that never ends, in one step of Python or deaf to signals, or that fills the memory; or one that waits for a file."""

    def made(job):
        (folder / "begun").touch()
        yield Planned(10**6)
        while how == "python":
            pass
        while how == "deaf":
            with suppress(BaseException):
                time.sleep(1000)
        held = []
        while how == "memory":
            held.append(bytearray(b"1") * 10_000_000)
            time.sleep(0.01)
        while not (folder / "free").exists():
            time.sleep(0.02)
            yield Stepped(1, 10**6)
        settings = {**dict.fromkeys(("operator", "method", "std", "seed", "prior")), "times": [0, 1]}
        return SimpleNamespace(png=b"made", settings=settings, result={})

    return made
