"""What the tests of batches share: pictures, a request, and what a batch has left."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flowhelm.app.batch.description import filled
from flowhelm.app.batch.request import BatchRequest
from flowhelm.app.batch.run import batch
from flowhelm.app.files.atomic import sha256
from flowhelm.app.run import Event, drive


def pictures(folder: Path, count: int, side: int = 16) -> Path:
    folder.mkdir(parents=True)
    for k in range(count):
        pixels = np.random.default_rng(k).integers(0, 256, (side, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"p{k:02}.png")
    return folder


def described(folder: Path, prior: str, **more: Any) -> BatchRequest:
    usual = {"operator": "deblur", "std": 0.05, "steps": 2, "prior": prior, "inputs": str(folder), "threads": 1}
    if more.get("operator", "deblur") == "deblur":
        usual["operator_options"] = {"sigma": 1.0}
    return filled(BatchRequest.of(usual | more, "job"), folder.parent)


def made(request: BatchRequest, each: Callable[[Event], object] = lambda event: None, **how: Any) -> bool:
    """Carried out; whether no item has failed."""
    return drive(batch(request, **how), each)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def results(out: Path) -> dict[str, str]:
    """Hashes of every file that is no record of times."""
    kept = {"job.json", "manifest.jsonl"}
    return {p.relative_to(out).as_posix(): sha256(p) for p in out.rglob("*") if p.is_file() and p.name not in kept}


def numbers(out: Path) -> dict[str, str]:
    return {line["output"]: line["result"]["sha256"] for line in lines(out) if line["status"] == "done"}
