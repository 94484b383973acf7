"""How wrong a prior's velocity is at each time: the table that weights the prior of FLAIR.

    {"t": [...], "error": [...], "half": [...], "weight": [...], ...}

error is the mean square of velocity - (clean - source) on noisy pictures, half that of its 95 % interval over pictures (by the normal
law; null for one picture), weight the reciprocal of the error, 1 on average over the grid.
In Python: `flair(..., weights=weights("photos.json"))`.
"""

import json
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...priors import bundled
from ...rng import Noise
from ...velocity_error import Weights, reciprocal, squares, table
from ..errors import BadInput
from ..files import atomic as files
from ..files.dataset import pictures
from ..run import Planned, Run, Said, Stepped, Written
from .batches import batches
from .device import to_device
from .request import VelocityRequest, check_flow

SIDE = 128
"""Of the crops, for priors of any size."""


@torch.no_grad()
def velocity(request: VelocityRequest) -> Run[dict[str, Any]]:
    """Measures the table and writes it. A conditional prior is told nothing."""
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    place = to_device(request.device)
    files.check_writable(request.out.parent)
    check_flow(request.prior)
    flow = bundled.load(request.prior, str(place))
    side = request.size or min(flow.shape[-1], SIDE)
    flow = flow.sized(side, side)
    found = pictures(
        request.data, channels=flow.shape[0], size=side, folder=request.folder, images=request.images, spread=True
    )
    clean = flow.encode(found.clean.to(place))
    images, points, draws = request.images, request.points, request.draws
    rows = batches(flow, images, False)
    names = [found.names[i : i + rows] for i in range(0, images, rows)]
    parts = [(part, Noise(request.seed, mine)) for part, mine in zip(clean.split(rows), names, strict=True)]
    t = torch.linspace(0, 1, points, dtype=torch.float64)
    found_at = torch.zeros(points, images, dtype=torch.float64)
    yield Planned(points)
    for k in range(points):
        for _ in range(draws):
            found_at[k] += torch.cat([squares(flow, part, t[k], noise) for part, noise in parts]) / draws
        yield Stepped(k + 1, points, f"t {float(t[k]):.2f}, error {float(found_at[k].mean()):.4f}")
    error = found_at.mean(1)
    half = (1.96 / images**0.5 * found_at.std(1)).tolist() if images > 1 else [None] * points
    weight = reciprocal(error)
    made = {
        "t": t.tolist(), "error": error.tolist(), "half": half, "weight": weight.tolist(),
        "flowhelm": __version__, "prior": flow.name, "prior sha256": files.sha256(bundled.weights(request.prior)),
        "data": found.origin, "data sha256": found.sha256, "folder": request.folder, "images": images, "size": side,
        "draws": draws, "seed": request.seed,
    }  # fmt: skip
    files.write_json(request.out, made)
    yield Said(f"{'t':>5} {'error':>8} {'±':>7} {'weight':>7}")
    for k in sorted({round(i * (points - 1) / 10) for i in range(11)}):
        width = "-" if half[k] is None else f"{half[k]:.4f}"
        yield Said(f"{float(t[k]):5.2f} {float(error[k]):8.4f} {width:>7} {float(weight[k]):7.3f}")
    yield Written([request.out])
    return made


def weights(path: str | Path) -> Weights:
    """The weights of a table that `velocity` has written, as `flair` takes them. Raises BadInput for any other file."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        return table(*(torch.tensor(found[name], dtype=torch.float64) for name in ("t", "weight")))
    except FileNotFoundError as error:
        raise BadInput(f"{str(path)!r} does not exist; write it with flowhelm presets velocity") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:  # of a tensor; RecursionError is one, too
        raise BadInput(f"{str(path)!r} is no table of flowhelm presets velocity ({error})") from error
