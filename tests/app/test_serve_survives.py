"""`flowhelm serve` with 32 clients, whose worker is killed 20 times with -9: no answer goes to another request, and it answers again."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from encoded import encoded
from PIL import Image

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from flowhelm.app.restore.restorer import Restorer  # noqa: E402

CLIENTS, KILLS = 32, 20


def workers(server: int) -> list[int]:
    """Of the server's processes the one that serves: a child of the one that is forked, or of the server itself."""
    parents, words = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid = int(path.parent.name)
            parents[pid] = int(path.read_text().rpartition(")")[2].split()[1])
            words[pid] = (path.parent / "cmdline").read_bytes()
        except OSError:
            continue
    forks = [pid for pid, parent in parents.items() if parent == server and b"forkserver" in words[pid]]
    return [pid for pid, parent in parents.items() if parent in forks]


def png(seed: int) -> bytes:
    return encoded(np.random.default_rng(seed).integers(0, 255, (16, 24, 3), np.uint8))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked for in /proc")
def test_nothing_is_lost_or_swapped(prior):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = f"{sys.executable} -m flowhelm serve --prior {prior} --threads 1 --port {port} --waiting 64".split()
    server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    done, answers, wrong, gaps = threading.Event(), [0] * CLIENTS, [], []
    restorer = Restorer(prior, threads=1)
    expected = [
        restorer(Image.open(io.BytesIO(png(seed))), "denoise", steps=2, seed=seed, std=0.05).sha256
        for seed in range(CLIENTS)
    ]

    def ask(seed: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            while not done.is_set():
                fields = {"operator": "denoise", "steps": "2", "seed": str(seed), "std": "0.05"}
                answer = client.post("/restore", data=fields, files={"picture": ("p.png", png(seed))})
                if answer.status_code == 200:
                    facts = json.loads(answer.headers["x-flowhelm-run"])
                    answers[seed] += 1
                    if (facts["sha256"], facts["seed"]) != (expected[seed], seed):
                        wrong.append((seed, facts))
                elif answer.status_code != 503:  # what was killed again and again is told so, in a sentence
                    wrong.append((seed, answer.text))

    try:
        assert "restoring with" in server.stdout.readline()
        with httpx.Client(transport=httpx.HTTPTransport(retries=9)) as first:  # it is said before it listens
            assert first.get(f"http://127.0.0.1:{port}/health").status_code == 200
        clients = [threading.Thread(target=ask, args=(seed,)) for seed in range(CLIENTS)]
        for each in clients:
            each.start()
        for _ in range(KILLS):
            before = sum(answers)
            while sum(answers) < before + 8:  # it is in the midst of them
                time.sleep(0.01)
            (worker,) = workers(server.pid)
            before, began = sum(answers), time.monotonic()
            os.kill(worker, signal.SIGKILL)
            while sum(answers) < before + 2:  # one may have been on its way
                time.sleep(0.01)
            gaps.append(time.monotonic() - began)
        done.set()
        for each in clients:
            each.join(120)
        assert wrong == []
        assert min(answers) > 0
        print(f"answers again after {min(gaps):.1f} to {max(gaps):.1f} s; {sum(answers)} answers")
        assert max(gaps) < 10
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) in (0, -signal.SIGTERM)
        assert time.monotonic() - began < 8
        assert workers(server.pid) == []
        assert "Traceback" not in server.stderr.read()
    finally:
        done.set()
        server.kill()
        server.wait(10)
