"""The items of a batch: which pictures, seeds and samples, what each is made with, and what tells that it was made."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ... import raster
from ...rng import digest
from ..errors import BadInput, TooLarge
from ..files import stacks
from ..files.atomic import READ
from ..files.names import below
from ..options.signature import options
from ..restore import record
from ..restore.request import RestoreSettings, function_of
from .listing import Listed, listed
from .request import BatchRequest

MANY = 1_000_000
"""Items of a batch, above which it is taken for a mistake."""


class Item(NamedTuple):
    """name: of the picture, below the folder or the fixed part of the glob that it was found by; output: below the folder OUT.

    photo: its path, or of a picture in an archive or a stack the file's path, a colon and its name in it: see `files.stacks`.
    """

    name: str
    photo: str
    seed: int
    sample: int
    output: str

    @property
    def own_seed(self) -> int:
        """Of this item: nothing but the batch's seed, the picture's name and the sample's number is in it."""
        return digest(self.seed, (self.name, self.sample))


def found(request: BatchRequest, seen: Listed | None = None) -> list[Item]:
    """The items of a batch, in the order of the inputs and, in a folder, of their names; in an archive or a stack of its own order.

    Raises:
        BadInput: no picture at all, or two with one output, or an output that is also an input, or a mask that may be one of several.
    """
    out, pictures = Path(request.out or ""), (seen or listed(request)).pictures
    if not pictures:
        raise BadInput(
            f"there is no picture in {', '.join(map(repr, request.pictures))}; expected {' '.join(sorted(READ))}"
        )
    taken: dict[str, tuple[str, int, int]] = {}
    items = []
    seeds, samples = request.own_seeds, request.samples
    if (count := len(pictures) * len(seeds) * samples) > MANY:
        raise BadInput(f"{count} items are more than {MANY}; divide them into several batches")
    for photo, name in pictures.items():
        for seed in seeds:
            for sample in range(samples):
                output = _output(request, name, photo, seed, sample)
                other = taken.setdefault(os.path.normcase(output), (photo, seed, sample))
                if other != (photo, seed, sample):
                    raise BadInput(
                        f"{other[0]!r} and {photo!r} would both become {output!r}; restore them in two batches, or give --names "
                        "with {path}, {seed} or {sample}"
                    )
                if os.path.normpath(out / output) in pictures:
                    raise BadInput(f"{str(out / output)!r} would be overwritten, but is read; choose another out")
                items.append(Item(name, photo, seed, sample, output))
    _check_own(items, request)
    return items


class Batch(NamedTuple):
    """What all parts of a batch need: its description, the settings of a run by `description.settled`, and fingerprints of the prior."""

    request: BatchRequest
    base: RestoreSettings
    weights: Mapping[str, str]

    @property
    def out(self) -> Path:
        return Path(self.request.out or "")

    def settings(self, item: Item) -> RestoreSettings:
        return settings_of(item, self.request, self.base)

    def key(self, item: Item, *, failed: bool = False) -> str:
        """By what the item reads now."""
        settings = self.settings(item)
        return key(item, settings, inputs(settings, self.weights), failed=failed)


def path_of(name: str, photo: str) -> str:
    """A picture's path below its folder, without its suffix: `lamps/0001`; of one in an archive `photos.tar/lamps/0001`."""
    inside = stacks.split(photo)
    if inside is None:
        return Path(name).with_suffix("").as_posix()
    return (Path(name.removesuffix(f":{inside[1]}")) / below(inside[1])).with_suffix("").as_posix()


def posterior_of(request: BatchRequest, item: Item) -> str:
    """Where what the samples of a picture say together goes, below the folder OUT."""
    return path_of(item.name, item.photo) + f".seed-{item.seed}" * (len(request.own_seeds) > 1) + ".posterior"


def _output(request: BatchRequest, name: str, photo: str, seed: int, sample: int) -> str:
    path, pattern = path_of(name, photo), request.names or "{path}.restored.png"
    marks = f".seed-{seed}" * (len(request.own_seeds) > 1 and "{seed}" not in pattern)
    marks += f".sample-{sample}" * (request.samples > 1 and "{sample}" not in pattern)
    words = {"path": path, "stem": Path(path).name, "seed": str(seed), "sample": str(sample)}
    if request.names is None:
        return f"{path}{marks}.restored.png"
    # of the pattern alone, so that braces in a picture's name stay braces
    text = re.sub(r"\{(path|stem|seed|sample)\}", lambda field: words[field[1]], pattern)
    suffix = Path(text).suffix
    return text.removesuffix(suffix) + marks + suffix


def settings_of(item: Item, request: BatchRequest, base: RestoreSettings) -> RestoreSettings:
    """Settings of a run that makes the item; `base` by `request.settled`."""
    own: dict[str, Path | str] = {}
    for name, value in base.operator_options:
        if isinstance(value, Path) and base.masks_itself:
            own[name] = Path(item.photo)
        elif isinstance(value, Path):
            own[name] = next(iter(_own(name, value, item)[0]))
        elif isinstance(value, str):
            own[name] = _filled(value, item)
    made = base.changed(
        photo=item.photo, out=str(Path(request.out or "") / item.output), seed=item.own_seed,
        operator_options=base.operator_options.changed(**own),
    )  # fmt: skip
    if request.range is not None:
        made = made.changed(range=request.range)
    return of_a_set(item, made) if base.drawn else made


def _filled(text: str, item: Item) -> str:
    path = path_of(item.name, item.photo)
    return text.replace("{stem}", Path(path).name).replace("{path}", path)


def _own(option: str, value: Path, item: Item) -> tuple[list[Path], bool]:
    """The files that an option of the operator may mean for an item, one or more, and whether they are the item's own.

    A folder holds files called like the pictures, below it as the pictures are below theirs, `_mask` behind or not, with any suffix;
    a path may end in `.*`.
    """
    text = str(value)
    if value.is_dir():
        where = value / path_of(item.name, item.photo)
        fitting = [each for end in ("", f"_{option}") for each in _alike(where.with_name(where.name + end))]
        return fitting or [where.with_name(f"{where.name}.png")], True
    filled = Path(_filled(text, item))
    return (filled.name.endswith(".*") and _alike(filled.with_name(filled.name[:-2]))) or [filled], text != str(filled)


def _alike(path: Path) -> list[Path]:
    """The files of that name with whatever suffix of a picture or of an array."""
    try:
        names = _by_stem(str(path.parent), path.parent.stat().st_mtime_ns)
    except OSError:
        return []
    return [path.with_name(name) for name in names.get(path.name, ())]


@lru_cache(maxsize=64)
def _by_stem(folder: str, changed: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in (*READ, *stacks.SUFFIXES):
            found.setdefault(stem, []).append(name)
    return found


def _check_own(items: Sequence[Item], request: BatchRequest) -> None:
    """Raises BadInput where a file may be the mask of two pictures, or a picture has two."""
    known = options(function_of("operator", request.operator))
    for name, given in request.operator_options.items():
        if name not in known or Path not in known[name].types or not isinstance(given, str | Path):
            continue
        owners: dict[Path, Item] = {}
        for item in items:
            files, own = _own(name, Path(given), item)
            if len(files) > 1:
                raise BadInput(
                    f"{name}: {str(files[0])!r} and {str(files[1])!r} may both be that of {item.name!r}; leave one of them there, or "
                    f"give a pattern such as {name}s/{{path}}.png"
                )
            other = owners.setdefault(files[0], item)
            if own and other.photo != item.photo:
                raise BadInput(
                    f"{name}: {str(files[0])!r} would be that of {other.name!r} and of {item.name!r}; write {{path}} for {{stem}}, which "
                    "is the picture's path below its folder, or name a folder that is arranged like that of the pictures"
                )


def of_a_set(item: Item, settings: RestoreSettings) -> RestoreSettings:
    """The settings of one of several samples: drawn of its particles, not their mean, and of the measurement that all share."""
    one = {"measurement_seed": item._replace(sample=0).own_seed} if settings.simulate else {}
    return settings.changed(drawn=True, **one)


def inputs(settings: RestoreSettings, weights: Mapping[str, str]) -> dict[str, str]:
    """Hashes of what an item reads, or why that cannot be read."""
    try:
        with raster.within(settings.budget):
            return record.inputs(settings, weights)
    except TooLarge:  # for what is free just now
        return {"unreadable": "too large"}
    except BadInput as error:
        return {"unreadable": str(error)}


def key(item: Item, settings: RestoreSettings, read: Mapping[str, str], *, failed: bool = False) -> str:
    """Of what is read (its `inputs`) and what is done with it; not of where it lies, of the threads, or of what runs beside it. What
    has `failed` is another thing where more memory is allowed."""
    known = options(function_of("operator", settings.operator))
    beside = {"photo", "out", "threads", "prior"} | (set() if failed else {"memory"})
    told = {k: v for k, v in settings.stored().items() if k not in beside}
    told["operator_options"] = {k: v for k, v in told["operator_options"].items() if Path not in known[k].types}
    text = json.dumps([item.output, told, read], sort_keys=True)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()
