"""A prior in a wider network that gives the same pictures: a start for a longer training.

    python scripts/widen.py photos --widths 64 --widths 128 --widths 160 --widths 208 --out wide.safetensors
    flowhelm train photos --data free_photos.zip --beside bsds400.zip --wide --start wide.safetensors --rate 6e-4

The old channels keep their weights and read nothing of the new ones, which begin as a network's first weights
are drawn (as in arXiv:1511.05641).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from flowhelm.priors.bundled import load, save
from flowhelm.priors.unet import UNet


def widened(old: UNet, widths: tuple[int, ...]) -> UNet:
    """A network of `widths` channels whose velocity is that of `old`, to rounding. Raises ValueError where a level would be narrower."""
    config = dict(old.config)
    if len(widths) != len(config["widths"]) or any(w < o for w, o in zip(widths, config["widths"], strict=True)):
        raise ValueError(
            f"widths: expected {len(config['widths'])} levels, each at least {config['widths']}, got {widths}"
        )
    new = UNet(widths, **{k: v for k, v in config.items() if k != "widths"})
    weights = new.state_dict()
    for name, value in old.state_dict().items():
        halves = 2 if ".film." in name else 1  # scales, then shifts
        parts = zip(weights[name].chunk(halves), value.chunk(halves), strict=True)
        weights[name] = torch.cat([_within(large, small, transposed=name.startswith("up.")) for large, small in parts])
    new.load_state_dict(weights)
    return new


def _within(large: Tensor, small: Tensor, transposed: bool) -> Tensor:
    """The small weights in the first corner of the large ones; what old channels would read of new ones is 0."""
    out = large.clone()
    if small.ndim > 1 and transposed:
        out[:, : small.shape[1]] = 0
    elif small.ndim > 1:
        out[: small.shape[0]] = 0
    out[tuple(slice(0, n) for n in small.shape)] = small
    return out


def main(
    prior: Annotated[str, typer.Argument(help="a bundled prior, or a weights file, of pictures")],
    widths: Annotated[list[int], typer.Option(help="channels of a level, finest first; give it for each level")],
    out: Annotated[Path, typer.Option(help="weights file to write")],
) -> None:
    """Write the prior in a wider network."""
    torch.manual_seed(0)
    old = load(prior)
    try:
        net = widened(old.net, tuple(widths))  # type: ignore[arg-type]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    x, t = torch.randn(2, *old.shape), torch.tensor([0.3, 0.9])
    with torch.no_grad():
        gap = float((net(x, t) - old.net(x, t)).abs().max())
    save(net, out, dict(old.about) | {"widened from": prior})
    print(f"wrote {out}; the two differ by at most {gap:.1e} on noise")


if __name__ == "__main__":
    typer.run(main)
