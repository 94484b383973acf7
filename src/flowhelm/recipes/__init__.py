"""Recipes of the bundled priors: data and network of one training each. `flowhelm train NAME` runs them, `train.fit` is the loop."""

from .aerial import aerial
from .animals import animals
from .as_tokens import fashion_codes, fashion_tokens
from .blind import blind
from .codec import codec
from .compressed import jpeg
from .digits import digits
from .fashion import fashion
from .fashion_tarflow import fashion_tarflow
from .moving_digits import moving_digits
from .photos import photos
from .recipe import Recipe
from .scratched import scratches

ALL = (
    photos,
    fashion,
    aerial,
    animals,
    digits,
    fashion_tarflow,
    moving_digits,
    fashion_codes,
    fashion_tokens,
    blind,
    codec,
    scratches,
    jpeg,
)

__all__ = [
    "ALL", "Recipe", "aerial", "animals", "blind", "codec", "digits", "fashion", "fashion_codes", "fashion_tarflow", "fashion_tokens",
    "jpeg", "moving_digits", "photos", "scratches",
]  # fmt: skip
