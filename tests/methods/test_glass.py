"""GLASS: its denoiser is exact conditioning, its moves have the law of the path's own transitions."""

from functools import partial

import pytest
import torch
from laws import EYE, Basis, Draws, law
from tilts import REWARD, TOY, drawn
from toys import PATHS

from flowhelm import GaussianFlow, MixtureFlow, Noise, Wrapped, integrate, run
from flowhelm.grad import value_and_grad
from flowhelm.guide import counted, on_path
from flowhelm.path import VP, linear, tilted, time_at_snr, trig
from flowhelm.transition import (
    ancestral,
    diffusion,
    glass,
    glass_estimate,
    langevin,
    midpoint,
    noised,
    renoise,
    shifted,
)

S, T, ONE, ZERO = torch.tensor([0.3, 0.6, 1.0, 0.0], dtype=torch.float64)


def sliced_w2(a, b):
    """Of as many evenly weighted samples, by eight directions of the plane."""
    angles = torch.arange(8).double() * torch.pi / 8
    directions = torch.stack([angles.cos(), angles.sin()])
    return ((a @ directions).sort(0)[0] - (b @ directions).sort(0)[0]).square().mean().sqrt()


def along(path):
    return MixtureFlow(TOY.weights, TOY.means, TOY.covariances, path)


class Watched(Wrapped):
    """Remembers at what states and times the network is asked, and what it says."""

    def __init__(self, flow):
        self.flow, self.asked = flow, []

    def velocity(self, x, t):
        return self.flow.velocity(x, t)

    def ends(self, x, t):
        self.asked.append((x, t, super().ends(x, t)))
        return self.asked[-1][2]


def ddpm(path, s, t):
    a, b = path(s), path(t)
    return a.alpha * b.sigma / (a.sigma * b.alpha)


def by_conditioning(flow, x, s, t, noise, inner, rho):
    """The inner flow in the paper's own terms: x_s and xb are two correlated measurements of clean, conditioned on by brute force."""
    a, e = flow.path(s), flow.path(t)
    gamma = rho * e.sigma / a.sigma
    shift, spread = e.alpha - gamma * a.alpha, e.sigma * (1 - rho**2).sqrt()
    xb = gamma * x + noise(x)
    for i in range(inner):
        u, v = i / inner, (i + 1) / inner
        b, b_next = (1 - w + w * spread for w in (u, v))
        matrix = torch.cat([a.alpha * EYE, (u * shift + gamma * a.alpha) * EYE])
        corner = gamma * a.sigma**2
        covariance = torch.kron(torch.tensor([[a.sigma**2, corner], [corner, b**2 + gamma**2 * a.sigma**2]]), EYE)
        clean = torch.stack(
            [
                flow.posterior(matrix, torch.cat([one, other]), covariance).moments()[0]
                for one, other in zip(x, xb, strict=True)
            ]
        )
        y = xb - gamma * x
        xb = gamma * x + v * shift * clean + b_next / b * (y - u * shift * clean)  # the noise scaled, clean as it is
    return xb


CHOICES = {
    "ddpm": lambda path: ddpm(path, S, T),
    0.4: lambda path: torch.tensor(0.4, dtype=torch.float64),
    -0.5: lambda path: torch.tensor(-0.5, dtype=torch.float64),
    0.99: lambda path: torch.tensor(0.99, dtype=torch.float64),
    1.0: lambda path: torch.tensor(1.0, dtype=torch.float64),
    ("kappa", 0.5): lambda path: ddpm(path, S, T) ** 0.5,
}


@PATHS
@pytest.mark.parametrize("correlation", CHOICES, ids=str)
def test_the_denoiser_is_brute_force_conditioning(path, correlation):
    flow, x = along(path), torch.randn(3, 2).double()
    expected = by_conditioning(flow, x, S, T, Noise(1, 3), 5, CHOICES[correlation](path))
    actual = glass(flow, x, S, T, Noise(1, 3), midpoint=False, inner=5, correlation=correlation)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("s", "t"), [(ZERO, T), (S, ONE), (ZERO, ONE)], ids=["from 0", "into 1", "whole"])
@pytest.mark.parametrize("correlation", ["ddpm", 0.4])
def test_the_ends_of_time_are_no_special_case(s, t, correlation):
    x = torch.randn(3, 2).double()
    rho = ddpm(linear, s, t) if correlation == "ddpm" else torch.tensor(0.4, dtype=torch.float64)
    expected = by_conditioning(TOY, x, s, t, Noise(1, 3), 6, rho)
    actual = glass(TOY, x, s, t, Noise(1, 3), midpoint=False, inner=6, correlation=correlation)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)


@PATHS
def test_one_inner_step_is_ancestral(path):
    flow, x = along(path), torch.randn(3, 2).double()
    one = glass(flow, x, S, T, Noise(4, 3), midpoint=False, inner=1)
    torch.testing.assert_close(one, ancestral(flow, x, S, T, Noise(4, 3)), atol=1e-14, rtol=0)
    for rho in (0.4, 0.9):
        one = glass(flow, x, S, T, Noise(4, 3), midpoint=False, inner=1, correlation=rho)
        other = renoise(flow, x, S, T, Noise(4, 3), amount=1 - rho**2)
        torch.testing.assert_close(one, other, atol=1e-14, rtol=0)


def test_one_move_from_noise_to_clean_is_the_ode():
    x, source = torch.randn(3, 2).double(), Noise(4, 3)(torch.empty(3, 2).double())
    for correlation in ("ddpm", 0.4):
        moved = glass(TOY, x, ZERO, ONE, Noise(4, 3), midpoint=False, inner=7, correlation=correlation)
        torch.testing.assert_close(moved, run(integrate(TOY, source, TOY.times(7))).x, atol=1e-12, rtol=0)
    halves = glass(TOY, x, ZERO, ONE, Noise(4, 3), inner=7, midpoint=True)
    ode = run(integrate(TOY, source, TOY.times(7), transition=midpoint)).x
    assert (halves - ode).abs().max() < 0.05  # not the same midpoint: y is carried with clean held fixed
    assert (halves - ode).abs().max() < (moved - ode).abs().max() / 3


@PATHS
@pytest.mark.parametrize("correlation", CHOICES, ids=str)
def test_the_network_is_asked_from_s_on(path, correlation):
    """Its times rise from s itself; to t with the correlation of the noising process, past t with every other."""
    flow, x = Watched(along(path)), torch.randn(3, 2).double()
    glass(flow, x, S, T, Noise(1, 3), midpoint=False, inner=100, correlation=correlation)
    times = torch.stack([t for _, t, _ in flow.asked])
    assert torch.equal(flow.asked[0][0], x)
    assert times[0] == S
    assert (times.diff() > 0).all()
    if correlation == "ddpm":
        assert times[-1] == pytest.approx(float(T), abs=1.2e-2)
    else:
        assert times[-1] > T - 9e-3  # 0.4 is nearly that of the trigonometric path


def test_where_the_network_is_asked_last():
    """t* at the end of the inner flow, for s = 0.3 and t = 0.6: figures found independently."""
    for rho, expected in {0.2857142857: 0.6000, 0.4: 0.6019, -0.5: 0.6695, 0.99: 0.8842}.items():
        last = []
        for inner in (100, 200):
            glass(
                flow := Watched(TOY),
                torch.randn(1, 2).double(),
                S,
                T,
                Noise(1, 1),
                midpoint=False,
                inner=inner,
                correlation=rho,
            )
            last.append(float(flow.asked[-1][1]))
        assert 2 * last[1] - last[0] == pytest.approx(expected, abs=1e-4)  # the steps' limit


@pytest.mark.parametrize("order", [1, 2])
def test_the_inner_flow_converges_at_its_order(order):
    x = torch.randn(3, 2).double()
    move = partial(glass, TOY, x, S, T, midpoint=order == 2)
    truth = glass(TOY, x, S, T, Noise(1, 3), inner=160, midpoint=True)
    errors = [float((move(Noise(1, 3), inner=n) - truth).abs().max()) for n in (20, 40)]
    print(errors)
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize(("midpoint", "calls"), [(False, 5), (True, 10)])
def test_costs_and_the_look_ahead(midpoint, calls):
    flow, x = counted(TOY), torch.randn(3, 2).double()
    options = {"inner": 5, "midpoint": midpoint}
    fresh = glass(flow, x, S, T, Noise(1, 3), **options)
    assert flow.count.calls == calls
    given, clean = glass_estimate(flow, x, S, T, Noise(1, 3), TOY.ends(x, S), **options)
    assert flow.count.calls == 2 * calls - 1
    torch.testing.assert_close(given, fresh, atol=1e-13, rtol=0)
    watched = Watched(TOY)
    glass(watched, x, S, T, Noise(1, 3), **options)
    torch.testing.assert_close(clean, watched.asked[-1][2].clean, atol=1e-13, rtol=0)
    ahead = glass_estimate(TOY, x, S, T, Noise(1, 3), inner=400)
    assert (ahead[1] - TOY.ends(ahead[0], T).clean).abs().max() < 0.02


def test_mistakes():
    x = torch.randn(3, 2).double()
    for options, message in (
        ({"inner": 0}, "inner a whole number of at least 1"),
        ({"correlation": 1.5}, "correlation one of ddpm or a number of at least -1 and of at most 1"),
        ({"correlation": "ddim"}, "correlation one of ddpm"),
        ({"correlation": lambda s, t: -2.0}, "correlation in"),
    ):
        with pytest.raises(ValueError, match=message):
            glass(TOY, x, S, T, Noise(0, 3), **options)
    with pytest.raises(ValueError, match="expected a Noise"):
        glass(TOY, x, S, T, None)
    assert torch.equal(
        glass(TOY, x, S, T, Noise(0, 3), correlation=lambda s, t: 0.4),
        glass(TOY, x, S, T, Noise(0, 3), correlation=0.4),
    )


def transitions(flow, x, s, t, rho, noise):
    """Exact samples of the move with correlation rho."""
    a, b = flow.path(s), flow.path(t)
    gamma = rho * b.sigma / a.sigma
    clean = drawn(flow, x, s, noise)
    return gamma * x + (b.alpha - gamma * a.alpha) * clean + b.sigma * (1 - rho**2) ** 0.5 * noise(x)


@PATHS
@pytest.mark.parametrize("correlation", ["ddpm", 0.4, -0.5, 1.0])
def test_moves_have_the_law_of_the_path(path, correlation):
    """From a state between the modes; distances beside those of two exact samples."""
    n, flow = 4000, along(path)
    x = torch.tensor([[-0.1, 0.3]]).double().expand(n, 2)
    rho = ddpm(path, S, T) if correlation == "ddpm" else torch.tensor(correlation, dtype=torch.float64)
    truth, other = (transitions(flow, x, S, T, rho, Draws(seed, n)) for seed in (0, 1))
    floor = float(sliced_w2(truth, other))
    moved = glass(flow, x, S, T, Draws(2, n), inner=12, midpoint=True, correlation=correlation)
    coarse = ancestral(flow, x, S, T, Draws(2, n)) if correlation == "ddpm" else None
    found = float(sliced_w2(truth, moved))
    print(f"sliced W2 {found:.4f}, of two exact samples {floor:.4f}")
    assert found < 1.6 * floor + 0.005
    for a, b, scale in ((moved.mean(0), truth.mean(0), 1), (moved.T.cov(), truth.T.cov(), 2)):
        assert (a - b).abs().max() < 4 * scale * float(truth.std(0).max()) / n**0.5
    if coarse is not None and path is linear:
        assert float(sliced_w2(truth, coarse)) > 3 * floor  # one normal step has another law


def test_into_the_end_it_draws_from_the_posterior():
    """From four states: at 8 evaluations the moves of an SDE are far from the law that the inner flow is near."""
    n, start = 2500, torch.tensor(0.2, dtype=torch.float64)
    states = 0.2 * TOY.sample(Draws(7, 4)) + 0.8 * torch.randn(4, 2).double()
    x, grid = states.repeat_interleave(n, 0), torch.linspace(0.2, 1, 9, dtype=torch.float64)
    moves = {
        "two exact samples": lambda: drawn(TOY, x, start, Draws(1, 4 * n)),
        "glass, 20 x 2": lambda: glass(TOY, x, start, ONE, Draws(2, 4 * n), inner=20, midpoint=True),
        "glass, 8": lambda: glass(TOY, x, start, ONE, Draws(2, 4 * n), inner=8, midpoint=False),
        "glass, 4 x 2": lambda: glass(TOY, x, start, ONE, Draws(2, 4 * n), inner=4, midpoint=True),
        "SDE, 8": lambda: run(integrate(TOY, x, grid, transition=langevin, noise=Draws(2, 4 * n))).x,
        "ancestral, 8": lambda: run(integrate(TOY, x, grid, transition=ancestral, noise=Draws(2, 4 * n))).x,
    }
    truth = drawn(TOY, x, start, Draws(0, 4 * n)).split(n)
    found = {
        name: sum(float(sliced_w2(a, b)) for a, b in zip(truth, move().split(n), strict=True)) / 4
        for name, move in moves.items()
    }
    print("; ".join(f"{name} {value:.3f}" for name, value in found.items()))
    floor = found["two exact samples"]
    assert found["glass, 20 x 2"] < 1.4 * floor
    assert found["glass, 8"] < 0.8 * min(found["SDE, 8"], found["ancestral, 8"])
    assert found["glass, 4 x 2"] < 0.6 * min(found["SDE, 8"], found["ancestral, 8"])


def early(flow, x, inner, stop, noise):
    """The posterior flow from x_s, `inner` midpoint steps into t = 1, stopped after `stop` of them: a state, and its time."""
    flow = Watched(flow)
    glass(flow, x, S, ONE, noise, inner=inner, midpoint=True)
    return flow.asked[2 * stop][:2]


@PATHS
def test_the_posterior_flow_stopped_early_is_the_move_to_that_time(path):
    """One inner flow into t = 1 goes through the moves to every t: alpha / sigma there is the root of q(s)^2 + (u / (1 - u))^2."""
    flow, x, q = along(path), torch.randn(3, 2).double(), path(S).alpha / path(S).sigma
    for u in (0.25, 0.75):
        errors = []
        t = time_at_snr(path, (q**2 + (u / (1 - u)) ** 2).sqrt())
        move = glass(flow, x, S, t, Noise(1, 3), inner=120, midpoint=True)
        for inner in (20, 40):
            state, when = early(flow, x, inner, round(u * inner), Noise(1, 3))
            assert float(when) == pytest.approx(float(t), abs=1e-9)
            errors.append(float((state - move).abs().max()))
        print(f"stopped at {u}, t = {float(t):.3f}: off by {errors}")
        assert errors[1] < 0.015
        assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)  # of the second order: the same point in the limit


NORMAL = GaussianFlow(torch.tensor([1.0, -0.5]).double(), torch.tensor([[0.8, 0.3], [0.3, 0.5]]).double())


def off(move, steps):
    """By how much `steps` moves from 0 to 1 miss mean and covariance of a normal prior: no sampling at all."""
    noise = Basis()
    x = noise(torch.zeros(1 + 2 * (steps + 1), 2).double())
    mean, covariance = law(run(integrate(NORMAL, x, NORMAL.times(steps), transition=move, noise=noise)).x)
    return float(max((mean - NORMAL.mean).abs().max(), (covariance - NORMAL.covariance).abs().max()))


@pytest.mark.parametrize("moves", [5, 10, 20])
@pytest.mark.parametrize("correlation", ["ddpm", 0.4, ("kappa", 0.25), 1.0], ids=str)
def test_marginals_stay_along_several_moves(moves, correlation):
    """Whatever the correlation, all that is missing is what the inner steps miss. One normal step per move misses more."""
    chosen = partial(glass, midpoint=True, correlation=correlation)
    errors = [off(partial(chosen, inner=inner), moves) for inner in (10, 20)]
    alone = off(partial(glass, midpoint=False, inner=1, correlation=correlation), moves)
    print(f"{moves} moves, {correlation}: off by {errors} with 10, 20 inner steps; {alone:.3f} with one")
    assert errors[1] < 0.026
    assert 0.25 < errors[1] / errors[0] < 0.65
    assert errors[0] < 0.5 * alone


def test_on_whole_generations_an_exact_prior_shows_no_gain():
    """At 40 evaluations the steps of the reversed noising miss less: what GLASS is for are few, long, random moves."""

    def reversal(flow, x, s, t, noise, ends=None):  # its coefficient is infinite at 0
        return (ancestral if s == 0 else langevin)(flow, x, s, t, noise, ends)

    found = {
        "SDE": off(reversal, 40),
        "ancestral": off(ancestral, 40),
        "glass 5 x 8": off(partial(glass, midpoint=False, inner=8), 5),
    }
    print(found)
    assert found["SDE"] < found["ancestral"] < found["glass 5 x 8"] < 1.2 * found["ancestral"]
    assert off(reversal, 5) < 0.3 * off(partial(glass, midpoint=False, inner=1), 5)


def test_the_marginals_of_a_mixture_stay():
    n, times = 12_000, TOY.times(5)
    truth, other = TOY.sample(Draws(0, n)), TOY.sample(Draws(3, n))
    x = Draws(9, n)(torch.empty(n, 2).double())
    states = {
        name: run(integrate(TOY, x, times, transition=move, noise=Draws(60, n))).x
        for name, move in {"5 x 8 x 2": partial(glass, inner=8, midpoint=True), "5 x 1": ancestral}.items()
    }
    found = {name: float(sliced_w2(truth, x)) for name, x in {"exact": other, **states}.items()}
    print(found)
    assert found["5 x 8 x 2"] < found["exact"] + 0.02
    assert found["5 x 1"] > 5 * found["5 x 8 x 2"]


@pytest.mark.parametrize("kappa", [1.0, 0.25])
def test_short_moves_are_the_sde_of_that_kappa(kappa):
    """corr(x_s, x_t) of N(0, 2^2) -> exp(-int kappa eta / Var[x_t]); with kappa 1 however many moves there are."""
    flow = GaussianFlow(torch.zeros(1).double(), torch.full((1, 1), 4.0).double())
    grid = 0.2 + 0.6 * (torch.arange(10_000).double() + 0.5) / 10_000
    limit = float(torch.exp(-kappa * 0.6 * ((1 - grid) / grid / (4 * grid**2 + (1 - grid) ** 2)).mean()))
    found = {}
    for moves, inner in ((1, 40), (8, 20), (64, 6)):
        noise, times = Basis(), torch.linspace(0.2, 0.8, moves + 1, dtype=torch.float64)
        x = (4 * 0.2**2 + 0.8**2) ** 0.5 * noise(torch.zeros(2 + moves, 1).double())
        move = partial(glass, inner=inner, midpoint=True, correlation=("kappa", kappa))
        end = run(integrate(flow, x, times, transition=move, noise=noise)).x
        column = (end[1:] - end[0])[:, 0]
        found[moves] = float(column[0] / column.norm())
    print(found, limit)
    if kappa == 1:
        assert all(abs(value - limit) < 2e-3 for value in found.values())
    else:
        assert found[64] == pytest.approx(limit, abs=0.01)
        assert limit - found[64] < 0.4 * (limit - found[8])
        assert limit - found[1] > 0.1


def test_guided_moves_are_those_of_the_tilted_prior():
    """With grad V itself in every inner evaluation; V = log E[exp(reward(clean)) | x_t]."""

    class Guided(Watched):
        def ends(self, x, t):
            ends = self.flow.ends(x, t)
            pull = value_and_grad(lambda z: REWARD.value(self.flow, z, t), x)[1]
            return tilted(self.flow.path, ends, pull, t)

    x = torch.randn(4, 2).double()
    prior, _ = REWARD.tilted(TOY)
    for s, t in ((S, T), (S, ONE)):
        guided = glass(Guided(TOY), x, s, t, Noise(1, 4), inner=5)
        torch.testing.assert_close(guided, glass(prior, x, s, t, Noise(1, 4), inner=5), atol=1e-9, rtol=0)


@PATHS
def test_the_value_is_the_ratio_of_the_laws(path):
    """exp V = Z p^r_t / p_t, and what it adds to the ends."""
    flow, x = along(path), torch.randn(5, 2).double()
    prior, log_z = REWARD.tilted(flow)
    assert float(log_z) == pytest.approx(0.4732, abs=5e-5)
    assert prior.weights.tolist() == pytest.approx([0.0237, 0.9483, 0.0280], abs=5e-5)
    mean, covariance = prior.moments()
    assert mean.tolist() == pytest.approx([1.4243, 1.4973], abs=5e-5)
    assert covariance.flatten().tolist() == pytest.approx([0.3115, 0.1309, 0.1309, 0.7062], abs=5e-5)
    value, pull = value_and_grad(lambda z: REWARD.value(flow, z, S), x)
    ratio = prior.log_density(x, S) - flow.log_density(x, S) + log_z
    torch.testing.assert_close(value, ratio, atol=1e-12, rtol=0)
    moved = tilted(path, flow.ends(x, S), pull, S)
    torch.testing.assert_close(moved.clean, prior.ends(x, S).clean, atol=1e-10, rtol=0)
    torch.testing.assert_close(moved.source, prior.ends(x, S).source, atol=1e-10, rtol=0)
    eta = diffusion.reversal(path)(S)
    torch.testing.assert_close(flow.velocity(x, S) + eta * pull, prior.velocity(x, S), atol=1e-10, rtol=0)


def test_noising_is_undone_in_law(gaussian):
    """Back from s to t keeps the marginal law, exactly."""
    for path in (linear, trig, VP()):
        flow, c, e = GaussianFlow(gaussian.mean, gaussian.covariance, path), path(T), path(S)
        start = Basis()
        x = start(torch.zeros(5, 2).double()) @ torch.linalg.cholesky(c.alpha**2 * flow.covariance + c.sigma**2 * EYE).T
        mean, covariance = law(noised(flow, x + c.alpha * flow.mean, T, S, start))
        torch.testing.assert_close(mean, e.alpha * flow.mean, atol=1e-12, rtol=0)
        torch.testing.assert_close(covariance, e.alpha**2 * flow.covariance + e.sigma**2 * EYE, atol=1e-12, rtol=0)


def test_a_shifted_draw_pays_with_its_log_ratio():
    mean, shift = torch.randn(2, 5, 3).double()
    std = torch.tensor(0.3, dtype=torch.float64)
    x, ratio = shifted(mean, std, shift, Noise(0, 5))
    law = lambda centre: torch.distributions.Normal(centre, std).log_prob(x).sum(1)  # noqa: E731
    torch.testing.assert_close(ratio, law(mean) - law(mean + shift), atol=1e-10, rtol=0)
    x, ratio = shifted(mean, 0 * std, shift, None)
    assert torch.equal(x, mean)
    assert not ratio.any()


def test_the_sde_along_another_path_is_that_priors_own():
    """RBF's move: a flow of the linear path, along the variance-preserving one."""
    x, move = torch.randn(3, 2).double(), partial(langevin, diffusion=diffusion.falling(4.5, 4))
    other = move(on_path(TOY, VP()), x, S, T, Noise(0, 3))
    torch.testing.assert_close(other, move(along(VP()), x, S, T, Noise(0, 3)), atol=1e-6, rtol=0)
    std = 3 * (1 - S) ** 2 * (T - S).sqrt()
    plain = x + (T - S) * (TOY.velocity(x, S) + 4.5 * (1 - S) ** 4 * TOY.score(x, S)) + std * Noise(0, 3)(x)
    torch.testing.assert_close(move(TOY, x, S, T, Noise(0, 3)), plain, atol=1e-12, rtol=0)
