"""Guidance from outside, and what the tables of GLASS on known laws compare with."""

from functools import partial

import pytest
import torch
import typer

from flowhelm.bench.exact import glass as known
from flowhelm.bench.exact.posterior import plane
from flowhelm.bench.quality import steering
from flowhelm.guide import rewarded
from flowhelm.rng import Noise
from flowhelm.transition import ancestral, glass

S, T = torch.tensor([0.3, 0.7], dtype=torch.float64)
PROBLEM = plane(0.5)


def states(rows=5, seed=3):
    return Noise(seed, rows)(torch.empty(rows, 2, dtype=torch.float64))


def test_a_move_of_one_evaluation_has_its_guidance_outside():
    """The ancestral move of the tilted law is that of the prior, led by what the tilt is worth."""
    x, tilt = states(), PROBLEM.posterior
    move = known.led(ancestral, lambda x, s, plain: tilt.ends(x, s).clean - plain.clean)
    for t in (T, torch.ones((), dtype=torch.float64)):
        led = move(PROBLEM.prior, x, S, t, Noise(0, 5))
        torch.testing.assert_close(led, ancestral(tilt, x, S, t, Noise(0, 5)), atol=1e-12, rtol=0)
    many = partial(glass, inner=8)
    outside = known.led(many, lambda x, s, plain: tilt.ends(x, s).clean - plain.clean)
    assert (outside(PROBLEM.prior, x, S, T, Noise(0, 5)) - many(tilt, x, S, T, Noise(0, 5))).abs().max() > 0.01


def test_the_law_of_the_clean_state_given_a_noisy_one():
    x = states(1)[0]
    law = known.known(PROBLEM.prior, x, S)
    torch.testing.assert_close(law.moments()[0], PROBLEM.prior.ends(x[None], S).clean[0], atol=1e-10, rtol=0)
    torch.testing.assert_close(law.moments()[1], PROBLEM.prior.covariance(x[None], S)[0], atol=1e-10, rtol=0)


def test_the_exact_value_is_that_of_the_reward():
    """prior exp(reward) is the law that guidance by the value goes to."""
    x, one = states(), torch.ones((), dtype=torch.float64)
    ratio = PROBLEM.posterior.log_density(x, one) - PROBLEM.prior.log_density(x, one) - known.likelihood(PROBLEM, x)
    torch.testing.assert_close(ratio, ratio[:1].expand(5), atol=1e-9, rtol=0)
    assert known.by_value(PROBLEM, 1.0).means.equal(PROBLEM.posterior.means)


@pytest.mark.parametrize("t", [0.1, 0.2, 0.4, 0.69, 0.8])
def test_steering_from_outside_is_the_guidance_of_the_flow_once(t):
    x, t = states(), torch.tensor(t, dtype=torch.float64)
    reward = partial(known.likelihood, PROBLEM)
    plain = PROBLEM.prior.ends(x, t)
    shift = steering._outside(PROBLEM.prior, reward, 0.4, x, t, plain)
    inside = rewarded(PROBLEM.prior, reward, strength=0.4, through=False, start=0.19, stop=0.7)
    torch.testing.assert_close(plain.clean + shift, inside.ends(x, t).clean, atol=1e-12, rtol=0)
    assert bool(torch.as_tensor(shift).abs().sum() > 0) == (0.2 <= t < 0.7)


def test_the_tables(capsys):
    known.draws(seeds=2, samples=200, counts="2,16")
    said = capsys.readouterr().out.splitlines()
    far = {line.split("|")[1].strip(): float(line.split("|")[3].split("±")[0]) for line in said[2:]}
    assert list(far) == ["exact", "GLASS, Euler", "GLASS, midpoint", "SDE", "ancestral"]
    assert far["exact"] <= min(far.values()) * 1.5
    known.guided(seeds=2, samples=50, counts="5")
    lines = capsys.readouterr().out.splitlines()[4:]
    assert len(lines) == len(known.KINDS) * 4
    inside, outside = (line.split("|")[3].strip() for line in lines[:2])
    assert outside == f"{inside} (0.000 ± 0.000 above)"  # five evaluations are five moves of one
    with pytest.raises(typer.BadParameter, match="got wish"):
        known.guided(gradient=["wish"])


def test_a_method_without_some_budgets_is_listed_and_drawn(tmp_path):
    def row(method, budget):
        numbers = {"evaluations": budget, "rewards": budget, "value": "-1.0", "spread": "0.1", "held_out": "-2.0"}
        names = {"prior": "fashion", "reward": "class", "target": "bag", "method": method, "seeds": "5"}
        return {key: str(value) for key, value in (names | numbers | {"budget": budget, "diversity": "1"}).items()}

    rows = [row("FK, GLASS", 50), row("FK, GLASS", 100), row("FK, GLASS, guided outside", 100)]
    assert "| FK, GLASS, guided outside | - | -1.000 ± 0.100 (-2.00) | 1.00 |" in steering.table(rows)
    steering.plot(rows, tmp_path / "steering.png")
    assert (tmp_path / "steering.png").read_bytes()[1:4] == b"PNG"
