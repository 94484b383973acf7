"""A batch that is killed again and again ends with what it would have made undisturbed.

    python benchmarks/batch_survives.py [--pictures 300] [--kills 10] [--size 16] [--steps 2] [--prior photos]

Makes pictures of noise, restores them once without disturbance, then in processes that are killed (SIGKILL, not to be caught) at
random moments. Printed: what each kill left, and in the end whether pictures, numbers and files are the same, how often an item
was made again because the kill fell into it, and what was left over. Ends with status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
from PIL import Image

from flowhelm.app.cli import main as flowhelm


def run(job: str, log: str) -> None:
    with open(log, "a") as file, redirect_stdout(file), redirect_stderr(file):
        sys.exit(flowhelm(["batch", job]))


def lines(out: Path) -> list[dict]:
    path = out / "manifest.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def hashes(out: Path) -> dict[str, str]:
    paths = [p for p in out.rglob("*") if p.is_file() and p.name not in ("job.json", "manifest.jsonl")]
    return {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--prior", default="photos")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    # a fork server, so that a kill does not cost the imports again
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["flowhelm.app.batch", "deepinv.physics"])

    def start(job: Path) -> multiprocessing.process.BaseProcess:
        process = processes.Process(target=run, args=(str(job), str(job.with_suffix(".log"))))
        process.start()
        return process

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "in").mkdir()
        for k in range(args.pictures):
            pixels = np.random.default_rng(k).integers(0, 256, (args.size, args.size, 3), np.uint8)
            Image.fromarray(pixels).save(base / "in" / f"{k:04}.png")
        for name in ("whole", "killed"):
            job = {"inputs": "in", "operator": "deblur", "steps": args.steps, "prior": args.prior, "out": name}
            (base / f"{name}.json").write_text(json.dumps(job | {"threads": 1}))
        began = time.monotonic()
        undisturbed = start(base / "whole.json")
        undisturbed.join()
        print(
            f"undisturbed: status {undisturbed.exitcode}, {len(lines(base / 'whole'))} items, {time.monotonic() - began:.1f} s"
        )
        left_over = 0
        for kill in range(args.kills):
            process = start(base / "killed.json")
            goal = chance.randrange(
                args.pictures * kill // (args.kills + 1), args.pictures * (kill + 1) // (args.kills + 1)
            )
            while process.is_alive() and len(lines(base / "killed")) < goal:
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
            process.join()
            made, staged = len(lines(base / "killed")), len(list((base / "killed").glob(".batch/.*")))
            unrecorded = len(hashes(base / "killed")) - made - len(list((base / "killed").glob(".batch/*")))
            left_over += staged
            print(
                f"kill {kill + 1}: status {process.exitcode}, {made} items recorded, {staged} half-written, {unrecorded} unrecorded"
            )
        last = start(base / "killed.json")
        last.join()
        one, other = hashes(base / "whole"), hashes(base / "killed")
        numbers = [{line["output"]: line["result"]["sha256"] for line in lines(base / n)} for n in ("whole", "killed")]
        twice = [
            name for name, count in Counter(line["output"] for line in lines(base / "killed")).items() if count > 1
        ]
        orphans = [str(p) for p in (base / "killed").rglob(".*")]
        good = one == other and numbers[0] == numbers[1] and not twice and not orphans and last.exitcode == 0
        print(f"last run: status {last.exitcode}")
        print(
            f"pictures: {sum(one[n] == other.get(n) for n in one)} of {len(one)} the same bytes, {len(other.keys() - one.keys())} too many"
        )
        print(f"numbers: {sum(numbers[0][n] == numbers[1].get(n) for n in numbers[0])} of {len(numbers[0])} the same")
        print(f"recorded twice: {len(twice)}; files left over: {len(orphans)} (half-written at the kills: {left_over})")
        print("nothing lost, nothing done twice" if good else "NOT the same")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
