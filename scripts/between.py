"""A prior between two of one network: each weight is 1 - share of the first and share of the second (arXiv:2109.01903).

    python scripts/between.py photos runs/photos2/photos.safetensors --share 0.5 --out between.safetensors

What was trained on from another's weights gains on its own pictures and may lose on the other's; between the two it often keeps both gains.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from flowhelm.priors.bundled import load, save


def main(
    first: Annotated[str, typer.Argument(help="a bundled prior, or a weights file")],
    second: Annotated[str, typer.Argument(help="another, trained on from the first")],
    out: Annotated[Path, typer.Option(help="weights file to write")],
    share: Annotated[float, typer.Option(min=0, max=1, help="of the second")] = 0.5,
) -> None:
    """Write the weights between two."""
    one, other = load(first), load(second)
    weights, more = one.net.state_dict(), other.net.state_dict()
    if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in more.items()}:
        raise typer.BadParameter(f"expected two priors of one network, got {first} and {second}")
    with torch.no_grad():
        one.net.load_state_dict({k: torch.lerp(v.float(), more[k].float(), share) for k, v in weights.items()})
    save(one.net, out, dict(one.about) | {"between": [first, Path(second).name, share]})
    print(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)
