"""`flowhelm calibrate`: the exact sampler passes and what is wrong on purpose fails, the same by seed; nothing is half-written."""

import json

import pytest
import torch
from PIL import Image

from flowhelm import Measurement, Noise, simulate
from flowhelm.app.restore import run as job
from flowhelm.app.run import drive
from flowhelm.bench.exact import calibrate as module
from flowhelm.interfaces.cli import main
from flowhelm.operators import random_mask


def made(here, name="calibration"):
    return json.loads((here / f"{name}.json").read_text())


def run(line, *words):
    return main(["calibrate", *line.split(), *words, "--threads", "1"])


@pytest.mark.parametrize("operator", [("random_mask",), ("superres", "--factor", "2")])
def test_the_control_passes_and_what_is_wrong_fails(here, capsys, operator):
    assert run("exact", "--operator", *operator) == 0
    said, found = capsys.readouterr().out, made(here)["found"]
    right, near, far, bright = (found[name] for name in module.CONTROLS)
    verdicts = [each["verdict"] for each in (right, near, far, bright)]
    assert verdicts == ["calibrated", "over-confident", "under-confident", "biased"]
    others = ("all entries", "distance (TARP)")
    ranks = lambda each: min(t["p"] for name, t in each["tests"].items() if name not in others)  # noqa: E731
    assert all(test["p"] > 0.01 for test in right["tests"].values())
    for wrong in (near, far, bright):
        assert ranks(wrong) * 6 < 0.01
        # which sees a shift dimly
        assert wrong["tests"]["distance (TARP)"]["p"] < (0.01 if wrong is not bright else 0.3)
    held = dict(zip(right["coverage"]["nominal"], range(99), strict=False))
    shares = [each["coverage"]["held"][held[0.9]] for each in (right, near, far, bright)]
    assert abs(shares[0] - 0.9) < 0.03
    assert shares[1] < 0.7
    assert shares[2] > 0.95
    assert "exact: calibrated; 90% intervals of pixels hold" in said
    assert "no test rejects it (64 truths)" in said
    assert Image.open(here / "calibration.png").size[0] > 800
    assert sum(right["ranks"]["mean"]) == 64


def test_the_exact_draws_are_of_the_posterior():
    """Their mean and covariance, for one measurement, are those in closed form."""
    exact = module._exact(4)
    truth = exact.flow.sample(Noise(0, 1)).float()
    known = module._measured(truth, random_mask, {"missing": 0.5}, 0.1, 0)
    draws = exact.draws(known, 4000, 0)[0].flatten(1).double()
    matrix = random_mask((1, 4, 4), missing=0.5).A(torch.eye(16).view(16, 1, 4, 4)).flatten(1).T.double()
    y, noise = known.observed.measurement.y[0].flatten().double(), 0.01 * torch.eye(16, dtype=torch.float64)
    law = exact.flow.posterior(matrix, y, noise)
    mean, covariance = law.moments()
    torch.testing.assert_close(draws.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(draws.T.cov(), covariance, atol=0.01, rtol=0)


def test_a_method_beside_the_control(here, capsys):
    line = "flower --gamma 1 --steps 4 --truths 30 --samples 9 --size 6 --missing 0.5"
    assert run(line, "--out", "a") == 0
    said, told = capsys.readouterr().out, made(here, "a")
    assert sorted(told["found"]) == ["exact", "flower"]
    assert told["found"]["exact"]["verdict"] == "calibrated"
    assert told["settings"]["method_options"]["gamma"] == 1.0
    assert told["settings"]["operator_options"]["missing"] == 0.5
    assert told["settings"]["size"] == [1, 6, 6]
    assert "80% hold" in said  # with 9 draws no interval is of more
    assert run(line, "--out", "b") == 0
    assert made(here, "b") == told
    assert (here / "a.png").read_bytes() == (here / "b.png").read_bytes()
    assert run(line, "--out", "c", "--seed", "1") == 0
    assert made(here, "c")["found"]["flower"]["ranks"] != told["found"]["flower"]["ranks"]


def test_the_batches_do_not_count(monkeypatch):
    """Nor do the particles of another row: a sample has a stream of its own."""
    exact, seen = module._exact(4), []
    known = module._measured(exact.flow.sample(Noise(0, 5)).float(), random_mask, {"missing": 0.5}, 0.1, 0)
    from functools import partial

    from flowhelm.restore import afdps

    for rows in (2, 7, 15):
        swarm = partial(afdps, particles=3)
        seen.append(drive(module._restored(exact.float_flow, known, swarm, 3, 3, 3, rows, 0)))
    assert seen[0].shape == (15, 1, 4, 4)
    torch.testing.assert_close(seen[0], seen[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen[0], seen[2], atol=1e-5, rtol=1e-5)


def test_each_sample_is_of_its_own_truth():
    exact = module._exact(4)
    known = module._measured(exact.flow.sample(Noise(0, 4)).float(), random_mask, {"missing": 0.5}, 0.1, 0)
    given = []

    def method(flow, y, x, times, *, noise=None):
        from flowhelm.step import Step

        given.append(y.y)
        yield Step(1, 1, times[-1], y.operator.A_adjoint(y.y), x, {})

    found = drive(module._restored(exact.float_flow, known, method, 1, 3, 1, 5, 0))
    expected = known.observed.measurement.operator.A_adjoint(known.observed.measurement.y)
    assert torch.equal(found.unflatten(0, (4, 3)), expected[:, None].expand(-1, 3, -1, -1, -1))


def test_a_prior_of_a_file(here, prior, capsys):
    line = "pnp_flow --size 16 --truths 20 --samples 4 --steps 1 --operator denoise --prior"
    assert run(line, prior) == 0
    told = made(here)
    assert list(told["found"]) == ["pnp_flow"]
    assert told["settings"]["size"] == [3, 16, 16]


def test_truths_are_measured_with_the_noise_that_is_told():
    exact = module._exact(8)
    truth = exact.flow.sample(Noise(0, 400)).float()
    known = module._measured(truth, random_mask, {}, 0.1, 3)
    y = known.observed.measurement
    residual = y.residual(truth)[:, y.operator.A(torch.ones(1, 1, 8, 8))[0] > 0]
    assert float(residual.std()) == pytest.approx(0.1, rel=0.03)
    assert isinstance(y, Measurement)
    assert not torch.equal(y.y, simulate(y.operator, truth, 0.1, Noise(3, 400)).y)  # a stream of its own


def test_ctrl_c_leaves_nothing(here, monkeypatch):
    def stopped(*_, **__):
        raise job.Stopped(130)

    monkeypatch.setattr(module, "_judged", stopped)
    assert run("exact") == 130
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "name a method first"),
        (("flowr",), "there is no method 'flowr'; did you mean flower?"),
        (("flower", "dps"), "expected one method and options, got also dps"),
        (("exact", "--prior", "fashion"), "the exact posterior is known with --prior exact only"),
        (("exact", "--operator", "saturate"), "the posterior is known for linear operators only"),
        (("exact", "--truths", "3"), "calibrate: --truths: expected a whole number of at least 20, got 3"),
        (("exact", "--size", "40"), "expected a side from 4 to 16, got 40"),
        (("exact", "--std", "0"), "--std: expected a number above 0, got 0.0"),
        (("exact", "--out", "no/where"), "folder 'no' cannot be written to"),
        (("flower", "--prior", "org/name"), "got the pipeline 'org/name'"),
        (("exact", "--operator", "colorize"), "3 channels"),
    ],
)
def test_mistakes_are_one_sentence(here, words, said, refusal):
    assert said in refusal("calibrate", *words, "--threads", "1")
    assert not list(here.iterdir())


def test_a_sampler_that_does_not_look_is_found_out():
    """Draws of the prior pass every test of pixels; the log-likelihood and TARP see that the measurement was ignored."""
    exact = module._exact(8)
    known = module._measured(exact.flow.sample(Noise(0, 64).named("truth")).float(), random_mask, {}, 0.1, 0)
    draws = exact.flow.sample(Noise(1, 64 * 19)).float().unflatten(0, (64, 19))
    judged = module._judged(known, draws, 0)
    assert min(judged.tests[name].p for name in judged.tests if name.startswith("pixel")) > 0.01
    assert judged.tests["log-likelihood"].p < 0.001
    assert judged.tests["distance (TARP)"].p < 0.001
    assert judged.verdict == "under-confident"
