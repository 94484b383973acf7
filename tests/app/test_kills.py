"""Twenty kills with -9 at random moments, of the batch and of workers of Ray; resumed, nothing is lost, nothing is swapped.

pytest -m slow tests/app/test_kills.py -s      says at how many items each kill fell
"""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from batches import described, lines, made, numbers, pictures, results

from flowhelm.app.batch import manifest
from flowhelm.app.files.atomic import sha256
from flowhelm.interfaces.cli import main

psutil = pytest.importorskip("psutil")
COUNT, KILLS = 240, 20
SLOW = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.skipif(os.name != "posix", reason="SIGKILL")]
pytestmark = SLOW


def run(job: str, log: str, words: tuple[str, ...]) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.exit(main(["batch", job, *words]))


def workers(pid: int) -> list["psutil.Process"]:
    found = []
    try:
        for each in psutil.Process(pid).children(recursive=True):
            if each.name().startswith("ray::Actor"):
                found.append(each)
    except psutil.Error:
        pass
    return found


def whole_lines(out: Path) -> Iterator[dict]:
    """What stands in the manifest, without a line that a kill has cut; all others must be whole."""
    path = out / "manifest.jsonl"
    data = path.read_bytes() if path.exists() else b""
    kept = data[: data.rfind(b"\n") + 1]
    assert not manifest.lines_of(kept)[1]
    return map(json.loads, kept.splitlines())


def nothing_swapped(out: Path, folder: Path, whole: dict[str, str], photos: dict[str, str]) -> int:
    """Each line's result is there, the one that this picture has undisturbed; nothing half-written has a result's name."""
    told = list(whole_lines(out))
    for line in told:
        assert line["status"] == "done", line
        assert line["inputs"]["photo sha256"] == photos[line["name"]] == sha256(folder / line["name"])
        assert sha256(out / line["output"]) == line["files"][line["output"]] == whole[line["output"]]
    for path in out.glob("*.png"):
        assert sha256(path) == whole[path.name], path
    return len(told)


@pytest.mark.parametrize("ray", [0, 2])
def test_killed_twenty_times(ray, tmp_path, prior, capfd):
    """Without Ray each kill is the batch's; with two workers every other one falls on a worker."""
    if ray:
        pytest.importorskip("ray")
    folder, chance = pictures(tmp_path / "in", COUNT), random.Random(ray)
    photos = {path.name: sha256(path) for path in folder.iterdir()}
    request = described(folder, prior, out="whole", operator="denoise", std=0.1)
    assert made(request)
    whole, out = results(tmp_path / "whole"), tmp_path / "out"
    assert len(set(whole.values())) == COUNT  # or nothing could be seen to be swapped
    (tmp_path / "job.json").write_text(request.changed(out=str(out)).model_dump_json())
    words = ("--ray", "local", "--workers", str(ray)) if ray else ()
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["flowhelm.interfaces.cli", "flowhelm.app.batch.run", "deepinv.physics"])

    def start():
        process = processes.Process(target=run, args=(str(tmp_path / "job.json"), str(tmp_path / "log"), words))
        process.start()
        return process

    process, at, helpers = start(), list[str](), []
    kills = 10 if ray else KILLS
    for kill in range(kills):
        if not process.is_alive():
            assert process.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()[-2000:]
            process = start()
        goal = COUNT * kill // (kills + 1) + chance.randrange(3)
        while process.is_alive() and len(list(whole_lines(out))) < goal:
            time.sleep(0.002)
        # before the first item, within one, between a result and its line, and between two
        time.sleep(chance.choice((0, chance.uniform(0, 0.03), chance.uniform(0, 0.15))))
        assert process.is_alive(), (tmp_path / "log").read_text()[-2000:]
        hands = workers(process.pid)
        helpers += psutil.Process(process.pid).children(recursive=True) if ray else []
        if hands and kill % 2:
            chance.choice(hands).kill()
            at.append(f"a worker at {len(list(whole_lines(out)))}")
            continue
        process.kill()
        process.join()
        at.append(f"{nothing_swapped(out, folder, whole, photos)}")
    if not process.is_alive():
        process = start()
    process.join(600)
    assert process.exitcode == 0, (tmp_path / "log").read_text()[-2000:]
    with capfd.disabled():
        print(f"\n{len(at)} kills, at so many of {COUNT} items: {', '.join(at)}")
    assert len(at) == kills
    assert bool(ray) == any(each.startswith("a worker") for each in at)
    assert nothing_swapped(out, folder, whole, photos) == COUNT
    assert results(out) == whole  # and nothing else: no temporary file
    assert numbers(out) == numbers(tmp_path / "whole")
    assert sorted(line["name"] for line in lines(out)) == sorted(photos)  # each once
    assert not (out / ".batch").exists()
    assert not list(out.rglob(".*"))
    assert "damaged" not in (tmp_path / "log").read_text()
    psutil.wait_procs(helpers, timeout=90)  # those of Ray look for a minute for a batch that was killed
    assert not [each for each in helpers if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
