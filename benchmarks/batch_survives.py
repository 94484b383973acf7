"""A batch that is killed again and again ends with what it would have made undisturbed.

    python benchmarks/batch_survives.py [--pictures 300] [--kills 10] [--size 16] [--steps 2] [--prior photos] [--ray 2]

Makes pictures of noise, restores them once without disturbance in one process, then in processes that are killed (SIGKILL, not to be
caught) at random moments; with `--ray N` on N workers of a local Ray, where every other kill falls on a worker, not on the batch.
Printed: what each kill left, and in the end whether pictures, numbers and files are the same, how often an item was recorded twice,
which processes and files were left over.

    python benchmarks/batch_survives.py --full

A disk that fills up (a tmpfs of 256 KiB, for which root is needed) and an item that cannot be read: the batch stops with a list and
status 1, and goes on when there is room. Ends with status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from flowhelm.interfaces.cli import main as flowhelm


def run(job: str, log: str, more: tuple[str, ...] = ()) -> None:
    with open(log, "a") as file, redirect_stdout(file), redirect_stderr(file):
        sys.exit(flowhelm(["batch", job, *more]))


def lines(out: Path) -> list[dict]:
    path = out / "manifest.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def hashes(out: Path) -> dict[str, str]:
    paths = [p for p in out.rglob("*") if p.is_file() and p.name not in ("job.json", "manifest.jsonl")]
    return {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def is_worker(process: psutil.Process) -> bool:
    try:
        return process.name().startswith("ray::Actor")
    except psutil.Error:
        return False


def pictures(folder: Path, count: int, size: int) -> None:
    folder.mkdir()
    for k in range(count):
        pixels = np.random.default_rng(k).integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{k:04}.png")


def killed(args: argparse.Namespace, base: Path) -> bool:
    chance = random.Random(args.seed)
    # a fork server, so that a kill does not cost the imports again
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["flowhelm.app.batch.run", "deepinv.physics"])
    more = ("--ray", "local", "--workers", str(args.ray)) if args.ray else ()

    def start(job: Path, *more: str) -> multiprocessing.process.BaseProcess:
        process = processes.Process(target=run, args=(str(job), str(job.with_suffix(".log")), more))
        process.start()
        return process

    for name in ("whole", "killed"):
        job = {"inputs": "in", "operator": "deblur", "steps": args.steps, "prior": args.prior, "out": name}
        (base / f"{name}.json").write_text(json.dumps(job | {"threads": 1}))
    out, began, helpers = base / "killed", time.monotonic(), []
    undisturbed = start(base / "whole.json")
    undisturbed.join()
    print(
        f"undisturbed: status {undisturbed.exitcode}, {len(lines(base / 'whole'))} items, {time.monotonic() - began:.1f} s"
    )
    left_over, process = 0, None
    for kill in range(args.kills):
        if process is None or not process.is_alive():
            process = start(base / "killed.json", *more)
        goal = chance.randrange(
            args.pictures * kill // (args.kills + 1), args.pictures * (kill + 1) // (args.kills + 1)
        )
        while process.is_alive() and len(lines(out)) < max(goal, kill):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.1))
        helpers += (own := below(process.pid))
        workers = [each for each in own if is_worker(each)]
        if kill % 2 and workers:
            chance.choice(workers).kill()
            print(f"kill {kill + 1}: a worker, at {len(lines(out))} items recorded")
            continue
        early = not process.is_alive()
        process.kill()
        process.join()
        if early:
            print("ended by itself: " + (base / "killed.log").read_text()[-2000:])
        made, staged = len(lines(out)), len(list(out.glob(".batch/*/*/.*")))
        waiting = len([p for p in out.glob(".batch/*/*/*") if p.is_file()])
        unrecorded = len(hashes(out)) - made - waiting
        left_over += staged
        print(
            f"kill {kill + 1}: status {process.exitcode}, {made} items recorded, {staged} half-written, {unrecorded} unrecorded"
        )
    last = process if process is not None and process.is_alive() else start(base / "killed.json", *more)
    while last.is_alive():
        helpers += [each for each in below(last.pid) if each not in helpers] if args.ray else []
        last.join(0.5)
    one, other = hashes(base / "whole"), hashes(out)
    numbers = [{line["output"]: line["result"]["sha256"] for line in lines(base / n)} for n in ("whole", "killed")]
    twice = [name for name, count in Counter(line["output"] for line in lines(out)).items() if count > 1]
    orphans = [str(p) for p in out.rglob(".*")]
    at_once = len(alive(helpers))
    psutil.wait_procs(alive(helpers), timeout=90)  # Ray's own helpers look for a minute for a batch that was killed
    running = alive(helpers)
    folders = [p for at in {tempfile.gettempdir(), "/tmp"} for p in Path(at).glob("flowhelm-ray-*")] if args.ray else []
    same = one == other and numbers[0] == numbers[1]
    good = same and not twice and not orphans and not running and not folders and last.exitcode == 0
    print(f"last run: status {last.exitcode}")
    print(
        f"pictures: {sum(one[n] == other.get(n) for n in one)} of {len(one)} the same bytes, {len(other.keys() - one.keys())} too many"
    )
    print(f"numbers: {sum(numbers[0][n] == numbers[1].get(n) for n in numbers[0])} of {len(numbers[0])} the same")
    print(f"recorded twice: {len(twice)}; files left over: {len(orphans)} (half-written at the kills: {left_over})")
    if args.ray:
        print(
            f"processes of Ray left over: {len(running)} of {len(set(helpers))} ({at_once} of them at the end, within 90 s none); "
            f"folders of Ray left over: {len(folders)}"
        )
    print("nothing lost, nothing done twice" if good else "NOT the same")
    return good


def filled(args: argparse.Namespace, base: Path) -> bool:
    """With an item that cannot be read, on a disk that has not room for all."""
    out, more = base / "out", ("--ray", "local", "--workers", str(args.ray)) if args.ray else ()
    (base / "in" / "0001.png").write_bytes(b"no picture")
    out.mkdir()
    job = {"inputs": "in", "operator": "denoise", "steps": args.steps, "prior": args.prior, "out": "out", "threads": 1}
    (base / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", "flowhelm", "batch", str(base / "job.json"), *more]
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(out)], check=True)
    try:
        full = subprocess.run(command, capture_output=True, text=True)
        print(full.stdout.strip())
        first, half = len(lines(out)), [str(p) for p in out.rglob(".*")]
        subprocess.run(["mount", "-o", "remount,size=64m", str(out)], check=True)
        room = subprocess.run(command, capture_output=True, text=True)
        print(room.stdout.strip())
        done = [line for line in lines(out) if line["status"] == "done"]
        good = (full.returncode, room.returncode) == (1, 1) and "the disk is full" in full.stdout and not half
        good = good and 0 < first < args.pictures and len(done) == len(hashes(out)) == args.pictures - 1
        print(
            f"status {full.returncode} and {room.returncode}; {first} items recorded when it was full, then {len(done)} done"
        )
        print("only what cannot be read has failed" if good else "NOT as expected")
        return good
    finally:
        subprocess.run(["umount", str(out)], check=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--prior", default="photos")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ray", type=int, default=0, help="workers of a local Ray; 0: one process")
    parser.add_argument("--full", action="store_true", help="a full disk instead of kills; needs root")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        pictures(base / "in", args.pictures, args.size)
        return 0 if (filled if args.full else killed)(args, base) else 1


if __name__ == "__main__":
    sys.exit(main())
