"""`flowhelm align` by two processes makes the adapter of one, and either goes on where the other stopped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toys import little_prior

from flowhelm.app.options import own
from flowhelm.app.run import drive
from flowhelm.app.tune.request import AlignRequest
from flowhelm.app.tune.run import align
from flowhelm.learning import together
from flowhelm.priors import bundled

SRC = Path(__file__).parents[2] / "src"
ASKED = {"classes": ["bag", "coat"], "rows": 8, "checked": 4, "check_steps": 2, "threads": 1, "rank": 2}
ASKED |= {"check_every": 2, "rate": 1e-3, "least_diversity": 0.0}
OPTIONS = {
    "vgg_flow": {"steps": 4, "beta": 50.0},  # a quantile of the batch, a value network, steps by lot
    "flow_grpo": {"steps": 4, "group": 4},  # the deviation of the batch
    "refl": {"steps": 4},
}


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    path = little_prior(tmp_path_factory.mktemp("prior"))
    # slopes of many lengths, or a quantile would be the same for any part of the batch
    path.with_name("own.py").write_text("def near(image):\n    return -((image - 0.3) ** 2).mean((1, 2, 3))\n")
    own.trust(near(path))
    return str(path)


def near(prior):
    return f"{Path(prior).with_name('own.py')}:near"


def alone(prior, out, method, updates):
    request = AlignRequest(
        prior=prior, out=out, reward=[near(prior)], method=method, method_options=OPTIONS[method], updates=updates,
        **ASKED,
    )  # fmt: skip
    drive(align(request))


def two(prior, out, method, updates):
    """The command, by two processes of torchrun, which `accelerate launch` starts as well."""
    words = ["align", prior, "--reward", near(prior), "--out", out, "--method", method, "--updates", updates]
    given = ASKED | OPTIONS[method]
    names = {"classes": "class"}
    for name, value in given.items():
        for each in value if isinstance(value, list) else [value]:
            words += [f"--{names.get(name, name).replace('_', '-')}", each]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "flowhelm"]
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "RANK", "WORLD_SIZE", "LOCAL_"))}
    env = plain | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SRC)}
    return subprocess.run([*launch, *map(str, words)], capture_output=True, text=True, env=env)


def apart(prior, one, other):
    """How far two checkpoints' adapters are apart, as a share of how far the first one has gone from its beginning."""
    a, b = (load_file(each / "checkpoint.safetensors") for each in (one, other))
    assert a.keys() == b.keys()
    torch.testing.assert_close(a["noise"], b["noise"], rtol=0, atol=0)  # streams of all rows
    begun = bundled.load(prior).with_lora(ASKED["rank"]).trained()
    off = torch.cat([(a[f"adapter.{i}"] - b[f"adapter.{i}"]).flatten() for i in range(len(begun))])
    moved = torch.cat([(a[f"adapter.{i}"] - each.detach()).flatten() for i, each in enumerate(begun)])
    return float(off.norm() / moved.norm())


@pytest.mark.slow
@pytest.mark.parametrize("method", list(OPTIONS))
def test_two_processes_make_the_adapter_of_one(prior, tmp_path, method):
    pytest.importorskip("accelerate")
    alone(prior, tmp_path / "one", method, 4)
    done = two(prior, tmp_path / "two", method, 4)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("wrote ") == 1  # one of them speaks
    assert apart(prior, tmp_path / "one", tmp_path / "two") < 1e-2
    assert {each.name for each in (tmp_path / "one").iterdir()} == {each.name for each in (tmp_path / "two").iterdir()}
    # half of it by two, the rest by one
    assert two(prior, tmp_path / "half", method, 2).returncode == 0
    alone(prior, tmp_path / "half", method, 4)
    assert apart(prior, tmp_path / "one", tmp_path / "half") < 1e-2


@pytest.mark.slow
def test_groups_are_not_cut(prior, tmp_path):
    pytest.importorskip("accelerate")
    OPTIONS["diffusion_nft"] = {"steps": 2, "group": 8}
    done = two(prior, tmp_path / "two", "diffusion_nft", 1)
    assert done.returncode != 0
    assert "each of the 2 processes takes whole groups of --group 8; choose a multiple of 16" in " ".join(
        done.stderr.split()
    )
    assert not (tmp_path / "two").exists()


def test_in_one_process_it_is_the_identity():
    x = torch.arange(6.0).view(2, 3)
    together.average([x])
    assert together.place() == (0, 1)
    assert together.gathered(x) is x
    assert (together.agreed(1 / 3), together.anywhere(True), together.anywhere(False)) == (1 / 3, True, False)
    assert list(together.mine(5)) == [0, 1, 2, 3, 4]


def test_rows_are_shared_out(monkeypatch):
    parts = []
    for rank in range(3):
        monkeypatch.setattr(together, "place", lambda rank=rank: (rank, 3))
        parts += together.mine(9)
    assert parts == list(range(9))
