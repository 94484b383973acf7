"""flowhelm: take the helm of pre-trained flow-matching and diffusion models.

Everything here is loaded when it is first used, so that `flowhelm --help` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

_HOME = {
    "bijection": ("Bijection",),
    "cards": ("cite",),
    "flow": ("Flow", "FlowMap", "GaussianFlow", "MixtureFlow", "NetFlow", "Pixels", "Wrapped"),
    "measure": ("Function", "Linear", "Measurement", "Operator", "simulate"),
    "path": ("Ends",),
    "priors": ("load",),
    "rng": ("Noise",),
    "solve": ("integrate", "interpolate", "invert", "rollout"),
    "start": ("begin",),
    "step": ("Diverged", "Reward", "Step", "Update", "run"),
}
_SERVICES = {"Restored": "app.restore.restorer", "Restorer": "app.restore.restorer", "generate": "app.draw.generate"}
"""What the command line does, for programs."""
_FOLDERS = (
    "control",
    "edit",
    "grids",
    "guide",
    "inner",
    "latent",
    "learning",
    "interpolant",
    "inverse",
    "metrics",
    "operators",
    "particles",
    "priors",
    "recipes",
    "restore",
    "rewards",
    "sample",
    "steer",
    "train",
    "transition",
    "tune",
    "velocity_error",
)

__all__ = list(
    dict.fromkeys(["__version__", *(name for names in _HOME.values() for name in names), *_SERVICES, *_FOLDERS, *_HOME])
)

if TYPE_CHECKING:
    from . import (
        cards,
        control,
        flow,
        grids,
        guide,
        inner,
        interpolant,
        inverse,
        latent,
        learning,
        measure,
        metrics,
        operators,
        particles,
        path,
        priors,
        recipes,
        restore,
        rewards,
        rng,
        sample,
        solve,
        start,
        steer,
        step,
        train,
        transition,
        tune,
        velocity_error,
    )
    from .app.draw.generate import generate
    from .app.restore.restorer import Restored, Restorer
    from .bijection import Bijection
    from .cards import cite
    from .flow import Flow, FlowMap, GaussianFlow, MixtureFlow, NetFlow, Pixels, Wrapped
    from .measure import Function, Linear, Measurement, Operator, simulate
    from .path import Ends
    from .priors import load
    from .rng import Noise
    from .solve import integrate, interpolate, invert, rollout
    from .start import begin
    from .step import Diverged, Reward, Step, Update, run


def __getattr__(name: str) -> object:
    for home, names in _HOME.items():
        if name in names:
            return getattr(import_module(f".{home}", __name__), name)
    if name in _SERVICES:
        return getattr(import_module(f".{_SERVICES[name]}", __name__), name)
    if name in _FOLDERS or name in _HOME:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module 'flowhelm' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
