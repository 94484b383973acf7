"""Settings by operator: what `restore` does when nothing else is said, and what `flowhelm presets search` has found.

A preset file is JSON, `{"presets": [...]}`; those in the folder `presets` of the package ship with it. A preset says

    method, operator, operator_options, std, prior   what it is for
    options, steps                                   what to do; a `strength` is in units of 1 / std^2
    found                                            how it was found: pictures, size, seed, trials, scores, command

It serves another std and other numbers of its operator as well, where nothing nearer is there, but no other words (a filter,
a border).
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from ... import known

STD = 0.02
"""Of the noise in a photograph, in [-1, 1]: about two and a half 8-bit levels, a good camera in good light."""

Options = dict[str, float | int | str]
Look = Literal["faithful", "natural"]
Quality = Literal["fast", "best"]


def _flower(strength: float) -> Options:
    return {"strength": strength, "energy": "flower", "renoise": 1.0}


Usual = tuple[str, Options, int]
"""A method, its options (a `strength` in units of 1 / std^2) and the number of steps."""

# Faithful: the least squared error in the fewest evaluations on pictures that were held apart from the bundled prior's training;
# `flowhelm bench --protocol defaults` prints what they were chosen by, and docs/defaults.md shows it.
TABLE: dict[str, Usual] = {
    "denoise": ("hqs", {}, 1),
    "inpaint": ("hqs", {"momentum": 0.5}, 24),
    "box": ("hqs", {"momentum": 0.5}, 24),
    "random_mask": ("hqs", {"momentum": 0.5}, 24),
    "deblur": ("hqs", {"momentum": 0.4}, 6),
    "motion": ("hqs", {"momentum": 0.4}, 6),
    "superres": ("hqs", {"momentum": 0.5}, 16),
    "colorize": ("hqs", {}, 24),
    "demosaic": ("hqs", {"momentum": 0.2, "weight": 0.03}, 24),
    "jpeg": ("hqs", {}, 8),
    "saturate": ("pnp_flow", {"decay": 0.3, "rate": 0.5}, 64),
    "blur_linear_light": ("hqs", {}, 24),
    "phase": ("mpc_flow", _flower(1.0) | {"inner": "adam:iterations=20,rate=0.1"}, 200),
}
OTHERS: dict[str, Usual] = {"denoise": ("hqs", {"sure": True}, 1)}
"""What other priors than known.PHOTOS take in the place of TABLE's: one that has not seen such pictures takes texture for noise, which
Stein's estimate finds, place by place, with one more evaluation. known.PHOTOS gains 0.03 dB by it at slight noise, and nothing above."""
QUIET: Options = {"momentum": 0.0}
"""With a blur that was estimated in a picture without noise that is seen: what then does not fit is the estimate's own error, which
momentum would carry on."""
BEST: dict[str, Usual] = {"denoise": ("hqs", {"sure": True, "ensemble": True}, 1)}
"""What `--quality best` takes, where docs/defaults.md shows that more evaluations than TABLE's gain anything; elsewhere nothing is to be
had."""
# Natural: one picture that could be real, with detail that the measurement does not decide, not their mean. The strengths of
# denoise, deblur and box are chosen by docs/defaults.md, where a trained classifier judges, too; the others are set by hand.
NATURAL: dict[str, Usual] = {
    "denoise": ("mpc_flow", _flower(0.8), 50),
    "inpaint": ("mpc_flow", _flower(2.0), 100),
    "box": ("mpc_flow", _flower(1.0), 100),
    "random_mask": ("mpc_flow", _flower(2.0), 100),
    "deblur": ("mpc_flow", _flower(2.0), 50),
    "motion": ("mpc_flow", _flower(2.0), 50),
    "superres": ("mpc_flow", _flower(1.0), 50),
    "colorize": ("mpc_flow", _flower(2.0), 50),
    "demosaic": ("mpc_flow", _flower(2.0), 100),
}


SAMPLE: Usual = ("flower", {"gamma": 1.0}, 50)
"""For one of several samples of a linear measurement: of the methods without particles the only one that `flowhelm calibrate` does not
reject on 64 truths of an exact prior. With 256 truths, and on pictures, it is rejected, too (docs/posterior.md)."""


OF_KIND: dict[str, Usual] = {"paired": ("pmrf", {}, 2), "codec": ("vble", {}, 300), "tokens": ("aps", {}, 15)}
"""For priors that are no flows, by `Flow.prior_kind`, whatever the operator: docs/posterior-means.md, docs/compressive.md, and the
paper's."""


OWN: Usual = ("hqs", {}, 24)
"""For an operator of your own."""


class _Found(BaseModel):
    """How it was found, as far as `lines` shows it; more may stand there."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, defer_build=True)

    best: float = 0.0
    default: float = 0.0
    score: str = ""
    pictures: list[str] = []
    data: str = ""
    size: int = 0
    trials: int = 0
    how: str = ""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if "best" in self.model_fields_set and not set(type(self).model_fields) - {"how"} <= self.model_fields_set:
            raise ValueError("a search that says only a part of how it went")
        return self


def _whole_story(found: dict[str, Any]) -> dict[str, Any]:
    _Found.model_validate(found)
    return found


class Preset(BaseModel):
    """One entry of a preset file; see the module."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    method: str
    operator: str
    operator_options: dict[str, bool | int | float | str | None]
    std: float = Field(gt=0)
    prior: str
    options: dict[str, bool | int | float | str | None]
    steps: int = Field(ge=1)
    found: Annotated[dict[str, Any], AfterValidator(_whole_story)]

    @property
    def purpose(self) -> tuple[Any, ...]:
        """What it is for: a file holds one preset for each."""
        return self.method, self.operator, sorted(self.operator_options.items()), self.std, self.prior


class Settings(NamedTuple):
    """What to do: options (a strength in its own unit), steps (None: nothing is known), and where they come from."""

    options: Mapping[str, Any]
    steps: int | None
    origin: str


def preset(
    operator: str,
    std: float,
    look: Look = "faithful",
    *,
    prior: str = known.PHOTOS,
    drawn: bool = False,
    quality: Quality = "fast",
) -> Usual:
    """Name of the method, its options and the number of steps for an operator and a noise level.

    Args:
        look: a mean, or a picture that could be real. drawn: one of several samples is wanted.
        quality: of a mean; best takes more evaluations where they gain anything.
    """
    if quality == "best" and look == "faithful" and not drawn and operator in BEST:
        return _in_units(BEST[operator], std)
    table = NATURAL if look == "natural" else TABLE if prior == known.PHOTOS else TABLE | OTHERS
    usual = SAMPLE if drawn and operator in NATURAL else table.get(operator, TABLE.get(operator, OWN))
    return _in_units(usual, std)


def usual_method(operator: str, prior: str, look: Look = "faithful", *, drawn: bool = False) -> str:
    """The method that is taken where none is named."""
    from ..models.request import METHOD, is_pipeline

    if (kind := known.kind(prior)) in OF_KIND:
        return OF_KIND[kind][0]
    return METHOD if is_pipeline(prior) else preset(operator, 1.0, look, drawn=drawn)[0]


def _in_units(usual: Usual, std: float) -> Usual:
    method, options, steps = usual
    return method, options | _scaled(options, 1 / std**2), steps


def settings(
    method: str,
    operator: str,
    operator_options: Mapping[str, Any],
    std: float,
    prior: str,
    presets: Sequence[Preset] | None = None,
) -> Settings:
    """For a method on an operator with all its options: of the nearest preset, else of TABLE, else none.

    Args:
        presets: those to choose from; the package's if not given.
    """
    whole = _whole(operator, operator_options)
    words = {k: v for k, v in whole.items() if isinstance(v, str)}
    fitting = [
        p
        for p in (shipped() if presets is None else presets)
        if (p.method, p.operator) == (method, operator)
        and {k: v for k, v in _whole(operator, p.operator_options).items() if isinstance(v, str)} == words
    ]
    if fitting:

        def far(p: Preset) -> tuple[bool, bool, float]:
            return p.prior != prior, _whole(operator, p.operator_options) != whole, abs(math.log(p.std / std))

        near = min(fitting, key=far)
        return Settings({**near.options, **_scaled(near.options, 1 / std**2)}, near.steps, "preset")
    for table in (TABLE if prior == known.PHOTOS else TABLE | OTHERS, NATURAL):
        if operator in table and table[operator][0] == method:
            _, options, steps = _in_units(table[operator], std)
            return Settings(options, steps, "preset")
    return Settings({}, None, "default")


def _whole(operator: str, given: Mapping[str, Any]) -> Options:
    """With the defaults of options that the operator has got since a preset was found."""
    from ... import operators  # slow to import
    from ..options.signature import options, pick

    known = options(pick("operator", operator, operators.ALL)).values()
    return {each.name: each.default for each in known if not each.needed} | dict(given)


def _scaled(options: Mapping[str, Any], factor: float) -> Options:
    return {"strength": options["strength"] * factor} if "strength" in options else {}


@cache
def shipped() -> tuple[Preset, ...]:
    """The presets that ship with the package."""
    from importlib.resources import files  # slow to import, and the command line's help needs none of it

    folder = Path(str(files("flowhelm"))) / "presets"
    return tuple(p for path in sorted(folder.glob("*.json")) for p in read(path))


def read(path: Path) -> list[Preset]:
    """Raises BadInput for any other file."""
    from ..errors import BadInput

    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["presets"]
        return TypeAdapter(list[Preset]).validate_python(listed)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        where = ".".join(map(str, wrong["loc"]))
        raise BadInput(f"{str(path)!r} is not a preset file of flowhelm ({where}: {wrong['msg']})") from None
    except FileNotFoundError as error:
        raise BadInput(f"{str(path)!r} does not exist; make it with flowhelm presets search") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(f"{str(path)!r} is not a preset file of flowhelm ({error})") from error


def add(path: Path, found: Iterable[Preset]) -> None:
    """Writes presets into a file, in the place of those for the same purpose."""
    from ..files.atomic import write_json

    held = {repr(p.purpose): p for p in (read(path) if path.exists() else [])}
    held |= {repr(p.purpose): p for p in found}
    write_json(path, {"presets": [held[name].model_dump() for name in sorted(held)]})


def lines(path: Path | None = None) -> Iterable[str]:
    """Of a listing: what each preset is for, what it says, and what it was found on."""
    for each in sorted(shipped() if path is None else read(path), key=lambda p: repr(p.purpose)):
        words = ",".join(f"{k}={v}" for k, v in each.operator_options.items())
        chosen = ", ".join(f"{k} {v}" + " / std^2" * (k == "strength") for k, v in each.options.items())
        purpose = f"{each.method} on {each.operator}{':' * bool(words)}{words}, noise {each.std:g}, prior {each.prior}"
        found = each.found
        yield f"{purpose}: {chosen or 'the defaults'}; {each.steps} steps"
        if "best" in found:
            yield (
                f"    {found['score']} {found['best']:.3f} (default {found['default']:.3f}) on {len(found['pictures'])} pictures of "
                f"{found['data']}, {found['size']} pixels, {found['trials']} trials"
            )
        else:
            yield f"    {found.get('how', 'not said how it was found')}"
