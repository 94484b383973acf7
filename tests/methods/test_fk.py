"""FK: weighted particles have the tilted law and their mean weight is unbiased for Z, with exact moves and with real ones."""

from functools import partial

import pytest
import torch
from laws import A, Draws, chain, errors, measured
from tilts import REWARD, TOY, Quadratic, exact

from flowhelm import GaussianFlow, MixtureFlow, Noise, integrate, run
from flowhelm.budget import Budget
from flowhelm.control import integral
from flowhelm.grad import value_and_grad
from flowhelm.particles import ess, log_mean, residual, stratified, systematic
from flowhelm.path import VP, linear, trig
from flowhelm.restore.tds import tds
from flowhelm.steer.fk import fk
from flowhelm.transition import ancestral, ancestral_moments, diffusion, glass, langevin_moments

MEAN, COVARIANCE = torch.tensor([1.0, -0.5]).double(), torch.tensor([[0.8, 0.3], [0.3, 0.5]]).double()
NORMAL = MixtureFlow(torch.ones(1).double(), MEAN[None], COVARIANCE[None])
LINEAR = Quadratic(torch.zeros(2, 2), [0.9, -0.6], 0.3)


def steered(flow, reward, b, k, steps=8, seed=0, **options):
    x, noise = torch.randn(b * k, 2, generator=torch.Generator().manual_seed(seed)).double(), Draws(seed + 1, b * k)
    options = {"transition": exact, "threshold": 0.5} | options
    return run(fk(flow, reward, x, flow.times(steps), particles=k, noise=noise, **options))


def unbiased(log_z, truth):
    """z-score of the mean of exp(log_z) / Z, and that mean."""
    ratios = (log_z - truth).exp()
    return float((ratios.mean() - 1) / (ratios.std() / len(ratios) ** 0.5)), float(ratios.mean())


def right(last, mean, covariance, log_z, z=3.5):
    scores = errors(last.x, last.info["log_w"], mean, covariance)
    z_evidence, ratio = unbiased(last.info["log_z"], log_z)
    spread, size = float(last.info["log_z"].std()), float(last.info["ess"].mean()) / last.info["log_w"].shape[1]
    print(
        f"z {[round(v, 2) for v in scores.tolist()]}; Z ratio {ratio:.3f} (z {z_evidence:.2f}), sd log Z {spread:.3f}, ESS {size:.2f}"
    )
    assert scores.abs().max() < z
    assert abs(z_evidence) < z


CASES = {
    "difference": {},
    "difference, always resampled": {"threshold": 1.1},
    "difference, never": {"threshold": 0.0},
    "max": {"potential": "max", "k": 4000},  # its weights are uneven
    "stratified": {"resampler": stratified},
    "residual": {"resampler": residual, "threshold": 0.9},
    "every third step": {"every": 3, "threshold": 0.9},
    "in a window": {"start": 0.3, "stop": 0.8, "threshold": 0.9},
    "only at the end": {"start": 1.0},
    "das": {"tempering": "das"},
    "own tempering": {"tempering": lambda t: float(t) ** 2},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("flow", "reward"), [(TOY, REWARD), (NORMAL, LINEAR)], ids=["mixture", "normal"])
def test_the_weighted_particles_have_the_tilted_law(flow, reward, case):
    """Moves without any error in time: what is left is that of the number of particles."""
    prior, log_z = reward.tilted(flow)
    last = steered(flow, reward, **{"b": 24, "k": 500} | CASES[case])
    right(last, *prior.moments(), log_z)
    if case == "difference, never":
        assert errors(last.x, torch.zeros(24, 500).double(), *prior.moments()).abs().max() > 10


@pytest.mark.parametrize("bonus", [2.0, -1.5])
def test_an_indicator(bonus):
    """p(clean) exp(bonus [b.x > c]) of a normal law: Z = 1 + (e^bonus - 1) P, and the mean by the truncated normal's."""
    b, c = torch.tensor([0.6, 0.8]).double(), 1.0
    reward = lambda x: bonus * (x @ b > c).double()  # noqa: E731
    m, s = float(b @ MEAN), float((b @ COVARIANCE @ b).sqrt())
    u = torch.tensor((c - m) / s).double()
    normal = torch.distributions.Normal(torch.zeros(()).double(), 1)
    tail, density = 1 - normal.cdf(u), normal.log_prob(u).exp()
    z = 1 + (torch.tensor(bonus).double().exp() - 1) * tail
    along = COVARIANCE @ b / s
    factor = torch.tensor(bonus).double().exp() - 1
    shift = factor * density / z  # of the standard normal along b: E[u; u > u0] = density
    second = 1 + factor * u * density / z  # E[u^2; u > u0] = tail + u0 density
    mean = MEAN + shift * along
    covariance = COVARIANCE + (second - shift**2 - 1) * torch.outer(along, along)
    right(steered(NORMAL, reward, 24, 500), mean, covariance, z.log())
    blind = steered(NORMAL, lambda x: torch.where(x @ b > c, 0.0, -torch.inf).double(), 24, 500, start=1.0)
    assert unbiased(blind.info["log_z"], tail.log())[0] == pytest.approx(0, abs=3.5)
    inside = blind.x @ b > c
    assert torch.equal(blind.info["log_w"].isneginf().flatten(), ~inside)


@pytest.mark.parametrize("k", [4, 8])
@pytest.mark.parametrize(
    "options", [{}, {"potential": "max", "threshold": 0.9}, {"resampler": residual, "threshold": 1.1}]
)
def test_z_is_unbiased_over_many_small_runs(k, options):
    """1000 runs of a few particles: the mean under the weights is biased then, Z is not."""
    log_z = REWARD.tilted(TOY)[1]
    last = steered(TOY, REWARD, 1000, k, seed=5, **options)
    z, ratio = unbiased(last.info["log_z"], log_z)
    print(f"k = {k}: Z ratio {ratio:.3f}, z {z:.2f}, sd log Z {float(last.info['log_z'].std()):.2f}")
    assert abs(z) < 3.5
    assert (last.info["log_z"].exp().mean().log() - last.info["log_z"].mean()) > 0.05  # the mean of the log is below


falling = partial(langevin_moments, diffusion=diffusion.falling())
TWISTS = {
    "prior": {"transition": ancestral},
    "gradient": {"proposal": "gradient"},
    "gradient, off": {"proposal": "gradient", "tempering": "off"},
    "gradient, adaptive": {"proposal": "gradient", "tempering": "adaptive", "threshold": 0.9},
    "gradient, max, seldom": {"proposal": "gradient", "potential": "max", "every": 2},
    "gradient, langevin": {"proposal": "gradient", "moments": falling},
    "control": {"proposal": "control"},
    "control, off, never resampled": {"proposal": "control", "tempering": "off", "threshold": 0.0},
}


@pytest.mark.parametrize(
    "reward", [LINEAR, Quadratic([[2.0, 0.5], [0.5, 1.0]], [2.0, 1.5])], ids=["linear", "quadratic"]
)
@pytest.mark.parametrize("case", TWISTS)
def test_a_proposal_changes_the_effective_size_and_not_the_law(case, reward):
    """Eight moves have the tilted law of eight moves, however particles are sent."""
    options = TWISTS[case]
    flow = GaussianFlow(MEAN, COVARIANCE)
    law = chain(flow, flow.times(8), options.get("moments", ancestral_moments))
    prior, log_z = reward.tilted(MixtureFlow(torch.ones(1).double(), law.mean[None], law.covariance[None]))
    quick = {"inner": newton} if "control" in case else {}
    last = steered(NORMAL, reward, 24, 400, **options, **quick)
    # an adaptive schedule looks at the weights, so Z is a little biased: with few particles
    right(last, *prior.moments(), log_z)


def newton(cost, start, closed):
    """Exact for a quadratic cost of any row."""
    gradient = lambda u: value_and_grad(cost, u)[1]  # noqa: E731
    eye = torch.eye(2).double()
    offset = gradient(torch.zeros_like(start))
    hessian = torch.stack([gradient(e.expand_as(start)) - offset for e in eye], -1)
    return -torch.linalg.solve(hessian, offset[..., None])[..., 0]


def test_with_the_exact_twist_the_weights_are_nearly_constant():
    """For a normal prior and a linear reward the reward of the estimate is the value, but for a constant of t."""
    sizes = {}
    for name, options in {
        "prior, 100": {"transition": ancestral},
        "gradient, 25": {"proposal": "gradient", "steps": 25, "tempering": "off"},
        "gradient, 100": {"proposal": "gradient", "tempering": "off"},
    }.items():
        last = steered(NORMAL, LINEAR, 8, 200, **{"steps": 100, "threshold": 0.0} | options)
        sizes[name] = float(last.info["ess"].mean()) / 200
    print(sizes)
    assert sizes["gradient, 100"] > 0.97
    assert sizes["gradient, 100"] > sizes["gradient, 25"] > sizes["prior, 100"] + 0.2


def test_real_moves_converge_to_the_tilted_law():
    """GLASS with enough inner steps is as good as exact moves; one normal step per move is not."""
    prior, log_z = REWARD.tilted(TOY)
    fine = steered(TOY, REWARD, 16, 300, steps=6, transition=partial(glass, inner=10, midpoint=True))
    coarse = steered(TOY, REWARD, 16, 300, steps=6, transition=ancestral)
    worst = [errors(last.x, last.info["log_w"], *prior.moments()).abs().max() for last in (fine, coarse)]
    ratios = [float((last.info["log_z"] - log_z).exp().mean()) for last in (fine, coarse)]
    print(f"worst z {worst[0]:.1f} GLASS, {worst[1]:.1f} ancestral; Z ratio {ratios[0]:.3f}, {ratios[1]:.3f}")
    assert worst[0] < 5
    assert worst[1] > 1.5 * worst[0]
    assert ratios[0] == pytest.approx(1, abs=0.06)


def test_without_a_twist_it_is_tds_without_one(mixture):
    x, y = torch.randn(12, 2).double(), measured(3)
    options = {"particles": 4, "threshold": 0.0, "noise": Noise(2, 12)}
    other = run(tds(mixture, y, x, mixture.times(6), twist=0.0, **options))
    for extra in ({}, {"proposal": "gradient", "tempering": lambda t: 0.0}):
        ours = run(fk(mixture, y, x, mixture.times(6), **options | {"noise": Noise(2, 12)}, **extra))
        torch.testing.assert_close(ours.x, other.x, atol=1e-12, rtol=0)
        torch.testing.assert_close(ours.info["log_w"], other.info["log_w"], atol=1e-10, rtol=0)


def test_the_gradient_s_move_by_hand(mixture):
    times = torch.tensor([0.3, 0.45, 1.0], dtype=torch.float64)
    (s, t), x, y = times[:2], torch.randn(4, 2).double(), measured(2)
    pull = ((2.0 - mixture.ends(x, s).clean @ A.T) / 0.25) @ A
    pull = 0.6 * 0.7 * (mixture.jacobian(x, s) @ pull[..., None])[..., 0]
    guided = mixture.ends(x, s).clean + (1 - s) ** 2 / s * pull
    keep = s * (1 - t) / ((1 - s) * t)
    mean, twisted = (t * c + (1 - t) * keep * (x - s * c) / (1 - s) for c in (mixture.ends(x, s).clean, guided))
    std = (1 - t) * (1 - keep**2).sqrt()
    moved = twisted + std * Noise(5, 4)(x)
    law = lambda centre: -(moved - centre).square().sum(1) / (2 * std**2)  # noqa: E731
    r = 0.6 * 0.9 * y(mixture.ends(moved, t).clean)
    share = lambda t: 0.7 if t < 0.4 else 0.9  # noqa: E731
    options = {"strength": 0.6, "proposal": "gradient", "tempering": share, "threshold": 0.0}
    step = next(iter(fk(mixture, y, x, times, particles=2, noise=Noise(5, 4), **options)))
    torch.testing.assert_close(step.x, moved, atol=1e-10, rtol=0)
    torch.testing.assert_close(step.info["log_w"].flatten(), law(mean) - law(twisted) + r, atol=1e-9, rtol=0)


def test_a_control_is_a_prox(mixture):
    """For a linear measurement: the clean estimate that fits, by (1 - s)^2 / (s^2 + (1 - s)^2) or by the integral's (1 - s) / 2."""
    times = torch.tensor([0.3, 0.45, 1.0], dtype=torch.float64)
    (s, t), x, y = times[:2], torch.randn(4, 2).double(), measured(2)
    clean, z = mixture.ends(x, s).clean, Noise(5, 4)(x)
    for options, weight in (({}, 0.49 / 0.58), ({"energy": integral}, 0.35)):
        step = next(
            iter(
                fk(mixture, y, x, times, particles=2, proposal="control", tempering="off", noise=Noise(5, 4), **options)
            )
        )
        better = y.prox(clean, weight)
        keep = s * (1 - t) / ((1 - s) * t)
        moved = t * better + (1 - t) * keep * (x - s * better) / (1 - s) + (1 - t) * (1 - keep**2).sqrt() * z
        torch.testing.assert_close(step.x, moved, atol=1e-9, rtol=0)


def test_the_trace_of_the_effective_size():
    """Prompts are resampled where it falls below the threshold, and nowhere else; the mean weight stays."""
    k, resampled = 50, 0
    x, noise = torch.randn(4 * k, 2).double(), Draws(1, 4 * k)
    last = None
    for step in fk(TOY, REWARD, x, TOY.times(12), particles=k, threshold=0.6, noise=noise):
        size, log_w = step.info["ess"], step.info["log_w"]
        assert ((size >= 1 - 1e-9) & (size <= k + 1e-9)).all()
        even = log_w.max(1)[0] - log_w.min(1)[0] < 1e-12
        assert torch.equal(even, (size < 0.6 * k) & (step.index < 12))
        torch.testing.assert_close(ess(log_w)[~even], size[~even])
        torch.testing.assert_close(step.info["log_z"], log_mean(log_w))
        resampled, last = resampled + int(even.sum()), step
    assert 4 <= resampled < 44
    best = last.info["best"]
    assert torch.equal(best // k, torch.arange(4))
    torch.testing.assert_close(REWARD(last.x)[best], REWARD(last.x).view(4, k).max(1)[0])


def test_adaptive_tempering_keeps_the_effective_size():
    """And whom it stops is resampled, so that the next step has all of it to spend again."""
    k, levels, stopped = 64, [], 0
    x, noise = torch.randn(4 * k, 2).double(), Draws(1, 4 * k)
    for step in fk(
        TOY, Quadratic(6 * REWARD.a, 6 * REWARD.b), x, TOY.times(12), particles=k, tempering="adaptive", noise=noise
    ):
        levels.append(step.info["level"])
        most = float(step.t**2 / (step.t**2 + (1 - step.t) ** 2))
        partial_level = step.info["level"] < most - 1e-9  # the effective size has stopped it, not the time
        if step.index < 12:
            assert (step.info["ess"][partial_level] <= 0.5 * k + 1e-3).all()
            rose = partial_level & (len(levels) < 2 or step.info["level"] > levels[-2] + 1e-9)
            torch.testing.assert_close(step.info["ess"][rose], torch.full_like(step.info["ess"][rose], 0.5 * k))
            log_w = step.info["log_w"][rose]
            assert (log_w.amax(1) - log_w.amin(1) < 1e-12).all()
            stopped += len(log_w)
    assert stopped > 4
    levels = torch.stack(levels)
    assert ((levels.diff(dim=0) > 0) & (levels[1:] < 1)).any()
    assert (levels.diff(dim=0) >= 0).all()
    assert (levels[-1] == 1).all()


def rare():
    """The toy's reward six times over: a rare event."""
    return Quadratic(6 * REWARD.a, 6 * REWARD.b)


@pytest.mark.parametrize("path", [linear, trig, VP()], ids=["linear", "trig", "vp"])
@pytest.mark.parametrize("options", [{"transition": exact}, {"proposal": "gradient"}], ids=["prior", "gradient"])
def test_adaptive_tempering_lets_early_estimates_count_for_little(path, options):
    """Early estimates are alike, so that the effective size alone would let all of the reward in at the first look."""
    flow, k, times = MixtureFlow(TOY.weights, TOY.means, TOY.covariances, path), 64, TOY.times(24)
    smallest, spread = {}, {}
    for tempering in ("adaptive", "off"):
        x, noise = torch.randn(60 * k, 2, generator=torch.Generator().manual_seed(0)).double(), Draws(1, 60 * k)
        sizes = []
        for step in fk(flow, rare(), x, times, particles=k, tempering=tempering, noise=noise, **options):
            sizes.append(step.info["ess"] / k)
            if tempering == "adaptive" and step.index < 24:
                c = path(step.t)
                most = float(c.alpha**2 / (c.alpha**2 + c.sigma**2))
                assert (step.info["level"] <= most + 1e-12).all()
        smallest[tempering] = float(torch.stack(sizes).amin(0).mean())
        spread[tempering] = float(step.info["log_z"].std())
    print(smallest, spread)
    assert smallest["adaptive"] > 1.5 * smallest["off"]
    assert smallest["adaptive"] > 0.3
    assert spread["adaptive"] < 0.6 * spread["off"]


def test_das_schedule():
    x = torch.randn(2, 2).double()
    for step in fk(TOY, REWARD, x, TOY.times(10), particles=2, tempering="das", noise=Noise(0, 2)):
        expected = min(1.008 ** (10 * step.index) - 1, 1.0) if step.index < 10 else 1.0
        assert step.info["level"].tolist() == pytest.approx([expected])
        if step.index < 10:
            torch.testing.assert_close(step.info["log_g"], expected * step.info["reward"])


@pytest.mark.parametrize(("potential", "join"), [("max", torch.maximum), ("sum", torch.add)])
def test_the_past_is_that_of_the_particle(potential, join):
    """Followed through every resampling: what a particle has by its ancestors' rewards."""
    picks, k = [], 20

    def spy(log_w, noise):
        picks.append(systematic(log_w, noise))
        return picks[-1]

    past, options = None, {"particles": k, "potential": potential, "strength": 0.3, "threshold": 1.1, "resampler": spy}
    for step in fk(TOY, REWARD, torch.randn(2 * k, 2).double(), TOY.times(6), noise=Noise(0, 2 * k), **options):
        if step.index == 6:
            break
        r = 0.3 * REWARD(step.clean)  # of those that are left
        past = r if past is None else join(past[picks[-1]], r)
        torch.testing.assert_close(step.info["past"], past)


def test_a_schedule_saves_rewards(mixture):
    for options, scorings in (({}, 8), ({"every": 3}, 3), ({"start": 0.4, "stop": 0.7}, 3), ({"every": 100}, 1)):
        budget, x = Budget(), torch.randn(12, 2).double()
        run(fk(mixture, REWARD, x, mixture.times(8), particles=4, budget=budget, noise=Noise(0, 12), **options))
        assert {kind: spent.tolist() for kind, spent in budget.spent.items()} == {
            "evaluations": [32] * 3,
            "rewards": [4 * scorings] * 3,
            "decodes": [4 * scorings] * 3,
        }


def test_a_look_ahead_costs_no_evaluation(mixture):
    budget, x = Budget(), torch.randn(12, 2).double()
    options = {"particles": 4, "transition": partial(glass, inner=3, midpoint=False), "budget": budget}
    run(fk(mixture, REWARD, x, mixture.times(5), noise=Noise(0, 12), **options))
    assert budget.spent["evaluations"].tolist() == [4 * 15] * 3
    assert budget.count.calls == 15


def test_no_reward_is_the_sampler(mixture):
    x = torch.randn(12, 2).double()
    last = run(fk(mixture, lambda x: 0 * x[:, 0], x, mixture.times(6), particles=4, noise=Noise(2, 12)))
    free = run(integrate(mixture, x, mixture.times(6), transition=ancestral, noise=Noise(2, 12)))
    assert not last.info["log_w"].any()
    assert not last.info["log_z"].any()
    still = run(fk(mixture, lambda x: 0 * x[:, 0], x, mixture.times(6), particles=4, threshold=0, noise=Noise(2, 12)))
    torch.testing.assert_close(still.x, free.x, atol=1e-12, rtol=0)


def test_a_particle_of_weight_zero_stays_so_and_goes(mixture):
    """A reward of -infinity or nan at any time; a prompt all of whose particles are lost says so."""
    x = torch.randn(200, 2).double()
    for outside in (-torch.inf, torch.nan):
        reward = lambda x, v=outside: torch.where(x[:, 0] > -0.5, 0.0, v)  # noqa: E731
        last = run(fk(mixture, reward, x, mixture.times(10), particles=100, noise=Noise(2, 200)))
        alive = last.info["log_w"].flatten().isfinite()
        assert alive.any()
        assert (last.x[alive][:, 0] > -0.5).all()
        assert last.x.isfinite().all()
    never = lambda x: torch.full_like(x[:, 0], -torch.inf)  # noqa: E731
    last = run(fk(mixture, never, x, mixture.times(10), particles=100, noise=Noise(2, 200)))
    assert last.info["log_z"].isneginf().all()
    assert last.x.isfinite().all()


def test_where_there_is_no_gradient_a_proposal_is_the_prior_s_move(mixture):
    """A root: left of 0 its value is a number, and its gradient is none."""
    reward = lambda x: torch.where(x[:, 0] > 0, x[:, 0].sqrt(), 0.0)  # noqa: E731
    x, times = torch.randn(40, 2).double(), torch.tensor([0.3, 0.5, 1.0]).double()
    options = {"particles": 10, "tempering": "off", "threshold": 0.0}
    step = next(iter(fk(mixture, reward, x, times, proposal="gradient", noise=Noise(0, 40), **options)))
    free = next(iter(integrate(mixture, x, times, transition=ancestral, noise=Noise(0, 40))))
    lost = mixture.ends(x, times[0]).clean[:, 0] < 0
    assert 5 < lost.sum() < 35
    torch.testing.assert_close(step.x[lost], free.x[lost], atol=1e-12, rtol=0)
    assert ((step.x - free.x)[~lost].norm(dim=1) > 1e-4).all()
    assert step.x.isfinite().all()
    assert step.info["log_w"].isfinite().all()


def test_mistakes(mixture):
    x, times = torch.randn(6, 2).double(), mixture.times(4)
    for options, message in (
        ({"particles": 4}, "multiple of particles"),
        ({"tempering": "adaptive", "potential": "max"}, "potential='difference'"),
        ({"tempering": "adaptive", "proposal": "control"}, "no control"),
    ):
        with pytest.raises(ValueError, match=message):
            next(fk(mixture, REWARD, x, times, noise=Noise(0, 6), **options))
