"""The items of a batch: which pictures, seeds and samples, what each is made with, and what tells that it was made."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ...rng import digest
from ..errors import BadInput
from ..files import stacks
from ..files.atomic import FORMATS
from ..options.signature import options
from ..restore import record
from ..restore.request import RestoreSettings, function_of
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


def found(request: BatchRequest) -> list[Item]:
    """The items of a batch, in the order of the inputs and, in a folder, of their names; in an archive or a stack of its own order.

    Raises:
        BadInput: no picture at all, or two with one output, or an output that is also an input.
    """
    out = Path(request.out or "")
    pictures: dict[str, str] = {}
    for text in request.pictures:
        for name, path in _pictures(text, out, request.range):
            pictures.setdefault(os.path.normpath(path), name)
    if not pictures:
        raise BadInput(f"there is no picture in {', '.join(map(repr, request.pictures))}; expected {' '.join(FORMATS)}")
    taken: dict[str, str] = {}
    items = []
    seeds, samples = request.own_seeds, request.samples
    if (count := len(pictures) * len(seeds) * samples) > MANY:
        raise BadInput(f"{count} items are more than {MANY}; divide them into several batches")
    for photo, name in pictures.items():
        stem = Path(name if stacks.split(photo) is None else name.replace(":", "/")).with_suffix("").as_posix()
        for seed in seeds:
            for sample in range(samples):
                marks = f".seed-{seed}" * (len(seeds) > 1) + f".sample-{sample}" * (samples > 1)
                output = f"{stem}{marks}.restored.png"
                other = taken.setdefault(os.path.normcase(output), photo)
                if other != photo:
                    raise BadInput(f"{other!r} and {photo!r} would both become {output!r}; restore them in two batches")
                if os.path.normpath(out / output) in pictures:
                    raise BadInput(f"{str(out / output)!r} would be overwritten, but is read; choose another out")
                items.append(Item(name, photo, seed, sample, output))
    return items


def settings_of(item: Item, request: BatchRequest, base: RestoreSettings) -> RestoreSettings:
    """Settings of a run that makes the item; `base` by `request.settled`."""
    inner = stacks.split(item.photo)
    stem = Path(item.name if inner is None else inner[1]).stem
    own = {
        name: type(value)(str(value).replace("{stem}", stem))
        for name, value in base.operator_options
        if isinstance(value, str | Path) and "{stem}" in str(value)
    }
    made = base.changed(
        photo=item.photo, out=str(Path(request.out or "") / item.output), seed=item.own_seed,
        operator_options=base.operator_options.changed(**own),
    )  # fmt: skip
    if request.range is not None:
        made = made.changed(range=request.range)
    return of_a_set(item, made) if base.drawn else made


def of_a_set(item: Item, settings: RestoreSettings) -> RestoreSettings:
    """The settings of one of several samples: drawn of its particles, not their mean, and of the measurement that all share."""
    one = {"measurement_seed": item._replace(sample=0).own_seed} if settings.simulate else {}
    return settings.changed(drawn=True, **one)


def inputs(settings: RestoreSettings, weights: Mapping[str, str]) -> dict[str, str]:
    """Hashes of what an item reads, or why that cannot be read."""
    try:
        return record.inputs(settings, weights)
    except BadInput as error:
        return {"unreadable": str(error)}


def key(item: Item, settings: RestoreSettings, read: Mapping[str, str]) -> str:
    """Of what is read (its `inputs`) and what is done with it; not of where it lies, of the threads, or of what runs beside it."""
    known = options(function_of("operator", settings.operator))
    told = {k: v for k, v in settings.stored().items() if k not in ("photo", "out", "threads", "prior")}
    told["operator_options"] = {k: v for k, v in told["operator_options"].items() if Path not in known[k].types}
    text = json.dumps([item.output, told, read], sort_keys=True)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def is_glob(text: str) -> bool:
    return glob.has_magic(text) and not Path(text).exists() and stacks.split(text) is None


def _pictures(text: str, out: Path, span: Sequence[float] | None) -> Iterator[tuple[str, str]]:
    path = Path(text)
    if path.is_dir() or is_glob(text):
        fixed = path
        while glob.has_magic(str(fixed)):
            fixed = fixed.parent
        # a glob that names the suffix means the archives or stacks; a folder's are not its pictures
        asked = [] if path.is_dir() else [s for s in stacks.SUFFIXES if s == path.suffix.lower()]
        usual = {*FORMATS, *asked}
        # sorted, for the order in a folder is not the same everywhere
        listed = path.iterdir() if path.is_dir() else map(Path, glob.glob(text, recursive=True))
        for each in sorted(listed):
            wanted = each.suffix.lower() in usual and not each.name.startswith(".")
            if wanted and out not in each.parents and each.is_file():
                yield from _within(each.relative_to(fixed).as_posix(), str(each), span)
    else:  # there or not: what is named is wanted
        inner = stacks.split(text)
        yield from _within(path.name if inner is None else inner[0].name, text, span)


def _within(name: str, photo: str, span: Sequence[float] | None) -> Iterator[tuple[str, str]]:
    """A picture; or those in an archive or a stack, and the file itself as an item that will fail if something is wrong with it."""
    if not stacks.is_many(photo) or not (inner := stacks.split(photo) or (Path(photo), ""))[0].is_file():
        yield name, photo
        return
    names, fault = stacks.members(photo, span)
    for each in names:
        yield f"{name}:{each}", f"{inner[0]}:{each}"
    if fault is not None:
        yield name, photo
