"""Do five restorations show what the picture may have been? Meaningful diversity (arXiv:2310.16047) on clothes with a hole.

    python -m flowhelm.bench.quality.diversity --data fashion_mnist.npz --work bench --sheet diversity.png

The middle of test pictures is missing, and the prior is not told their class. Of each picture 32 samples of the posterior are drawn by
`flower` (gamma 1); a row shows five: drawn as they come, drawn together so that they repel each other (`guide.diverse`, in the hole, at
three strengths), or chosen of the 32 (`metrics.diversity`), which costs more than six times as much.

- apart: the mean distance of two of the five, in features of `bench.quality.classifier`; kinds: how many classes it sees in them;
- covered: the mean distance of the 32 to the nearest of the five, less is better; what is shown of them is no distance away;
- unlike: the mean distance of the five to their five nearest training pictures, as a share of that of the 32: 1 is as likely as they;
- misfit: root mean square difference to what was measured, in units of its noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from ... import guide, restore
from ...app.files.atomic import put_picture
from ...app.show.sheet import sheet as laid
from ...flow import Flow
from ...measure import Measurement, simulate
from ...metrics.diversity import euclidean, farthest, kmeans, uniformised
from ...operators import inpaint
from ...priors.bundled import load
from ...rewards.classifier import Classifier, scaled
from ...rng import Noise
from ...start import begin
from ...step import run as final
from ..intervals import interval
from .classifier import classifier, whole
from .rarity import neighbours

FEW, MANY, STEPS, STD = 5, 32, 50, 0.05
REPEL = (0.3, 1.0, 3.0)
"""Scales of the repulsion; the threshold is half the usual distance of two samples."""


def known() -> Tensor:
    """All but the middle 20 x 20 of 32 x 32."""
    mask = torch.ones(1, 32, 32)
    mask[:, 6:26, 6:26] = 0
    return mask


@torch.no_grad()
def restored(flow: Flow, y: Measurement, noise: Noise) -> Tensor:
    method = partial(restore.flower, gamma=1.0)
    x, times = begin(method, flow, y, STEPS, noise)
    return final(method(flow, y, x, times, noise=noise)).clean.clamp(-1, 1)


def shown(flow: Flow, y: Measurement, many: Tensor, net: Classifier, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Five of each way, `(5, 1, 32, 32)`; y of five rows."""
    noise = lambda: Noise(seed, FEW)  # noqa: E731
    yield "five samples", many[:FEW]
    hole = 1 - known()
    apart = euclidean((many * hole).flatten(1))
    usual = float(apart[apart > 0].mean()) / float(hole.sum()) ** 0.5
    for scale in REPEL:
        edited = guide.diverse(flow, FEW, scale=scale, threshold=usual / 2, mask=hole)
        yield f"repelled, scale {scale:g}", restored(edited, y, noise())
    features = features_of(net, many)
    far = euclidean(features)
    yield f"k-means of {MANY}", many[kmeans(features, FEW)]
    yield f"farthest of {MANY}", many[farthest(far, FEW, first=0)]
    yield f"uniformised of {MANY}", many[uniformised(far, FEW, dimension=5, drop=0.1)]


def features_of(net: Classifier, pictures: Tensor) -> Tensor:
    return net.judge(((pictures + 1) * 127.5).round().byte())[0]


def main(
    data: Annotated[Path, typer.Option(help="fashion_mnist.npz")],
    work: Annotated[Path, typer.Option(help="folder of the classifier, which is trained if it is not there")],
    pictures: Annotated[int, typer.Option(min=2, help="test pictures, one of a class and on")] = 10,
    sheet: Annotated[Path | None, typer.Option(help="PNG")] = None,
) -> None:
    """A line of the table for each way to show five."""
    torch.set_num_threads(1)
    parts, flow = whole("fashion", data, None), load("fashion")
    net = classifier("fashion", parts, work)
    store = net.judge(parts["train"][0])[0]
    test, labels = parts["test"]
    first = [int((labels == k % 10).nonzero()[k // 10]) for k in range(pictures)]
    operator = inpaint((1, 32, 32), mask=known())
    found: dict[str, list[tuple[float, ...]]] = {}
    rows: dict[str, list[Tensor]] = {}
    for index, place in enumerate(first):
        clean = scaled(test[place : place + 1])
        one = simulate(operator, clean, STD, Noise(100 + index, 1))
        y = lambda k, one=one: Measurement(one.y.expand(k, -1, -1, -1), operator, STD)  # noqa: E731
        many = restored(flow, y(MANY), Noise(index, MANY))
        seen = features_of(net, many)
        likely = float(neighbours(seen, store).mean())
        rows.setdefault("measured", []).append(one.y - (1 - known()))
        for name, five in shown(flow, y(FEW), many, net, 1000 + index):
            features = features_of(net, five)
            apart = euclidean(features)
            kinds = len(set(net.judge(((five + 1) * 127.5).round().byte())[1].tolist()))
            misfit = (y(FEW).residual(five) * known()).square().sum() / (FEW * known().sum() * STD**2)
            found.setdefault(name, []).append(
                (
                    float(apart.sum() / (FEW * (FEW - 1))),
                    float(kinds),
                    float(torch.cdist(seen, features).amin(1).mean()),
                    float(neighbours(features, store).mean()) / likely,
                    float(misfit.sqrt()),
                )
            )
            if index < 4:
                rows.setdefault(name, []).append(torch.cat(list(five), -1)[None])
        print(f"picture {index + 1} of {pictures}", flush=True)
    print("| five | apart | kinds | covered | unlike | misfit |\n| --- | --- | --- | --- | --- | --- |")
    for name, values in found.items():
        print(f"| {name} | " + " | ".join(interval(v[k] for v in values).shown(2) for k in range(5)) + " |")
    if sheet:
        put_picture(sheet, laid([(name, torch.cat(each)) for name, each in rows.items() if name != "measured"]))
        print(f"wrote {sheet}")


if __name__ == "__main__":
    typer.run(main)
