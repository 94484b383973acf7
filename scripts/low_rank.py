"""The change from one prior's weights to another's as an adapter of low rank, fp16: a file of a third of the size, or less.

    python scripts/low_rank.py photos runs/jpeg/jpeg.safetensors --rank 32 --out jpeg.safetensors
    python scripts/low_rank.py photos runs/jpeg/jpeg.safetensors --rank 32 --out jpeg.safetensors --recipe jpeg --data photos.zip

Each layer's change is cut to its largest singular values; biases stay as they were in the first. With a recipe the adapter is then
trained on, by the recipe's loss and data, to make up for what was cut off.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from flowhelm import recipes
from flowhelm.adapter import layers, put, state
from flowhelm.priors import adapters
from flowhelm.priors.bundled import load
from flowhelm.train import fit


def main(
    first: Annotated[str, typer.Argument(help="a bundled prior, or a weights file")],
    second: Annotated[str, typer.Argument(help="another, trained on from the first")],
    out: Annotated[Path, typer.Option(help="file to write")],
    rank: Annotated[int, typer.Option(min=1, help="of each layer's change")] = 16,
    recipe: Annotated[str | None, typer.Option(help="train the adapter on by this recipe of `flowhelm train`")] = None,
    data: Annotated[Path | None, typer.Option(help="of the recipe")] = None,
    updates: Annotated[int, typer.Option(min=1, help="of that training")] = 500,
    rate: Annotated[float, typer.Option(help="of that training")] = 3e-4,
) -> None:
    """Write the adapter, and print how much of the change it holds."""
    known: dict[str, Any] = {each.__name__: each for each in recipes.ALL}
    if recipe is not None and (recipe not in known or data is None):
        raise typer.BadParameter(
            f"--recipe: expected one of {', '.join(known)}, and its --data, got {recipe} and {data}"
        )
    base, other = load(first), load(second)
    old, new = base.net.state_dict(), other.net.state_dict()
    if {k: v.shape for k, v in old.items()} != {k: v.shape for k, v in new.items()}:
        raise typer.BadParameter(f"expected two priors of one network, got {first} and {second}")
    made: Any = base.with_lora(rank)
    net, whole, kept = made.net, 0.0, 0.0
    with torch.no_grad():
        for name in layers(base.net, None):
            change = (new[f"{name}.weight"] - old[f"{name}.weight"]).double()
            u, s, v = torch.linalg.svd(change.flatten(1), full_matrices=False)
            u, v = u[:, :rank] * s[:rank].sqrt(), s[:rank].sqrt()[:, None] * v[:rank]
            a, b = (net.get_submodule(f"{name}.lora_{part}.default").weight for part in "AB")
            a.zero_()
            b.zero_()
            a[: len(v)] = v.reshape(-1, *a.shape[1:])
            b[:, : u.shape[1]] = u.reshape(-1, u.shape[1], *b.shape[2:])
            whole, kept = whole + float(s.square().sum()), kept + float(s[:rank].square().sum())
    print(f"{kept / whole:.1%} of the change")
    if recipe is not None:
        task: recipes.Recipe = known[recipe](data)
        average = copy.deepcopy(net)
        losses: list[float] = []
        for update in fit(
            made, task.loss, task.data, steps=updates, average=average, rate=rate, warmup=20, ema=task.ema
        ):
            losses.append(float(update.loss))
            if update.index % 25 == 0:
                print(
                    f"update {update.index} of {updates}, loss {sum(losses[-25:]) / len(losses[-25:]):.4f}", flush=True
                )
        put(net, state(average))
    adapters.save(made, out, {"method": "low_rank", "of": Path(second).name}, dtype=torch.float16)
    print(f"wrote {out}: {out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    typer.run(main)
