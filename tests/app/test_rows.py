"""Several items as the rows of one batch: each with its own noise, what it is alone but for rounding, and made again to the bit."""

from pathlib import Path
from types import SimpleNamespace

import batches as shared
import numpy as np
import pytest
import torch
from batches import lines
from PIL import Image

from flowhelm.app.batch import run as batches
from flowhelm.app.batch import worker as making
from flowhelm.app.batch.run import rerun
from flowhelm.app.restore.result import decoded
from flowhelm.app.run import drive
from flowhelm.priors import bundled
from flowhelm.rng import Noise


def pictures(folder: Path, sizes: list[tuple[int, int]], mode: str = "RGB") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k, (height, width) in enumerate(sizes):
        shape = (height, width, 3) if mode == "RGB" else (height, width)
        pixels = np.random.default_rng(k).integers(0, 256, shape, np.uint8)
        Image.fromarray(pixels).save(folder / f"{mode}{k}.png")
    return folder


def described(folder: Path, prior: str, **more):
    return shared.described(folder, prior, **{"operator": "denoise", "out": "o"} | more)


def made(folder: Path, prior: str, rows: int | str, **more) -> dict[str, dict]:
    given = described(folder, prior, rows=rows, std=0.2, steps=3, out=f"out{rows}", **more)
    assert shared.made(given)
    return {line["output"]: line for line in lines(Path(given.out))}


def levels(out: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(out / name)).astype(int)


def test_a_seed_for_each_row():
    joint = Noise([3, 4], [0, 0])
    alone = [Noise(seed, [0]) for seed in (3, 4)]
    like = torch.empty(2, 5)
    assert torch.equal(joint(like), torch.cat([each(like[:1]) for each in alone]))
    assert torch.equal(
        joint.named("y").spawn(2)(torch.empty(4, 5)), torch.cat([each.named("y").spawn(2)(like) for each in alone])
    )
    assert torch.equal(joint.rows([1]).spawn(1)(like[:1]), alone[1].spawn(1)(like[:1]))
    with pytest.raises(ValueError, match="one seed or 3"):
        Noise([1, 2], 3)


@pytest.mark.parametrize(
    ("method", "own", "more"),
    [
        ("mpc_flow", {"renoise": 0.5}, {}),  # draws at every step
        ("dps", {}, {"simulate": True, "operator": "deblur", "operator_options": {"sigma": 0.5}}),  # measurement noise
        ("tds", {"particles": 3}, {}),  # weighted particles: their mean
        ("svdd", {"draws": 2}, {}),
        ("d_flow", {"iterations": 1, "inner": "adam:iterations=2"}, {}),  # a whole trajectory
        ("mpc_flow", {}, {"warm": 0.3}),
    ],
)
def test_an_item_is_what_it_is_alone(method, own, more, tmp_path, prior):
    folder = pictures(tmp_path / "in", [(8, 12)] * 3)
    more = more | {"method": method, "method_options": own}
    alone, joint = made(folder, prior, 1, **more), made(folder, prior, 3, **more)
    assert len(alone) == len(joint) == 3
    for row, (name, line) in enumerate(joint.items()):
        assert "rows" not in alone[name]["settings"]
        assert (line["settings"]["rows"], line["settings"]["row"]) == (3, row)
        assert line["key"] == alone[name]["key"]
        assert line["result"]["evaluations"] == alone[name]["result"]["evaluations"]
        assert line["result"]["residual"] == pytest.approx(alone[name]["result"]["residual"], rel=1e-4)
        assert np.abs(levels(tmp_path / "out1", name) - levels(tmp_path / "out3", name)).max() <= 1
    assert len({line["result"]["sha256"] for line in joint.values()}) == 3


def test_the_bundled_prior_and_made_again(tmp_path):
    folder = pictures(tmp_path / "in", [(16, 16)] * 3)
    alone, joint = made(folder, "photos", 1), made(folder, "photos", 2)
    assert [line["settings"].get("rows") for line in joint.values()] == [2, 2, None]
    last = list(alone)[-1]
    assert joint[last]["result"]["sha256"] == alone[last]["result"]["sha256"]  # the third had no company
    said = []
    for name in alone:
        assert drive(rerun(tmp_path / "out2" / "manifest.jsonl", name), said.append), said
        assert np.abs(levels(tmp_path / "out1", name) - levels(tmp_path / "out2", name)).max() <= 1


def test_only_what_is_alike_runs_together(tmp_path, prior, monkeypatch):
    sizes = [(8, 8), (8, 12), (8, 8), (12, 8), (8, 8)]
    folder = pictures(pictures(tmp_path / "in", sizes), sizes[:3], "L")
    (folder / "RGB2.png").write_bytes(b"no picture")
    ran, loop = [], making.loop
    monkeypatch.setattr(
        making, "loop", lambda problem, *a, **k: ran.append(len(problem.noise)) or loop(problem, *a, **k)
    )
    # all that are left in one chunk: what looks alike from outside is not always
    monkeypatch.setattr(batches, "_chunks", lambda left, *_: iter([left]))
    assert not shared.made(described(folder, prior, rows=4))
    assert sorted(ran) == [1, 1, 1, 2, 2]  # grey ones have another noise level
    statuses = {line["name"]: line["status"] for line in lines(tmp_path / "o")}
    assert len(statuses) == 8
    assert [name for name, status in statuses.items() if status == "failed"] == ["RGB2.png"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves(error, tmp_path, prior, monkeypatch):
    folder = pictures(tmp_path / "in", [(8, 8)] * 11)
    seen, velocity = [], bundled.Prior.velocity

    def short(self, x, t):
        seen.append(len(x))
        if len(x) > 2:
            raise error
        return velocity(self, x, t)

    monkeypatch.setattr(bundled.Prior, "velocity", short)
    joint = made(folder, prior, 8)
    assert [n for n in seen if n > 2] == [8, 4]  # and never so many again
    assert sorted(line["settings"].get("rows", 1) for line in joint.values()) == [1] + [2] * 10
    assert len(joint) == 11
    monkeypatch.setattr(bundled.Prior, "velocity", lambda self, x, t: (_ for _ in ()).throw(error))
    assert not shared.made(described(folder, prior, rows=4, out="never"))
    assert {line["status"] for line in lines(tmp_path / "never")} == {"failed"}


def test_the_fault_of_one_costs_no_others(tmp_path, prior, monkeypatch):
    folder = pictures(tmp_path / "in", [(8, 8)] * 3)
    velocity, bad = bundled.Prior.velocity, []

    def poisoned(self, x, t):
        if t == 0 and not bad:
            bad.append(x[1].clone())
        v = velocity(self, x, t)
        same = [torch.equal(row, bad[0]) for row in x]
        return torch.where(torch.tensor(same)[:, None, None, None], torch.nan, v) if any(same) else v

    monkeypatch.setattr(bundled.Prior, "velocity", poisoned)
    assert not shared.made(described(folder, prior, rows=3, method="dps"))
    found = {line["name"]: line for line in lines(tmp_path / "o")}
    assert [found[f"RGB{k}.png"]["status"] for k in range(3)] == ["done", "failed", "done"]
    assert "not finite" in found["RGB1.png"]["reason"]
    assert "rows" not in found["RGB0.png"]["settings"]  # made alone, once it was known that one of them is bad


def test_auto_is_one_on_the_cpu(tmp_path, prior):
    folder = pictures(tmp_path / "in", [(8, 8)] * 2)
    assert all("rows" not in line["settings"] for line in made(folder, prior, "auto").values())


def test_each_has_the_mean_of_its_own_particles():
    pictures, log_w = torch.randn(6, 3, 2, 2), torch.tensor([[0.0, 1.0, 2.0], [5.0, -torch.inf, 0.0]])
    flow = SimpleNamespace(decode=lambda clean: clean)
    problem = SimpleNamespace(flow=flow, observed=SimpleNamespace(measurement=SimpleNamespace(y=torch.zeros(2, 1))))
    found = decoded(problem, pictures, {"log_w": log_w})
    weights = log_w.softmax(1)
    for row in range(2):
        expected = sum(weights[row, k] * pictures[3 * row + k] for k in range(3))
        torch.testing.assert_close(found[row], expected)
    assert torch.equal(decoded(problem, pictures, {}), pictures[[0, 3]])
