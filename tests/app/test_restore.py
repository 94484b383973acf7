"""Restoring: independent of batch and threads, repeatable, resumable to the byte, and within memory."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowhelm import Noise, operators, priors, run
from flowhelm.app.restore import run as job
from flowhelm.app.restore.observation import framed, misfit, observe, sized, viewable
from flowhelm.app.restore.observation import steps_of as restore
from flowhelm.control import flower
from flowhelm.interfaces.cli import main
from flowhelm.restore import dps, flow_dps, pnp_flow
from flowhelm.steer import mpc_flow

SRC = Path(__file__).parents[2] / "src"
EXAMPLES = Path(__file__).parents[2] / "examples"
FLOWER = partial(mpc_flow, strength=400.0, energy=flower, renoise=1.0)


def pictures(count: int, side: int) -> torch.Tensor:
    """Crops of an example, or noise where the examples are not at hand."""
    path = EXAMPLES / "astronaut.png"
    if not path.exists():
        return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1) / 127.5 - 1
    return torch.stack([whole[:, 30 * k : 30 * k + side, 20 * k : 20 * k + side] for k in range(count)])


def restored(flow, photos, method=FLOWER, steps=10, seed=0):
    observed = observe(operators.deblur, {"sigma": 1.6}, photos, 0.05)
    return run(
        restore(sized(flow, observed.shape), observed, method, flow.times(steps), Noise(seed, rows=[0] * len(photos)))
    ).x


def test_alone_in_a_batch_and_with_two_threads():
    flow, photos, before = priors.load("photos"), pictures(3, 48), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        together = restored(flow, photos, steps=4)
        alone = restored(flow, photos[1:2], steps=4)
        torch.set_num_threads(2)
        assert (restored(flow, photos[1:2], steps=4) - alone).abs().max() <= 1e-4
    finally:
        torch.set_num_threads(before)
    assert (together[1:2] - alone).abs().max() <= 1e-4
    assert (together[0] - together[1]).abs().max() > 0.1  # the pictures do differ


def test_the_same_seed_twice(prior):
    flow, photos = priors.load(prior), pictures(1, 32)
    once = restored(flow, photos)
    assert once.equal(restored(flow, photos))
    assert not once.equal(restored(flow, photos, seed=1))


@pytest.mark.parametrize("method", [FLOWER, dps, flow_dps, pnp_flow], ids=["mpc_flow", "dps", "flow_dps", "pnp_flow"])
def test_going_on_is_exact(prior, method):
    observed, noise = observe(operators.deblur, {}, pictures(1, 32), 0.05), Noise(0, rows=[0])
    flow = sized(priors.load(prior), observed.shape)
    times = flow.times(8)
    steps = restore(flow, observed, method, times, noise)
    for step in steps:
        if step.index == 4:
            break
    state = noise.state()
    whole = run(steps).x
    rest = restore(flow, observed, method, times, Noise(0, rows=[0]).restore(state), x=step.x, index=4)
    last = run(rest)
    assert (last.index, last.total) == (8, 8)
    assert last.x.equal(whole)


def test_misfit_counts_what_was_seen():
    clean, noise = pictures(1, 64), Noise(0, rows=1)
    observed = observe(operators.random_mask, {"missing": 0.9}, clean, 0.1, simulate=noise)
    assert observed.seen.mean() == pytest.approx(0.1, abs=1e-3)
    assert float(misfit(observed, clean)) == pytest.approx(1, abs=0.05)
    away = clean.clone()
    away[(observed.seen == 0).expand_as(away)] = 5.0  # what nobody saw does not count
    assert misfit(observed, away).equal(misfit(observed, clean))


def test_grey_channels_count_as_one():
    clean = pictures(1, 32).mean(1, keepdim=True).repeat(1, 3, 1, 1)
    observed = observe(operators.denoise, {}, clean, 0.1, grey=True, simulate=Noise(0, rows=1))
    y = observed.measurement.y
    assert y[:, 0].equal(y[:, 2])
    assert observed.measurement.std == pytest.approx(0.1 * 3**0.5)
    assert float(misfit(observed, clean)) == pytest.approx(1, abs=0.1)
    one = ((y - clean)[:, 0] ** 2).sum() / (2 * 0.1**2)  # the likelihood of the one channel there is
    assert float(-observed.measurement(clean)) == pytest.approx(float(one), rel=1e-4)


def test_viewable():
    clean = torch.full((1, 3, 32, 32), 0.25)
    for builder, chosen in ((operators.superres, {"factor": 2}), (operators.colorize, {}), (operators.deblur, {})):
        observed = observe(builder, chosen, clean, 0.1, simulate=Noise(0, rows=1))
        shown = viewable(observed, builder(observed.shape, **chosen).A(clean))
        assert shown.shape == framed(observed, clean).shape
        assert (shown - 0.25).abs().max() < 1e-5


def test_an_open_blur_restores_a_margin_and_shows_what_was_measured():
    photo = pictures(1, 40)
    observed = observe(operators.deblur, {"sigma": 1.0}, photo, 0.05)
    assert observed.shape == (3, 50, 50)
    assert viewable(observed, photo) is not None
    whole = torch.randn(1, 3, 50, 50)
    assert framed(observed, whole).equal(whole[..., 5:45, 5:45])
    away = whole.clone()
    away[..., 25, 25] += 1  # its blur is inside
    assert misfit(observed, away) != misfit(observed, whole)
    circular = observe(operators.deblur, {"sigma": 1.0, "border": "circular"}, photo, 0.05)
    assert framed(circular, photo) is photo


def test_what_lies_under_the_mask_does_not_count(prior):
    flow, photo = priors.load(prior), pictures(1, 32)
    mask = torch.ones(32, 32)
    mask[8:20, 4:30] = 0
    other = torch.where(mask == 0, torch.full_like(photo, 1.0), photo)
    results = []
    for seen in (photo, other):
        observed = observe(operators.inpaint, {"mask": mask}, seen, 0.05)
        assert (observed.measurement.y[..., mask == 0] == 0).all()
        results.append(run(restore(sized(flow, observed.shape), observed, FLOWER, flow.times(3), Noise(0, rows=[0]))).x)
    assert results[0].equal(results[1])


def test_tiling_changes_nothing(prior):
    flow, photos = priors.load(prior), pictures(1, 64)
    observed = observe(operators.denoise, {}, photos, 0.05)
    whole, tiled = (
        run(restore(sized(flow, observed.shape, tile), observed, FLOWER, flow.times(4), Noise(0, rows=[0]))).x
        for tile in (0, 16)
    )
    assert (whole - tiled).abs().max() < 1e-4


# --- stopped and gone on ---


def words(photo: Path, prior: str, *more: str, operator: str = "superres") -> list[str]:
    return ["restore", str(photo), "--operator", operator, "--steps", "6", "--prior", prior, *more]


@pytest.fixture
def photo(tmp_path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("when", "operator", "size"), [(1, "superres", (48, 40)), (3, "deblur", (24, 20)), (6, "superres", (48, 40))]
)
def test_stopped_at_a_step(photo, prior, stopped_after, capsys, number, code, when, operator, size):
    given = words(photo, prior, operator=operator)
    assert main([*given, "--out", str(photo.with_name("whole.png"))]) == 0
    stopped_after(when, number)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert main(given) == code
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    assert "--resume" in capsys.readouterr().out
    left = {path.name for path in photo.parent.glob("photo.*")}
    assert left == {"photo.png", "photo.partial.png", "photo.resume.safetensors"}
    assert Image.open(photo.with_name("photo.partial.png")).size == size
    assert main(["restore", "--resume", str(photo.with_name("photo.resume.safetensors"))]) == 0
    left = {path.name for path in photo.parent.glob("photo.*")}
    assert left == {"photo.png", "photo.restored.png", "photo.strip.png", "photo.run.json"}
    assert photo.with_name("photo.restored.png").read_bytes() == photo.with_name("whole.png").read_bytes()
    one, two = (json.loads(photo.with_name(f"{name}.run.json").read_text()) for name in ("whole", "photo"))
    assert one["result"]["sha256"] == two["result"]["sha256"]
    assert two["result"]["evaluations"] >= 6


@pytest.mark.parametrize(
    "more", [(), ("--method", "mpc_flow", "--horizon", "2", "--inner", "adam:iterations=3")], ids=["preset", "planned"]
)
def test_a_killed_run_goes_on_from_its_last_file(photo, prior, monkeypatch, capsys, more):
    """As after kill -9: nothing is caught, but a resume file was written while running."""
    assert main(words(photo, prior, *more, "--out", str(photo.with_name("whole.png")))) == 0
    monkeypatch.setattr(job, "SAVE_EVERY", 0.0)
    put, count = job.record.put_resume, []

    def dies(*given):
        put(*given)
        count.append(1)
        if len(count) == 4:
            raise LookupError("as good as any")

    monkeypatch.setattr(job.record, "put_resume", dies)
    with pytest.raises(LookupError):
        main(words(photo, prior, *more))
    monkeypatch.undo()
    assert main(["restore", "--resume", str(photo.with_name("photo.resume.safetensors"))]) == 0
    assert photo.with_name("photo.restored.png").read_bytes() == photo.with_name("whole.png").read_bytes()


PARTICLES = {
    # weights and records that matter: every one of these ends elsewhere if they are not carried
    "fk": "--method fk --particles 4 --strength 1e-4 --threshold 0.9",
    "fk, twisted": "--method fk --particles 4 --strength 3e-5 --proposal gradient --resampler residual --threshold 0.97",
    "fk, max": "--method fk --particles 3 --strength 3e-5 --potential max --every 2 --threshold 0.97",
    "fk, adaptive": "--method fk --particles 4 --strength 1e-3 --tempering adaptive",
    "tds": "--method tds --particles 4 --std 5 --threshold 0.3",
    "afdps": "--method afdps --particles 4 --std 5 --threshold 0.3",
    "rbf": "--method rbf --draws 4 --starts 5",
    "flow_priors": "--method flow_priors --inner 2",
    "path_search": "--method path_search --particles 2 --draws 2 --legs 2",
}


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("method", PARTICLES)
def test_what_a_method_carries_goes_on_to_the_same_bits(photo, prior, monkeypatch, stopped_after, capsys, method):
    """Weights, tempering, records, quotas and a source, beside the state of every particle and its stream."""
    given = words(photo, prior, *PARTICLES[method].split())
    results, left = [], photo.with_name("photo.resume.safetensors")
    assert main([*given, "--out", str(photo.with_name("whole.png"))]) == 0
    for when in (2, 5, 6):
        stopped_after(when)
        assert main(given) == 130
        monkeypatch.setattr(job, "misfit", misfit)
        assert Image.open(photo.with_name("photo.partial.png")).size == (48, 40)
        assert main(["restore", "--resume", str(left)]) == 0
        assert photo.with_name("photo.restored.png").read_bytes() == photo.with_name("whole.png").read_bytes()
        results.append(json.loads(photo.with_name("photo.run.json").read_text())["result"]["sha256"])
        photo.with_name("photo.restored.png").unlink()
    assert {*results} == {json.loads(photo.with_name("whole.run.json").read_text())["result"]["sha256"]}


def test_particles_draw_from_the_children_of_their_picture_s_stream(photo, prior, monkeypatch):
    seen, decoded = [], job.decoded
    monkeypatch.setattr(job, "decoded", lambda *given: seen.append(given) or decoded(*given))
    assert main(words(photo, prior, "--method", "fk", "--particles", "4")) == 0
    assert len(seen[-1][1]) == 4
    assert seen[-1][0].noise.keys == Noise(0, rows=[0]).spawn(4).keys


WHOLE = ("--method", "flow_grad", "--iterations", "20")


def test_a_whole_trajectory_is_told_in_steps_and_leaves_no_resume_file(photo, prior, monkeypatch, capsys):
    """Its state is the end of a pass, from where nothing goes on: at any of them, the last one included."""
    monkeypatch.setattr(job, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(
        job.record, "put_resume", lambda *given: pytest.fail("a resume file that nothing can go on from")
    )
    assert main(words(photo, prior, *WHOLE)) == 0
    told = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert told == [f"step {k}/6" for k in range(1, 7)]  # the steps of the grid, not the 20 passes; each once
    assert json.loads(photo.with_name("photo.run.json").read_text())["result"]["evaluations"] > 20 * 6


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("when", [7, 20])
def test_a_whole_trajectory_that_is_stopped_starts_again(photo, prior, stopped_after, capsys, when):
    photo.with_name("photo.resume.safetensors").write_bytes(b"of an earlier run")
    stopped_after(when)
    assert main(words(photo, prior, *WHOLE)) == 130
    said = capsys.readouterr().out
    assert f"after step {when} of 20" in said
    assert "--resume" not in said
    assert {path.name for path in photo.parent.glob("photo.*")} == {"photo.png", "photo.partial.png"}


def test_no_going_on_with_another_photograph(photo, prior, stopped_after, capsys, refusal):
    stopped_after(1)
    assert main(words(photo, prior)) == 130
    Image.new("RGB", (24, 20)).save(photo)
    capsys.readouterr()
    assert "photo sha256 was" in refusal("restore", "--resume", str(photo.with_name("photo.resume.safetensors")))


def start(*given: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "flowhelm", *given]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def interrupted(*given: str) -> tuple[int, str, str]:
    """Ctrl-C as soon as a step has been told."""
    running = start(*given)
    assert running.stderr is not None
    line = running.stderr.readline()
    assert line.startswith("step "), line
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=200)
    return running.returncode, out, err


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_in_a_shell(photo, prior):
    long = words(photo, prior)
    long[long.index("6")] = "200"
    code, out, err = interrupted(*long)
    assert code == 130
    assert "Traceback" not in err
    assert "flowhelm restore --resume" in out
    assert main(["restore", "--resume", str(photo.with_name("photo.resume.safetensors"))]) == 0
    assert main([*long, "--out", str(photo.with_name("whole.png")), "--threads", "1"]) == 0
    assert photo.with_name("photo.restored.png").read_bytes() == photo.with_name("whole.png").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_large_photograph(tmp_path):
    """2000x1500 with the bundled prior: under 8 GB, stopped and gone on to the identical file."""
    y, x = np.mgrid[0:1500, 0:2000]
    pixels = np.stack([128 + 100 * np.sin(x / 40), 128 + 100 * np.cos(y / 55), (x * y // 999) % 256], -1)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photo.png")
    given = [str(tmp_path / "photo.png"), "--operator", "deblur", "--steps", "4"]
    code = (
        "import resource, sys; from flowhelm.interfaces.cli import main; status = main(sys.argv[1:])\n"
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20); sys.exit(status)"
    )
    whole = ["restore", *given, "--out", str(tmp_path / "whole.png")]
    environment = os.environ | {"PYTHONPATH": str(SRC)}
    done = subprocess.run([sys.executable, "-c", code, *whole], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak = float(done.stdout.split("peak")[1])
    print(f"peak memory {peak:.2f} GiB")
    assert peak < 8 * 1e9 / 2**30
    threads = json.loads((tmp_path / "whole.run.json").read_text())["settings"]["threads"]
    assert interrupted("restore", *given, "--threads", str(threads))[0] == 130
    assert main(["restore", "--resume", str(tmp_path / "photo.resume.safetensors")]) == 0
    assert (tmp_path / "photo.restored.png").read_bytes() == (tmp_path / "whole.png").read_bytes()


def test_a_large_picture_is_not_evaluated_once_more_to_say_how_long_it_takes(monkeypatch, prior, tmp_path):
    """A network that looks no further than its reach is timed on a corner, and the time scaled by the area."""
    from flowhelm.app.models import outlook as told
    from flowhelm.app.restore import outlook
    from flowhelm.app.restore.request import RestoreRequest
    from flowhelm.app.restore.run import restore
    from flowhelm.app.restore.settle import settle
    from flowhelm.app.run import Planned
    from flowhelm.priors.unet import UNet

    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(tmp_path / "photo.png")
    monkeypatch.setattr(outlook, "CROP", 8)
    timed, seen = iter([1.0, 0.0]), []
    monkeypatch.setattr(told, "seconds_of", lambda call, *_: call() is None or next(timed))
    forward = UNet.forward

    def watched(self, x, *given):
        if type(x) is torch.Tensor and x.device.type != "meta":  # its memory is counted on tensors without values
            seen.append(tuple(x.shape[-2:]))
        return forward(self, x, *given)

    monkeypatch.setattr(UNet, "forward", watched)
    given = {"photo": tmp_path / "photo.png", "operator": "denoise", "std": 0.1, "prior": prior, "threads": 1}
    events = restore(settle(RestoreRequest.of(given, "restore")))
    planned = next(event for event in events if isinstance(event, Planned))
    events.close()
    assert planned.text.startswith("this takes about 48 seconds")  # two evaluations
    assert seen == [(8, 8)]


def test_a_long_run_says_before_how_long_it_takes(monkeypatch, prior, tmp_path):
    """By what is timed: here each evaluation is one second, and nothing else takes time."""
    from flowhelm.app.models import outlook as told
    from flowhelm.app.restore.request import RestoreRequest
    from flowhelm.app.restore.run import restore
    from flowhelm.app.restore.settle import settle
    from flowhelm.app.run import Planned

    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "photo.png")
    for seconds, method, said in (
        (1.0, "pnp_flow", "this takes about 20 seconds and 0.0 GiB of memory (20 evaluations of the network)"),
        (1.0, "dps", "this takes about 60 seconds and 0.0 GiB of memory (20 evaluations of the network)"),
        (60.0, "pnp_flow", "this takes about 20 minutes and 0.0 GiB of memory (20 evaluations of the network)"),
        (0.1, "pnp_flow", ""),
    ):
        timed = iter([seconds, 0.0])
        monkeypatch.setattr(told, "seconds_of", lambda call, *_, timed=timed: call() is None or next(timed))
        given = {
            "photo": tmp_path / "photo.png", "operator": "denoise", "method": method, "steps": 20, "prior": prior,
            "threads": 1,
        }  # fmt: skip
        events = restore(settle(RestoreRequest.of(given, "restore")))
        planned = next(event for event in events if isinstance(event, Planned))
        events.close()
        assert planned.text == said
