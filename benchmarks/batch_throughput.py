"""What a batch costs beside its method, and what rows and workers gain: ratios of times that were measured in turns, in one run.

    python benchmarks/batch_throughput.py [--pictures 24] [--size 32] [--steps 4] [--rows 8] [--rounds 5] [--ray]

For each round, one after the other, on one thread:

    bare        the method's steps on problems that are read and built already; nothing is read, judged or written
    one         the batch, one picture at a time: reads, hashes, builds the operator, restores, scores, writes and records
    rows        the batch, so many pictures at a time

and with --ray, of more pictures, the batch on one worker of one core and on two. What starts up once is left out of all (opening the
prior, Ray and its workers): it is timed from the first line of the manifest to the last, by the clock in these lines. Printed: medians
over the rounds, and of each ratio the median and the range of the rounds' own ratios.

    python benchmarks/batch_throughput.py --difference [--rows 6]

For every method: how far the pictures of a batch of rows are from those made one at a time, in levels of 255 and in dB of PSNR, and
how many of them are made again to the bit from their lines.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stderr
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from flowhelm.app.batch import description, items
from flowhelm.app.batch.ray import Where
from flowhelm.app.batch.request import BatchRequest
from flowhelm.app.batch.run import batch, rerun
from flowhelm.app.restore.observation import steps_of as restore
from flowhelm.app.restore.problem import opened, prepare
from flowhelm.app.run import drive
from flowhelm.cards import METHODS
from flowhelm.step import run


def pictures(folder: Path, count: int, size: int) -> None:
    folder.mkdir()
    for k in range(count):
        pixels = np.random.default_rng(k).integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2)).save(folder / f"{k:04}.png")


def described(base: Path, args: argparse.Namespace, out: str, **more: Any) -> BatchRequest:
    job = {"inputs": "in", "operator": "deblur", "steps": args.steps, "prior": args.prior, "out": out, "threads": 1}
    return description.filled(BatchRequest.of(job | more, "benchmark"), base)


def quietly(job: BatchRequest, ray: Where | None = None) -> list[dict[str, Any]]:
    """The lines that a batch adds."""
    manifest = Path(job.out or "") / "manifest.jsonl"
    before = len(manifest.read_text().splitlines()) if manifest.exists() else 0
    with redirect_stderr(StringIO()):
        assert drive(batch(job, ray=ray))
    return [json.loads(line) for line in manifest.read_text().splitlines()[before:]]


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def span(lines: list[dict[str, Any]]) -> float:
    """Seconds an item from when the first began to when the last had ended."""
    return (max(moment(n["ended"]) for n in lines) - min(moment(n["began"]) for n in lines)) / len(lines)


def rate(lines: list[dict[str, Any]], skip: int) -> float:
    """Seconds an item, without the first `skip`, while workers start."""
    ended = sorted(moment(line["ended"]) for line in lines)
    return (ended[-1] - ended[skip - 1]) / (len(ended) - skip)


def bare(base: Path, args: argparse.Namespace) -> float:
    job = described(base, args, "bare")
    settings = description.settled(job)
    flow = drive(opened(settings))
    prepared = []
    for item in items.found(job):
        own = items.settings_of(item, job, settings)
        prepared.append(drive(prepare(own, base / "none.png", flow)))
    began = time.monotonic()
    for problem in prepared:
        run(restore(problem.flow, problem.observed, problem.method, problem.times, problem.noise))
    return (time.monotonic() - began) / len(prepared)


def said(name: str, ratios: list[float]) -> None:
    print(f"{name}: {statistics.median(ratios):.3f} (rounds {min(ratios):.3f} to {max(ratios):.3f})")


def throughput(base: Path, args: argparse.Namespace) -> None:
    pictures(base / "in", args.pictures, args.size)
    took: dict[str, list[float]] = {"bare": [], "one": [], "rows": []}
    bare(base, args)  # so that nobody pays for what is imported or compiled once
    for each in range(args.rounds):
        took["bare"].append(bare(base, args))
        took["one"].append(span(quietly(described(base, args, f"one{each}"))))
        took["rows"].append(span(quietly(described(base, args, f"rows{each}", rows=args.rows))))
    for name, seconds in took.items():
        print(f"{name}: {1000 * statistics.median(seconds):.1f} ms a picture")
    pairs = lambda a, b: [x / y for x, y in zip(took[a], took[b], strict=True)]  # noqa: E731
    said("batch over bare, one at a time (time)", pairs("one", "bare"))
    said(f"{args.rows} rows over one at a time (throughput)", pairs("one", "rows"))
    if args.ray:
        count = 3 * args.pictures
        for k in range(args.pictures, count):
            (base / "in" / f"{k:04}.png").write_bytes((base / "in" / f"{k % args.pictures:04}.png").read_bytes())
        for each in range(min(3, args.rounds)):
            for workers in (1, 2):
                lines = quietly(described(base, args, f"ray{workers}{each}"), Where("local", workers))
                took.setdefault(f"{workers} workers", []).append(rate(lines, count // 3))
        said("two workers over one (throughput)", pairs("1 workers", "2 workers"))


def levels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def difference(base: Path, args: argparse.Namespace) -> None:
    pictures(base / "in", args.rows, args.size)
    print("method             levels        dB  made again")
    for method in sorted(METHODS, key=lambda m: m.__name__):
        own = {"particles": 3} if method.__name__ in ("tds", "afdps", "fk") else {}
        found = []
        for rows in (1, args.rows):
            job = described(
                base, args, f"{method.__name__}{rows}", operator="denoise", std=0.2, simulate=True, rows=rows,
                method=method.__name__, method_options=own,
            )  # fmt: skip
            try:
                found.append({line["output"]: line["result"] for line in quietly(job)})
            except AssertionError:
                break
        if len(found) < 2:
            print(f"{method.__name__:16} does not restore this")
            continue
        alone, joint = found
        outs = [base / f"{method.__name__}{rows}" for rows in (1, args.rows)]
        far = max(np.abs(levels(outs[0] / name) - levels(outs[1] / name)).max() for name in alone)
        loss = max(abs(alone[name]["psnr"] - joint[name]["psnr"]) for name in alone)
        with redirect_stderr(StringIO()):
            same = [drive(rerun(outs[1] / "manifest.jsonl", name)) for name in list(alone)[:3]]
        print(f"{method.__name__:16} {far:8} {loss:9.1e}  {sum(same)} of {len(same)}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prior", default="photos")
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--difference", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        (difference if args.difference else throughput)(Path(folder), args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
