"""What the samples of one picture say together: OUT/NAME.posterior/, made as soon as a batch has all of them.

    mean.png q05.png q50.png q95.png   pictures, pixel by pixel
    std.png interval.png               how sure it is: maps with a bar that says the unit
    few.png                            a few samples that differ most, labelled
    flip.webp                          all samples, one after the other
    residual.png                       misfit of each sample in units of the noise
    maps.safetensors                   mean, std, q05, q50, q95: float32 (c, h, w) in [-1, 1]
    posterior.json                     hashes of the samples, misfits, and figures of the maps

All is computed from the samples' own pictures, as they were written: what a viewer shows is what is meant, and a stopped batch
can go on. Rounding to 8 bits adds 0.0023 (a level / sqrt(12)) to a std in the mean square; one well below a level (0.008) is not
resolved. Memory: the samples in as many bits as their files, and the maps; the rest goes by bands of rows.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from safetensors.torch import save as serialised
from torch import Tensor

from ... import __version__
from ...metrics.posterior import LEVELS, Maps, distances, held, posterior_maps, spread_out
from ..errors import BadInput
from ..files import atomic as files
from ..files.atomic import write_json
from ..files.pictures import read, to_pil
from ..run import Event, Run, Said, Warned
from ..show.contact_sheet import Tile, contact, small
from ..show.maps import dots, flip, shown_map
from .items import Item
from .manifest import DoneLine, Lines

NAMES = tuple(f"q{round(100 * level):02}" for level in LEVELS)
FEW, LEGIBLE, BAND = 4, 150, 64
"""Samples on the sheet, and their least width; rows at a time."""


class Samples(NamedTuple):
    """`(k, c, h, w)` as stored, and how: value = stored / scale - 1."""

    stored: Tensor
    scale: float

    def rows(self, first: int) -> Tensor:
        return self.stored[..., first : first + BAND, :].float() / self.scale - 1

    def picture(self, i: int) -> Tensor:
        return self.stored[i].float() / self.scale - 1


class Sets:
    """The sets of samples of a batch: which are whole, and what they say is written then.

    Args:
        items: of the batch; left: outputs that are not done; lines: of the manifest; place: of a set, below `out`, by one of its items.
    """

    def __init__(
        self, items: Iterable[Item], left: Iterable[str], lines: Lines, out: Path, place: Callable[[Item], str]
    ):
        groups: dict[tuple[str, int], list[str]] = {}
        self.places: dict[tuple[str, int], Path] = {}
        for item in items:
            groups.setdefault((item.name, item.seed), []).append(item.output)
            self.places.setdefault((item.name, item.seed), out / place(item))
        self.groups = {key: outputs for key, outputs in groups.items() if len(outputs) > 1}
        self.owner = {output: key for key, outputs in self.groups.items() for output in outputs}
        self.waiting = {key: set(outputs) & set(left) for key, outputs in self.groups.items()}
        self.lines = {output: line for output, line in lines.items() if isinstance(line, DoneLine)}
        self.out, self.made = out, 0
        self.notes: list[Event] = []
        self.failed = False
        for key, waiting in self.waiting.items():
            if not waiting:
                self._make(key)

    def add(self, line: DoneLine) -> None:
        """After each item's line."""
        key = self.owner.get(line.output)
        if key is None:
            return
        self.lines[line.output] = line
        self.waiting[key].discard(line.output)
        if not self.waiting[key]:
            self._make(key)

    def tell(self) -> Run[bool]:
        """At the end; whether all that could be made was."""
        if self.made:
            of = "picture" if self.made == 1 else "pictures"
            yield Said(f"what the samples of {self.made} {of} say together: {self.out}/*.posterior")
        yield from self.notes
        return not self.failed

    def _make(self, key: tuple[str, int]) -> None:
        outputs = self.groups[key]
        folder = self.places[key]
        try:
            found = posterior([self.out / output for output in outputs], folder, [self.lines[o] for o in outputs])
        except Exception as error:  # the samples are done all the same, and a full disk stops the next one
            why = str(error) or type(error).__name__
            self.notes.append(Said(f"{folder} could not be made ({why}); the same command tries again"))
            self.failed = True
            return
        self.made += 1
        if "warning" in found:
            self.notes.append(Warned(f"{key[0]}: {found['warning']}"))


def posterior(pictures: Sequence[Path], folder: Path, lines: Sequence[DoneLine] = ()) -> dict[str, Any]:
    """Writes the folder, whole or not at all, unless it is there for the same pictures; returns what its JSON holds.

    Args:
        pictures: two samples or more, of one size; lines: of the manifest, one for each, whose residuals are shown.

    Raises:
        BadInput: pictures of different sizes, or that cannot be read, or a folder that cannot be written to.
    """
    hashes = {path.name: files.sha256(path) for path in pictures}
    if (old := _of_before(folder, hashes)) is not None:
        return old
    samples = _read(pictures)
    maps, apart = _computed(samples)
    residuals = [line.result.residual for line in lines]
    told = _story(hashes, maps, residuals, lines, pictures)
    stage = folder.with_name(f".{folder.name}")  # one name, so that what a kill has left is cleared by the next run
    shutil.rmtree(stage, ignore_errors=True)
    try:
        stage.mkdir(parents=True)
        _write(stage, samples, maps, apart, residuals)
        write_json(stage / "posterior.json", told)
        shutil.rmtree(folder, ignore_errors=True)
        stage.rename(folder)
    except OSError as error:
        raise BadInput(
            f"{str(folder)!r} cannot be written ({error.strerror or error}); choose another folder"
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return told


def _of_before(folder: Path, hashes: Mapping[str, str]) -> dict[str, Any] | None:
    import json

    try:
        old = json.loads((folder / "posterior.json").read_text(encoding="utf-8"))
        return old if old["samples"] == dict(hashes) and old["flowhelm"] == __version__ else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _read(pictures: Sequence[Path]) -> Samples:
    stored: Tensor | None = None
    scale = 127.5
    for i, path in enumerate(pictures):
        picture = read(path)
        pixels = picture.pixels[0, :1] if picture.grey else picture.pixels[0]
        deep = picture.depth > 8
        if stored is None:
            scale = 32767.5 if deep else 127.5
            stored = torch.empty(len(pictures), *pixels.shape, dtype=torch.int32 if deep else torch.uint8)
        elif pixels.shape != stored.shape[1:]:
            sizes = ["{} x {} x {}".format(*shape) for shape in (stored.shape[1:], pixels.shape)]
            raise BadInput(f"{str(path)!r}: expected the size of the other samples, {sizes[0]}, got {sizes[1]}")
        stored[i] = ((pixels + 1) * scale).round().to(stored.dtype)
    if stored is None or len(stored) < 2:
        raise BadInput(f"expected two samples of a picture or more, got {len(pictures)}")
    return Samples(stored, scale)


def _computed(samples: Samples) -> tuple[Maps, Tensor]:
    """The maps, and the distances of the samples `(k, k)`."""
    parts, squares = [], torch.zeros(())
    for first in range(0, samples.stored.shape[-2], BAND):
        rows = samples.rows(first)
        parts.append(posterior_maps(rows))
        squares = squares + distances(rows).square()
    return Maps(*(torch.cat(part, dim=-2) for part in zip(*parts, strict=True))), squares.sqrt()


def _story(
    hashes: Mapping[str, str],
    maps: Maps,
    residuals: Sequence[float | None],
    lines: Sequence[DoneLine],
    pictures: Sequence[Path],
) -> dict[str, Any]:
    low, high = LEVELS[0], LEVELS[-1]
    told: dict[str, Any] = {
        "flowhelm": __version__,
        "samples": dict(hashes),
        "std": _figures(maps.std),
        "interval": {
            "levels": [low, high],
            "holds": round(held(len(hashes), low, high), 4),
            "width": _figures(maps.quantiles[-1] - maps.quantiles[0]),
        },
        "residual": {path.name: residual for path, residual in zip(pictures, residuals, strict=False)},
    }
    if float(maps.std.max()) == 0:
        method = lines[0].settings.method if lines else "the method"
        told["warning"] = (
            f"all {len(hashes)} samples are the same picture: {method} gives one answer whatever the seed, and these samples are not of "
            "a posterior"
        )
    return told


def _figures(x: Tensor) -> dict[str, float]:
    return {"mean": float(x.mean()), "median": float(x.median()), "largest": float(x.max())}


def _write(stage: Path, samples: Samples, maps: Maps, apart: Tensor, residuals: Sequence[float | None]) -> None:
    count = len(samples.stored)
    low, high = maps.quantiles[0], maps.quantiles[-1]
    pictures = {"mean": maps.mean, **dict(zip(NAMES, maps.quantiles, strict=True))}
    for name, picture in pictures.items():
        to_pil(picture).save(stage / f"{name}.png")
    share = held(count, LEVELS[0], LEVELS[-1])
    shown_map(maps.std, f"standard deviation of {count} samples").save(stage / "std.png")
    width = f"width of {NAMES[0]} to {NAMES[-1]}, {share:.0%} of {count} samples"
    shown_map(high - low, width).save(stage / "interval.png")
    tensors = {name: each.contiguous() for name, each in (pictures | {"std": maps.std}).items()}
    (stage / "maps.safetensors").write_bytes(serialised(tensors))  # save_file makes a file that nobody else can read
    chosen = spread_out(apart, FEW).tolist()
    away = [", central", *(f", {_apart(samples, apart[i, chosen[0]])} away" for i in chosen[1:])]
    tiles = [Tile(_legible(samples.picture(i)), f"sample {i}{far}") for i, far in zip(chosen, away, strict=True)]
    contact({f"{len(chosen)} of {count} samples, the most different ones": tiles}).save(stage / "few.png")
    flip(stage / "flip.webp", count, samples.picture)
    if any(residual is not None for residual in residuals):
        dots(residuals).save(stage / "residual.png")


def _legible(picture: Tensor) -> Image.Image:
    """Wide enough for its caption."""
    shown = small(picture)
    times = -(-LEGIBLE // shown.width)
    return shown.resize((shown.width * times, shown.height * times), Image.Resampling.NEAREST) if times > 1 else shown


def _apart(samples: Samples, distance: Tensor) -> str:
    """Root mean square over the entries, in the pictures' unit."""
    return f"{float(distance) / samples.stored[0].numel() ** 0.5:.3f}"
