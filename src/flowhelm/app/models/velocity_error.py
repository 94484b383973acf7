"""How wrong a prior's velocity is at each time: the table that weights the prior of FLAIR.

    {"t": [...], "error": [...], "weight": [...], ...}

error is the mean square of velocity - (clean - source) on noisy pictures, weight its reciprocal, 1 on average over the grid.
In Python: `flair(..., weights=weights("photos.json"))`.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from ... import __version__
from ...bench.compare.pictures import pictures
from ...calibration import Weights, errors, reciprocal, table
from ...interfaces.cli.progress import bar
from ...priors import bundled
from ...rng import Noise
from ..draw.rows import batches
from ..errors import BadInput
from ..files import atomic as files
from ..files.pictures import check_writable, write_json

SIDE = 128
"""Of the crops, for priors of any size."""


@torch.no_grad()
def velocity(
    prior: str,
    data: Path,
    out: Path,
    *,
    folder: str = "",
    images: int = 16,
    size: int | None = None,
    points: int = 50,
    draws: int = 1,
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Measures and writes the table. A conditional prior is told nothing.

    Args:
        data, folder, images: centre crops, evenly spaced by name; see `bench.pictures`. Not those it was trained on.
        size: their side; default: the prior's, at most 128. points: times, from 0 to 1. draws: of the noise, per time.

    Raises:
        ValueError: anything wrong with what was asked for; nothing is written then.
    """
    if points < 2 or min(images, draws) < 1:
        raise BadInput(
            f"expected --points of at least 2, --images and --draws of at least 1, got {points}, {images}, {draws}"
        )
    if out.suffix.lower() != ".json":
        raise BadInput(f"--out {str(out)!r}: a table is JSON; name it {out.with_suffix('.json').name!r}")
    torch.set_num_threads(threads or torch.get_num_threads())
    place = files.to_device(device)
    check_writable(out.parent)
    flow = bundled.load(prior, str(place))
    side = size or min(flow.shape[-1], SIDE)
    flow = flow.sized(side, side)
    found = pictures(data, channels=flow.shape[0], size=side, folder=folder, images=images, spread=True)
    clean = flow.encode(found.clean.to(place))
    rows = batches(flow, images, False)
    parts = [
        (part, Noise(seed, names)) for part, names in zip(clean.split(rows), _split(found.names, rows), strict=True)
    ]
    t = torch.linspace(0, 1, points, dtype=torch.float64)
    error = torch.zeros_like(t)
    with bar(points) as tell:
        for k in range(points):
            for part, noise in parts * draws:
                error[k] += errors(flow, part, t[k : k + 1], noise)[0] * len(part) / (images * draws)
            tell(k + 1, f"t {float(t[k]):.2f}, error {float(error[k]):.4f}")
    weight = reciprocal(error)
    write_json(
        out,
        {
            "t": t.tolist(), "error": error.tolist(), "weight": weight.tolist(),
            "flowhelm": __version__, "prior": flow.name, "prior sha256": files.sha256(files.weights(prior)),
            "data": found.origin, "data sha256": found.sha256, "folder": folder, "images": images, "size": side,
            "draws": draws, "seed": seed,
        },
    )  # fmt: skip
    say(f"{'t':>5} {'error':>8} {'weight':>7}")
    for k in sorted({round(i * (points - 1) / 10) for i in range(11)}):
        say(f"{float(t[k]):5.2f} {float(error[k]):8.4f} {float(weight[k]):7.3f}")
    say(f"wrote {out}: {images} crops of {side} x {side} at {points} times")


def weights(path: str | Path) -> Weights:
    """The weights of a table that `velocity` has written, as `flair` takes them. Raises BadInput for any other file."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        return table(*(torch.tensor(found[name], dtype=torch.float64) for name in ("t", "weight")))
    except FileNotFoundError as error:
        raise BadInput(f"{str(path)!r} does not exist; write it with flowhelm presets velocity") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{str(path)!r} is no table of flowhelm presets velocity ({error})") from error


def _split(names: tuple[str, ...], rows: int) -> list[tuple[str, ...]]:
    return [names[i : i + rows] for i in range(0, len(names), rows)]
