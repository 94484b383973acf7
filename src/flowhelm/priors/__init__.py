"""Priors: adapters that make a network or a pipeline a `Flow`, and the small ones that ship with the package."""

from .bundled import NAMES
from .codecs import autoencoder
from .examine import Finding, examine
from .foreign import (
    Foreign,
    Sigmas,
    by_name,
    diffusers_net,
    from_clean,
    from_denoiser,
    from_edm,
    from_noise,
    from_score,
    from_v,
    from_velocity,
)
from .opening import load
from .students import arc, pi, refiner, student
from .unet import Field, field

__all__ = [
    "NAMES",
    "Field",
    "Finding",
    "Foreign",
    "Sigmas",
    "arc",
    "autoencoder",
    "by_name",
    "diffusers_net",
    "examine",
    "field",
    "from_clean",
    "from_denoiser",
    "from_edm",
    "from_noise",
    "from_score",
    "from_v",
    "from_velocity",
    "load",
    "pi",
    "refiner",
    "student",
]
