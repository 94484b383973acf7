"""Recipes of the bundled priors: data and network of one training each. `flowhelm train NAME` runs them, `train.fit` is the loop."""

from .aerial import aerial
from .animals import animals
from .as_tokens import fashion_codes, fashion_tokens
from .fashion import fashion
from .photos import photos
from .recipe import Recipe

ALL = (photos, fashion, aerial, animals, fashion_codes, fashion_tokens)

__all__ = ["ALL", "Recipe", "aerial", "animals", "fashion", "fashion_codes", "fashion_tokens", "photos"]
