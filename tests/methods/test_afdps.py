"""AFDPS: the weighted particles are the posterior's, of the chain as made (any steps) and of the prior (many steps)."""

from functools import partial

import pytest
import torch
from laws import TIMES, A, Draws, chain, errors, first, measured, moments_of

from flowhelm import Diverged, Function, GaussianFlow, Linear, Measurement, Noise, run
from flowhelm.likelihood import Annealed
from flowhelm.particles import ess
from flowhelm.restore.afdps import afdps
from flowhelm.transition import diffusion, langevin_corrected, langevin_moments

Y = 2.0
T, S = TIMES[:2]
H = S - T


CASES = {
    "default": {},
    "resampled often": {"threshold": 0.95},
    "of x": {"scaled": False, "softening": 0.0},
    "of x, softened": {"scaled": False, "softening": 0.5, "anneal": 2.0},
    "not annealed": {"scaled": False, "softening": 0.0, "anneal": 0.0, "std": 1.5},
    "not annealed, start weighted": {"scaled": False, "softening": 0.0, "anneal": 0.0, "std": 1.5, "kind": Function},
    "other diffusion": {"level": 0.7, "anneal": 0.5},
}


@pytest.mark.parametrize("case", CASES)
def test_eight_steps_have_the_posterior_of_eight_steps(gaussian, case):
    """Weights of the steps as made leave no error but that of the number of particles."""
    options = {"level": 2.0, "threshold": 0.0, "kind": Linear, "std": 0.5} | CASES[case]
    b, k, std, times = 24, 512, options.pop("std"), gaussian.times(8)
    moves = partial(langevin_moments, diffusion=diffusion.sigma(gaussian.path, options["level"]))
    target = chain(gaussian, times, moves).posterior(A, torch.tensor([Y]).double(), std**2 * torch.eye(1).double())
    y = measured(b, std, kind=options.pop("kind"))
    x, noise = gaussian.source(Draws(0, b * k)).double(), Draws(1, b * k)
    last = run(afdps(gaussian, y, x, times, particles=k, noise=noise, **options))
    z = errors(last.x, last.info["log_w"], *moments_of(target))
    print(f"{case}: z {z.tolist()}, effective {float(last.info['ess'].mean()) / k:.2f}")
    assert z.abs().max() < 3.5
    if options["threshold"] == 0:
        assert errors(last.x, torch.zeros_like(last.info["log_w"]), *moments_of(target)).abs().max() > 8


def test_a_likelihood_that_is_there_from_the_start_starts_from_its_posterior():
    """N(0, 1) given y, in closed form; the step is too short to move it."""
    n, std, flow = 20_000, 0.5, GaussianFlow(torch.zeros(2).double(), torch.eye(2).double())
    target = flow.posterior(A, torch.tensor([Y]).double(), std**2 * torch.eye(1).double())
    times = torch.tensor([0.0, 1e-9], dtype=torch.float64)
    options = {"scaled": False, "softening": 0.0, "anneal": 0.0, "level": 0.0, "noise": Draws(1, n)}
    x = first(afdps(flow, measured(n, std), flow.source(Draws(0, n)).double(), times, **options)).x
    mean, covariance = x.mean(0), torch.cov(x.T)
    print(f"mean {mean.tolist()}, covariance {covariance.flatten().tolist()}")
    torch.testing.assert_close(mean, target.mean, atol=0.02, rtol=0)
    torch.testing.assert_close(covariance, target.covariance, atol=0.02, rtol=0)


def many_steps(flow, girsanov, b, k, steps, std, **options):
    y, noise = measured(b, std), Draws(1, b * k)
    x = flow.source(Draws(0, b * k)).double()
    return run(afdps(flow, y, x, flow.times(steps), particles=k, girsanov=girsanov, noise=noise, **options))


@pytest.mark.parametrize("girsanov", [True, False], ids=["urge", "afdps"])
@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_the_weighted_particles_are_the_posterior_s_and_the_unweighted_are_not(request, name, girsanov):
    flow, std = request.getfixturevalue(name), 0.5
    posterior = flow.posterior(A, torch.tensor([Y]).double(), std**2 * torch.eye(1).double())
    last = many_steps(flow, girsanov, 32, 128, 120, std, threshold=0.0)
    weighted = errors(last.x, last.info["log_w"], *moments_of(posterior))
    unweighted = errors(last.x, torch.zeros_like(last.info["log_w"]), *moments_of(posterior))
    print(f"{name}: z {weighted.tolist()}; without weights {unweighted.tolist()}")
    assert weighted.abs().max() < 3
    assert unweighted.abs().max() > 6


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("girsanov", [True, False], ids=["urge", "afdps"])
def test_one_step_by_hand(mixture, scaled, girsanov):
    x, eps = torch.randn(6, 2).double(), lambda t: 0.7 * (1 - t)
    options = {"anneal": 2.0, "softening": 0.6, "scaled": scaled, "girsanov": girsanov}

    def potential(x, t):
        unit, weight = (1 / t if scaled else 1.0), t**2 / (0.04 + 0.36 * (1 - t) ** 2 / t**2)
        residual = unit * x @ A.T - Y
        return weight / 2 * residual.square().sum(1), weight * unit * residual @ A

    m, u = potential(x, T)
    c, z = 2 * eps(T) * H, Noise(5, 6)(x)
    mean = x + H * (mixture.velocity(x, T) + eps(T) * mixture.score(x, T))
    expected = mean - c * u + c.sqrt() * z
    if girsanov:
        law = lambda centre: -(expected - centre).square().sum(1) / (2 * c)  # noqa: E731
        change = law(mean) - law(mean - c * u) + m - potential(expected, S)[0]
    else:
        change = c / 2 * u.square().sum(1) - ((mean - x) * u).sum(1) + m - potential(x, S)[0]
    for start in (None, torch.randn(3, 2).double()):
        steps = afdps(
            mixture, measured(3, 0.2), x, TIMES, particles=2, diffusion=eps, threshold=0.0, log_w=start,
            noise=Noise(5, 6), **options,
        )  # fmt: skip
        step = first(steps)
        torch.testing.assert_close(step.x, expected, atol=1e-10, rtol=0)
        weights = (-m.view(3, 2) if start is None else start) + change.view(3, 2)
        torch.testing.assert_close(step.info["log_w"], weights, atol=1e-9, rtol=0)
        torch.testing.assert_close(step.info["ess"], ess(weights))
        torch.testing.assert_close(step.clean, mixture.ends(x, T).clean)


def test_an_implicit_step_is_as_exact_and_stable_where_an_explicit_one_is_not(gaussian):
    """Its weights are those of the steps as made; at the gradient of its end."""
    b, k, std, times = 24, 512, 0.5, gaussian.times(8)
    moves = partial(langevin_moments, diffusion=diffusion.sigma(gaussian.path, 2.0))
    target = chain(gaussian, times, moves).posterior(A, torch.tensor([Y]).double(), std**2 * torch.eye(1).double())
    x, noise = gaussian.source(Draws(0, b * k)).double(), Draws(1, b * k)
    last = run(afdps(gaussian, measured(b, std), x, times, particles=k, threshold=0.0, implicit=True, noise=noise))
    assert errors(last.x, last.info["log_w"], *moments_of(target)).abs().max() < 3.5
    energy = Annealed(gaussian, measured(6, 0.2), 1.0, 0.0, True)
    x, step = torch.randn(6, 2).double(), torch.tensor(0.3).double()
    u = energy.implicit(x, T, step)
    torch.testing.assert_close(u, energy(x - step * u, T)[1], atol=1e-9, rtol=1e-9)
    faint = {"softening": 0.0, "scaled": False, "anneal": 0.0, "threshold": 0.0, "noise": Draws(1, 8)}
    far = {
        implicit: run(afdps(gaussian, measured(8, 0.01), x[:1].expand(8, 2), times[1:], implicit=implicit, **faint)).x
        for implicit in (False, True)
    }
    assert far[True].abs().max() < 10 < far[False].abs().max()


@pytest.mark.parametrize("options", [{"level": 0.0}, {"level": 2.0}], ids=["ode", "sde"])
def test_langevin_steps_after_each_step_leave_the_weights_right(mixture, options):
    """In its ODE form the particles move by them alone: those of one ancestor part again."""
    std = 0.5
    posterior = mixture.posterior(A, torch.tensor([Y]).double(), std**2 * torch.eye(1).double())
    last = many_steps(mixture, True, 24, 128, 80, std, threshold=0.9, corrector=2, **options)
    z = errors(last.x, last.info["log_w"], *moments_of(posterior))
    alone = many_steps(mixture, True, 24, 128, 80, std, threshold=0.9, **options)
    print(f"z {z.tolist()}, distinct {len(last.x.unique(dim=0))}, without {len(alone.x.unique(dim=0))}")
    assert z.abs().max() < 3.5
    if not options["level"]:
        assert len(last.x.unique(dim=0)) > 2 * len(alone.x.unique(dim=0))


def test_langevin_steps_leave_their_law():
    """Of a normal prior with a normal likelihood, in closed form: mean and covariance are those of the law, to the length of the steps."""
    n, t = 40_000, torch.tensor(0.5).double()
    flow = GaussianFlow(torch.zeros(2).double(), torch.eye(2).double())
    energy = Annealed(flow, measured(n, 0.5), 1.0, 0.5, False)
    hessian = 2 * torch.eye(2).double() + energy.stiffness(torch.zeros(n, 2).double(), t) * A.T @ A / (A @ A.T)
    x = torch.linalg.solve(hessian, Y * energy.stiffness(torch.zeros(n, 2).double(), t) / (A @ A.T) * A.T)[:, 0]
    start = x + Draws(0, n)(torch.zeros(n, 2).double()) @ torch.linalg.cholesky(torch.linalg.inv(hessian)).T
    end = langevin_corrected(flow, start, t, energy, 20, Draws(1, n))
    torch.testing.assert_close(end.mean(0), x, atol=0.02, rtol=0)
    torch.testing.assert_close(torch.cov(end.T), torch.linalg.inv(hessian), atol=0.03, rtol=0)
    assert energy.y.stiffness == pytest.approx(float(A @ A.T), rel=1e-6)


def test_both_weights_grow_alike_as_the_step_shrinks(mixture):
    """The mean of URGE's change over the noise is AFDPS's, less c/2 times the Laplacian, up to the second order in h."""
    n, x, level = 20_000, torch.tensor([[2.0, 0.5]]).double(), 1.0
    changes, gaps = [], []
    for h in (0.02, 0.01, 0.005):
        times = torch.tensor([0.5, 0.5 + h], dtype=torch.float64)
        start = {"x": x.expand(n, 2), "log_w": torch.zeros(n, 1).double()}
        of = partial(afdps, mixture, measured(n, 0.5), times=times, level=level, softening=0.0, **start)
        urge, other = (first(of(girsanov=g, noise=Draws(0, n))).info["log_w"] for g in (True, False))
        c, laplacian = 2 * level * 0.5 * h, 0.5 / 0.25 * A.square().sum() / 0.5**2
        changes.append(float(other[0, 0] - c / 2 * laplacian))
        gaps.append(float(urge.mean()) - changes[-1])
        print(f"h {h}: change {changes[-1]:.5f}, gap {gaps[-1]:.6f} +- {float(urge.std()) / n**0.5:.6f}")
    for i in range(2):
        assert 1.5 < changes[i] / changes[i + 1] < 2.5  # first order
        assert 3.3 < gaps[i] / gaps[i + 1] < 4.7  # second
    assert abs(gaps[2]) < 0.15 * abs(changes[2])


def test_a_particle_that_is_not_finite_has_no_weight(mixture):
    """The likelihood of the particles above the line is NaN."""
    times, k = mixture.times(6), 4
    operator = Function(lambda x: torch.where(x[:, :1] > 50, torch.nan, x @ A.T))
    y, x = Measurement(torch.zeros(2, 1).double(), operator, 1.0), mixture.source(Noise(0, 2 * k)).double()
    options = {"particles": k, "scaled": False, "softening": 0.0, "threshold": 0.0}
    good = list(afdps(mixture, y, x, times, noise=Noise(1, 2 * k), **options))
    x[2] = 100
    steps = list(afdps(mixture, y, x, times, noise=Noise(1, 2 * k), **options))
    for step, other in zip(steps, good, strict=True):
        assert step.x.isfinite().all()
        assert torch.equal(step.info["log_w"].isinf().nonzero(), torch.tensor([[0, 2]]))
        keep = torch.arange(2 * k) != 2
        assert torch.equal(step.x[keep], other.x[keep])
        assert (step.info["ess"] <= torch.tensor([k - 1, k]) + 1e-9).all()
    assert torch.equal(steps[-1].x[2], x[2])
    last = run(afdps(mixture, y, x, times, noise=Noise(1, 2 * k), **(options | {"threshold": 1.0})))
    assert (last.x < 50).all()  # resampled away
    x[:k] = 100
    with pytest.raises(Diverged, match="not finite"):
        run(afdps(mixture, y, x, times, noise=Noise(1, 2 * k), **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"particles": 4}, "multiple of particles"),
        ({"girsanov": False, "kind": Function}, "linear operator"),
        ({"corrector": 1, "kind": Function}, "linear operator"),
        ({"girsanov": False, "implicit": True}, "not both"),
        ({"diffusion": lambda t: (1 - t) / t}, "finite diffusion"),
    ],
)
def test_mistakes_are_told(mixture, options, message):
    y = measured(6, 0.2, kind=options.pop("kind", Linear))
    with pytest.raises(ValueError, match=message):
        next(afdps(mixture, y, torch.randn(6, 2).double(), mixture.times(4), noise=Noise(0, 6), **options))


def test_the_reversal_within_bounds(mixture):
    """No noise before the start: the ODE's step, and weights of it."""
    eps = diffusion.within(diffusion.reversal(mixture.path), 0.1)
    x, times = torch.randn(6, 2).double(), mixture.times(20)
    steps = list(afdps(mixture, measured(6, 0.2), x, times, diffusion=eps, noise=Noise(0, 6)))
    torch.testing.assert_close(steps[0].x, x + times[1] * mixture.velocity(x, times[0]))
    assert steps[-1].x.isfinite().all()
    assert steps[-1].info["log_w"].isfinite().all()
