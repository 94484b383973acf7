"""Workers of Ray: their deaths cost nothing but a poisoned item; the batch is what one process makes of it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import batches
import pytest
from batches import lines, made, pictures, results

from flowhelm.app.batch import ray as cluster
from flowhelm.app.batch.ray import TRIES, Where
from flowhelm.app.batch.run import batch
from flowhelm.app.errors import BadInput
from flowhelm.interfaces.cli.progress import carried_out


def described(folder: Path, prior: str, out: str, **more):
    return batches.described(folder, prior, **{"operator": "denoise", "std": 0.1, "out": out} | more)


# --- a Ray of this very process, whose actors die when they are told to ---


class Died(Exception):
    pass


class TaskError(Died):
    pass


class Ref:
    def __init__(self, chunk):
        self.chunk, self.tries, self.done, self.value = chunk, 0, False, None


class Fake:
    """Just so much of Ray as is used: the tasks of an actor run one after the other, one step for each `wait`; an actor that dies is
    started again and given its task again, as often as it was asked for."""

    def __init__(self, poison=(), deaths=0):
        self.poison, self.deaths, self.actors, self.started, self.most, self.died = set(poison), deaths, [], 0, 0, 0
        self.exceptions = SimpleNamespace(RayError=Died, RayTaskError=TaskError)

    def remote(self, *, max_restarts, max_task_retries, **_):
        assert max_restarts == -1
        self.tries = max_task_retries + 1

        def decorate(kind):
            return SimpleNamespace(remote=lambda *given, **named: self._actor(lambda: kind(*given, **named)))

        return decorate

    def _actor(self, start):
        actor = SimpleNamespace(start=start, real=self._started(start), queue=deque())
        self.actors.append(actor)

        def make(chunk):
            actor.queue.append(ref := Ref(chunk))
            self.most = max(self.most, len(actor.queue))
            return ref

        actor.make = SimpleNamespace(remote=make)
        return actor

    def _started(self, start):
        self.started += 1
        before = signal.getsignal(signal.SIGINT)
        try:
            return start()
        finally:
            signal.signal(signal.SIGINT, before)

    def wait(self, refs, num_returns=1):
        while not any(ref.done for ref in refs):
            for actor in self.actors:
                if actor.queue:
                    self._step(actor)
        return [ref for ref in refs if ref.done][:num_returns], refs

    def _step(self, actor):
        ref = actor.queue[0]
        if {item.name for item in ref.chunk} & self.poison or self.deaths:
            self.deaths -= bool(self.deaths)
            self.died += 1
            ref.tries += 1
            actor.real = self._started(actor.start)
            if ref.tries == self.tries:
                actor.queue.popleft()
                ref.done, ref.value = True, Died("killed")
            return
        actor.queue.popleft()
        ref.value, ref.done = actor.real.make(ref.chunk), True

    def get(self, ref):
        if isinstance(ref.value, Exception):
            raise ref.value
        return ref.value


def on(monkeypatch, fake: Fake, workers: int = 2) -> Where:
    @contextmanager
    def ray(where, gpus):
        yield fake, workers

    monkeypatch.setattr(cluster, "_ray", ray)
    return Where("local", workers)


def test_a_death_costs_nothing(tmp_path, prior, monkeypatch):
    folder = pictures(tmp_path / "in", 9)
    fake = Fake(deaths=2)
    assert made(described(folder, prior, "one"))
    assert made(described(folder, prior, "ray"), ray=on(monkeypatch, fake))
    assert results(tmp_path / "ray") == results(tmp_path / "one")
    assert sorted(line["name"] for line in lines(tmp_path / "ray")) == sorted(
        p.name for p in folder.iterdir()
    )  # each once
    assert (len(fake.actors), fake.started) == (2, 4)
    assert fake.most == 2  # one that it makes, and one so that it need not wait
    assert not (tmp_path / "ray" / ".batch").exists()


def test_an_item_that_kills_has_failed_and_costs_no_others(tmp_path, prior, monkeypatch, capsys):
    folder = pictures(tmp_path / "in", 8)
    fake = Fake(poison=["p03.png"])
    assert not carried_out(batch(described(folder, prior, "ray", rows=3), ray=on(monkeypatch, fake)))
    found = {line["name"]: line for line in lines(tmp_path / "ray")}
    assert {name for name, line in found.items() if line["status"] == "failed"} == {"p03.png"}
    assert fake.died == 2 * TRIES  # with those beside it, then alone
    assert f"died {TRIES} times (killed)" in found["p03.png"]["reason"]
    assert len(found) == len(lines(tmp_path / "ray")) == 8
    assert "8 items: 7 done, 1 failed" in capsys.readouterr().out
    # as an item that has failed, it is not tried again unless that is asked for
    assert not made(described(folder, prior, "ray", rows=3), ray=on(monkeypatch, Fake()))
    assert len(lines(tmp_path / "ray")) == 8
    assert made(described(folder, prior, "ray", rows=3), retry=True, ray=on(monkeypatch, Fake()))


def test_workers_that_cannot_start(tmp_path, prior, monkeypatch):
    folder = pictures(tmp_path / "in", 2)
    with monkeypatch.context() as patched:
        patched.setattr(cluster.Worker, "open", lambda *_: (_ for _ in ()).throw(BadInput("no prior here")))
        where = on(patched, Fake())
        with pytest.raises(BadInput, match="no prior here"):
            made(described(folder, prior, "ray"), ray=where)
    assert not (tmp_path / "ray" / ".batch").exists()
    # every one dies at once: no picture's fault
    with pytest.raises(BadInput, match="the workers of Ray die as they start"):
        made(described(folder, prior, "ray"), ray=on(monkeypatch, Fake(deaths=10**6), 1))
    assert lines(tmp_path / "ray") == []
    # all there are may be at fault, too
    names = [path.name for path in folder.iterdir()]
    assert not made(described(folder, prior, "ray"), ray=on(monkeypatch, Fake(names), 2))
    assert [line["status"] for line in lines(tmp_path / "ray")] == ["failed"] * 2


def test_a_full_disk_in_a_worker(tmp_path, prior, monkeypatch, capsys):
    folder, put = pictures(tmp_path / "in", 4), os.replace

    def full(source, target):
        if "p02" in str(target):
            raise OSError(28, "No space left on device")
        put(source, target)

    monkeypatch.setattr(os, "replace", full)
    assert not carried_out(batch(described(folder, prior, "ray"), ray=on(monkeypatch, Fake(), 1)))
    assert "stopped, since the disk is full" in capsys.readouterr().out
    assert [line["name"] for line in lines(tmp_path / "ray")] == ["p00.png", "p01.png"]
    assert not (tmp_path / "ray" / ".batch").exists()


def test_words(tmp_path, prior, monkeypatch, refusal):
    folder = pictures(tmp_path / "in", 1)
    words = ["restore", str(folder), "--operator", "denoise", "--steps", "2", "--prior", prior]
    assert "--workers is for --ray" in refusal(*words, "--workers", "2")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'flowhelm[cluster]'" in refusal(*words, "--ray", "local")


# --- Ray itself ---


def below(process: "psutil.Process") -> list["psutil.Process"]:  # noqa: F821
    import psutil

    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@pytest.mark.parametrize("name", ["/tmp", "/tmp/tmp.AcrHbX9klX", "/var/folders/zz/zyxvpxvq6csfxvn_n0000000000000/T"])
def test_a_socket_of_ray_has_a_path_that_the_system_takes(monkeypatch, name):
    monkeypatch.setattr(tempfile, "tempdir", name)
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    own = "flowhelm-ray-1234567-abcdefgh/session_2026-11-21_13-20-16_448244_1234567/sockets/plasma_store"
    assert len(str(cluster._short_temporary() / own)) <= 107


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked for in /proc")
def test_two_workers_one_of_them_killed(tmp_path, prior):
    """In a process of its own, which is looked at from here: who listens where, and what it leaves behind."""
    pytest.importorskip("ray")
    psutil = pytest.importorskip("psutil")
    folder = pictures(tmp_path / "in", 24)
    given = described(folder, prior, "ray", steps=4)
    (tmp_path / "job.json").write_text(given.model_dump_json())
    assert made(given.changed(out=str(tmp_path / "one")))
    program = "import sys; from flowhelm.interfaces.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["batch", str(tmp_path / "job.json"), "--ray", "local", "--workers", "2"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen([sys.executable, "-c", program, *words], stdout=log, stderr=subprocess.STDOUT)
    manifest = tmp_path / "ray" / "manifest.jsonl"
    while process.poll() is None and not (manifest.exists() and manifest.read_bytes().count(b"\n") >= 2):
        time.sleep(0.02)
    assert process.poll() is None, (tmp_path / "log").read_text()
    helpers = below(psutil.Process(process.pid))
    workers = [each for each in helpers if each.name().startswith("ray::Actor")]
    if workers:  # killed before it is looked at closer, which takes long
        workers[0].kill()
    listening = {c.laddr.ip for each in helpers if each.is_running() for c in _listening(each)}
    assert process.wait(120) == 0, (tmp_path / "log").read_text()
    assert workers
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, listening
    assert results(tmp_path / "ray") == results(tmp_path / "one")
    found = lines(tmp_path / "ray")
    assert len(found) == 24
    assert {line["settings"]["threads"] for line in found} == {1}
    assert not (tmp_path / "ray" / ".batch").exists()
    psutil.wait_procs(helpers, timeout=10)
    assert not [each for each in helpers if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert not list(Path("/tmp").glob(f"flowhelm-ray-{process.pid}-*"))


def _listening(process):
    import psutil

    try:
        return [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    except psutil.Error:
        return []


class Shy(Fake):
    """A Ray that does not start at once, or never."""

    def __init__(self, tries: int):
        super().__init__()
        self.tries, self.inits = tries, []

    def init(self, **how):
        self.inits.append(how)
        if len(self.inits) < self.tries:
            raise Exception("The current node timed out during startup")

    def shutdown(self):
        pass

    def cluster_resources(self):
        return {"CPU": 2.0}


def test_a_ray_that_starts_late_or_never(tmp_path, prior, monkeypatch):
    folder, shy = pictures(tmp_path / "in", 1), Shy(2)
    monkeypatch.setattr(cluster, "_RUNNING", tmp_path / "none")
    for name in (*cluster._ALONE, *cluster._ENVIRONMENT, "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")  # and restored after the test
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", shy)
    assert made(described(folder, prior, "ray"), ray=Where("auto", 2))
    assert [how["_node_ip_address"] for how in shy.inits] == ["127.0.0.1"] * 2
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert not list(Path("/tmp").glob(f"flowhelm-ray-{os.getpid()}-*"))
    monkeypatch.setitem(sys.modules, "ray", Shy(10))
    with pytest.raises(BadInput, match=r"Ray could not be started .*timed out"):
        made(described(folder, prior, "ray", std=0.2), ray=Where("local"))
    monkeypatch.setitem(sys.modules, "ray", Shy(1))
    with pytest.raises(BadInput, match="expected at most 1, for Ray has 2 cores"):
        made(described(folder, prior, "ray", std=0.2), ray=Where("local", 2, 2))
