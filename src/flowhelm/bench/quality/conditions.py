"""Does `aerial` draw the numbers and the words that it is told?

    python -m flowhelm.bench.quality.conditions --data rsscn7_128.zip --split split.json --work bench --csv conditions.csv

Each of the held-out scenes is described in one of three ways, and one picture is drawn for each description:
- class: its land cover alone, which says something of the numbers, too: what the others are compared with;
- class and numbers: and its brightness, greenness, contrast and detail;
- prompt: every word that is true of it (its land cover, and for each number in a third at the end of the law, its word).

Of the pictures, clamped and rounded to 8 bits, the same numbers are measured. Per number: the correlation of what was asked for
with what was measured, its 95 % interval, and the mean absolute difference in standard deviations of the set (two scenes
drawn at random differ by 1.13 on a normal law). Of the land covers: how many the classifier of `bench.quality.classifier` sees. Of the
other words: how many are true in sign (half by chance). Rows are appended to the CSV file.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from ... import guide
from ...priors.bundled import Prior, load
from ...recipes.aerial import NUMBERS, WORDS, measured, prompt, whole
from .. import kept
from ..intervals import correlation as ends
from .classifier import classifier
from .generation import pictures_of

KINDS = ("class", "class and numbers", "prompt")
_LAND = 8  # of the words


def described(prior: Prior, kind: str, labels: Tensor, asked: Tensor, scale: float) -> Prior:
    """The prior told about scenes of these labels `(b,)` and numbers `(b, 4)`, in standard deviations."""
    edit = partial(guide.cfg, scale=scale)
    if kind == "prompt":
        words = [" ".join(WORDS[w - 1] for w in prompt(int(k), row)) for k, row in zip(labels, asked, strict=True)]
        return prior.told(prompts=words, guidance=edit)
    given = None
    if kind == "class and numbers":
        law = prior.about["numbers"]
        given = [
            {name: law[name][0] + law[name][1] * float(value) for name, value in zip(NUMBERS, row, strict=True)}
            for row in asked
        ]
    return prior.told([int(k) for k in labels], numbers=given, guidance=edit)


def agreement(asked: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Of each column: the correlation, and the mean absolute difference; `(n, c)`, `(n, c)` -> `(c,)`, `(c,)`."""
    pairs = torch.stack([asked.T, found.T], dim=1)
    return torch.stack([torch.corrcoef(pair)[0, 1] for pair in pairs]), (asked - found).abs().mean(0)


def kept_words(labels: Tensor, asked: Tensor, found: Tensor) -> float:
    """Of the words for numbers that were said, the share whose number has the word's sign."""
    held = []
    for label, row, got in zip(labels, asked, found, strict=True):
        for word in prompt(int(label), row):
            if word > _LAND:
                index, high = divmod(word - _LAND - 1, 2)
                held.append((float(got[index]) > 0) == bool(high))
    return sum(held) / len(held) if held else float("nan")


@torch.no_grad()
def drawn(
    prior: Prior, kind: str, labels: Tensor, asked: Tensor, *, scale: float, steps: int, seed: int, batch: int = 35
) -> Tensor:
    """One picture per description, uint8 `(n, 3, h, w)`."""
    parts, began = [], time.monotonic()
    for first in range(0, len(labels), batch):
        last = min(first + batch, len(labels))
        flow = described(prior, kind, labels[first:last], asked[first:last], scale)
        parts.append(pictures_of(flow, list(range(first, last)), steps, seed))
        left = (time.monotonic() - began) * (len(labels) / last - 1)
        print(f"\r{kind}: {last} of {len(labels)}, {left:.0f} s left  ", end="", file=sys.stderr)
    print("\r", end="", file=sys.stderr)
    return torch.cat(parts)


def main(
    data: Annotated[Path, typer.Option(help="zip archive of RSSCN7; see flowhelm.recipes.aerial")],
    split: Annotated[Path, typer.Option(help="JSON that names the test pictures")],
    work: Annotated[Path, typer.Option(help="folder for the classifier's weights")],
    prior: Annotated[str, typer.Option(help="bundled prior or weights file")] = "aerial",
    scale: Annotated[float, typer.Option(help="of classifier-free guidance")] = 2.0,
    steps: Annotated[int, typer.Option(min=1, help="of Euler's method")] = 25,
    told: Annotated[list[str] | None, typer.Option(help=f"some of: {', '.join(KINDS)}; default: all")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path | None, typer.Option("--csv", help="file, appended to")] = None,
) -> None:
    """Describe the held-out scenes to the prior and measure what it draws."""
    if strange := set(told or ()) - set(KINDS):
        raise typer.BadParameter(f"told: expected one of {', '.join(KINDS)}, got '{strange.pop()}'")
    flow = load(prior)
    if not set(NUMBERS) <= set(flow.about.get("numbers", ())):
        raise typer.BadParameter(
            f"prior: expected one that takes {', '.join(NUMBERS)}, such as aerial; '{prior}' does not"
        )
    parts = whole(data, split)
    net = classifier("aerial", parts, work)
    scenes, labels = parts["test"]
    mean, std = torch.tensor([flow.about["numbers"][name] for name in NUMBERS]).T
    standard = lambda pictures: (measured(pictures) - mean) / std  # noqa: E731
    asked = standard(scenes)
    print(f"classifier: right on {net.accuracy:.1%} of {len(labels)} scenes; guidance {scale:g}, {steps} Euler steps\n")
    print(
        f"| told | land cover seen | {' | '.join(NUMBERS)} | words kept |\n| --- | --- |{' --- |' * len(NUMBERS)} --- |"
    )
    for kind in told or KINDS:
        pictures = drawn(flow, kind, labels, asked, scale=scale, steps=steps, seed=seed)
        right = float((net.judge(pictures)[1] == labels).double().mean())
        found = standard(pictures)
        correlation, off = (each.tolist() for each in agreement(asked, found))
        words = kept_words(labels, asked, found)
        cells = " | ".join(
            "{:.2f} ({:.2f} to {:.2f}; {:.2f})".format(c, *ends(c, len(labels)), o)
            for c, o in zip(correlation, off, strict=True)
        )
        print(f"| {kind} | {right:.1%} | {cells} | {words:.1%} |", flush=True)
        if out:
            row = {
                "prior": flow.name,
                "trained": flow.about.get("steps", ""),
                "told": kind,
                "scale": scale,
                "steps": steps,
                "seed": seed,
            }
            row |= {"scenes": len(labels), "seen": f"{right:.4f}", "words": f"{words:.4f}"}
            row |= {f"{name}_correlation": f"{c:.4f}" for name, c in zip(NUMBERS, correlation, strict=True)}
            row |= {f"{name}_off": f"{o:.4f}" for name, o in zip(NUMBERS, off, strict=True)}
            kept.append(out, row)


if __name__ == "__main__":
    typer.run(main)
