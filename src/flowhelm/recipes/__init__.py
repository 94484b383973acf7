"""Recipes of the bundled priors: data and network of one training each. `flowhelm train NAME` runs them, `train.fit` is the loop."""

from .aerial import aerial
from .animals import animals
from .blind import blind
from .codec import codec
from .fashion import fashion
from .photos import photos
from .recipe import Recipe

ALL = (photos, fashion, aerial, animals, blind, codec)

__all__ = ["ALL", "Recipe", "aerial", "animals", "blind", "codec", "fashion", "photos"]
