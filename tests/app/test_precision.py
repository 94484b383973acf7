"""What a network computes in: chosen by the picture and the processor, said, kept in the run's file, and of little consequence."""

import json

import pytest
import torch

from flowhelm import GaussianFlow, NetFlow, Noise, Restorer, guide, priors
from flowhelm.app.models import precision
from flowhelm.interfaces.cli import main
from flowhelm.metrics import psnr


class Typed(torch.nn.Module):
    """A product of matrices that notes the type of its result."""

    def __init__(self):
        super().__init__()
        self.linear, self.seen = torch.nn.Linear(4, 4), []

    def forward(self, x, t, *condition):
        out = self.linear(x)
        self.seen.append(out.dtype)
        return out


@pytest.fixture
def amx(monkeypatch):
    """A processor that multiplies bfloat16 in tiles, and a small picture counts as large."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    monkeypatch.setattr(precision, "LARGE", 24 * 24)


def test_the_network_alone_computes_in_it():
    """With bfloat16's 8 bits of a product; the state, its type and what guidance joins are those of float32."""
    net = Typed()
    flow = NetFlow(net, (4,), condition=(torch.ones(1, 1),), null=(torch.zeros(1, 1),), guidance=guide.cfg)
    x, t = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor(0.5)
    full, half = flow.velocity(x, t), precision.computing(flow, "bfloat16").velocity(x, t)
    assert net.seen == [torch.float32, torch.bfloat16]
    assert half.dtype == x.dtype
    assert 0 < float((half - full).abs().max()) < 2**-6 * float(full.abs().max())
    again = precision.computing(precision.computing(flow, "bfloat16"), "float32")
    assert torch.equal(again.velocity(x, t), full)


@pytest.mark.parametrize(
    ("capabilities", "pixels", "expected"),
    [
        ({"amx_bf16": True}, precision.LARGE, "bfloat16"),
        ({"amx_bf16": True}, precision.LARGE - 1, "float32"),
        ({"amx_bf16": False, "avx512_bf16": True}, precision.LARGE, "bfloat16"),
        ({"amx_bf16": False, "avx512_bf16": False}, precision.LARGE, "float32"),
        ({}, 10**9, "float32"),
    ],
)
def test_usual(capabilities, pixels, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert precision.usual(priors.load("photos"), pixels, "cpu") == expected


def test_others_are_never_cast(amx):
    for flow in (GaussianFlow(torch.zeros(2), torch.eye(2)), priors.load("fashion-tokens")):
        assert precision.usual(flow, 10**9, "cpu") == "float32"
        assert precision.computing(flow, "float32") is flow
        with pytest.raises(
            ValueError, match="--dtype bfloat16: expected float32, or bfloat16 of a prior that is a flow"
        ):
            precision.computing(flow, "bfloat16")


def test_a_restoration_says_it_keeps_it_and_runs_again_to_the_bit(photo, amx, capsys):
    words = ["restore", str(photo), "--operator", "denoise", "--std", "0.1"]
    run, again = photo.with_name("photo.run.json"), photo.with_name("photo.restored.png")
    assert main(words) == 0
    assert "computes in bfloat16, which this processor is fast at; set --dtype float32" in capsys.readouterr().out
    assert json.loads(run.read_text())["settings"]["dtype"] == "bfloat16"
    assert main(["rerun", str(run)]) == 0
    assert "identical to the bit" in capsys.readouterr().out
    half = again.read_bytes()
    assert main([*words, "--dtype", "float32"]) == 0
    assert "bfloat16" not in capsys.readouterr().out
    assert json.loads(run.read_text())["settings"]["dtype"] == "float32"
    assert again.read_bytes() != half


def test_it_costs_no_quality_and_python_callers_have_it(amx):
    clean = torch.linspace(-0.8, 0.8, 32).expand(3, 32, 32).clone()
    noisy = clean + 0.1 * Noise(0, 1)(clean[None])[0]
    chosen, full = (Restorer("photos", **given)(noisy, "denoise", std=0.1) for given in ({}, {"dtype": "float32"}))
    assert (chosen.settings["dtype"], full.settings["dtype"]) == ("bfloat16", "float32")
    assert float(psnr(chosen.picture[None], full.picture[None])) > 50
    before, after = (float(psnr(each.picture[None], clean[None])) for each in (full, chosen))
    assert abs(after - before) < 0.05


def test_float16_is_of_pipelines(photo, refusal):
    assert "--dtype float16: expected float32, or bfloat16" in refusal(
        "restore", str(photo), "--operator", "denoise", "--dtype", "float16"
    )
