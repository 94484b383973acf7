"""Is everything in place? Also the one place that finds out whether torchvision fits torch."""

import platform
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version


class Broken(RuntimeError):
    """The installation is at fault, not the user; the message says how to mend it."""


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def check_torchvision() -> None:
    """Raises Broken if torchvision cannot be imported, which deepinv does: it is built for exactly one torch."""
    try:
        import torchvision  # type: ignore[import-untyped,unused-ignore]  # noqa: F401
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise Broken(
            f"torchvision {installed('torchvision')} does not fit torch {installed('torch')} "
            f"({_first_line(error)}); mend it with: pip install --force-reinstall torch torchvision"
        ) from error


def check_deepinv() -> None:
    check_torchvision()
    try:
        import deepinv  # noqa: F401
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise Broken(
            f"deepinv {installed('deepinv')} cannot be imported ({_first_line(error)}); "
            "mend it with: pip install --force-reinstall deepinv"
        ) from error


def doctor(prior: str = "photos") -> Iterator[tuple[str, str]]:
    """(what, how it is), one after another; raises at the first thing that does not work."""
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    try:
        import torch
    except (ImportError, RuntimeError, OSError) as error:
        raise Broken(
            f"torch cannot be imported ({_first_line(error)}); mend it with: pip install --force-reinstall torch torchvision"
        ) from error
    yield "torch", f"{torch.__version__}, {torch.get_num_threads()} threads"
    check_torchvision()
    yield "torchvision", f"{installed('torchvision')}, fits torch"
    check_deepinv()
    yield "deepinv", installed("deepinv")
    yield "device", torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    from .. import priors
    from .files import sha256, weights

    flow = priors.load(prior)
    yield "prior", f"{prior}, sha256 {sha256(weights(prior))[:16]}"
    small = flow.sized(64, 64)
    start = time.monotonic()
    with torch.no_grad():
        finite = bool(
            small.velocity(torch.zeros(1, *small.shape), torch.tensor(0.5, dtype=torch.float64)).isfinite().all()
        )
    if not finite:
        raise Broken(f"prior {prior} gives infinite values; install flowhelm again")
    yield "evaluation", f"64 x 64 in {time.monotonic() - start:.2f} s"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
