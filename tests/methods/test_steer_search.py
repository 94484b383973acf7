"""Searches for a high reward: best of n, SVDD, RBF, search over paths and over sources."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from laws import Draws
from tilts import REWARD, TOY, Quadratic, exact

from flowhelm import GaussianFlow, Linear, Measurement, MixtureFlow, Noise, integrate, run
from flowhelm.budget import Budget
from flowhelm.guide import counted
from flowhelm.path import VP, linear, trig
from flowhelm.steer import best_of, noise_search, path_search, rbf, svdd
from flowhelm.transition import ancestral, diffusion, euler, glass, langevin, noised, renoise

MEAN, COVARIANCE = torch.tensor([1.0, -0.5]).double(), torch.tensor([[0.8, 0.3], [0.3, 0.5]]).double()
NORMAL = MixtureFlow(torch.ones(1).double(), MEAN[None], COVARIANCE[None])
LINEAR = Quadratic(torch.zeros(2, 2), [0.9, -0.6])


def spent(info):
    return {kind: info[kind].tolist() for kind in ("evaluations", "rewards", "decodes")}


# --- best of n ---


@pytest.mark.parametrize(("draws", "expected"), [(2, 0.5642), (8, 1.4236)])
def test_best_of_has_its_law(draws, expected):
    """Density n p F^(n-1): for a normal reward, its mean in standard deviations; the other direction stays as it was."""
    n = 4000
    flow = GaussianFlow(MEAN.float(), COVARIANCE.float())
    reward = lambda x: x @ torch.tensor([0.9, -0.6])  # noqa: E731
    b = torch.tensor([0.9, -0.6]).double()
    m, s = b @ MEAN, (b @ COVARIANCE @ b).sqrt()
    x = torch.randn(n, 2)
    exactly = lambda flow, x, s, t, noise, ends=None: flow.flow.map(x, s, t)  # noqa: E731
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    last = run(best_of(flow, reward, x, times, draws=draws, transition=exactly, noise=Draws(7, n)))
    u = (last.info["reward"] - m) / s
    assert float(u.mean()) == pytest.approx(expected, abs=4 * float(u.std()) / n**0.5)
    normal = torch.distributions.Normal(torch.zeros(()).double(), 1)
    share = normal.cdf(u) ** draws  # uniform, if the law is right
    assert float(share.mean()) == pytest.approx(0.5, abs=4 * 0.29 / n**0.5)
    assert float(share.var()) == pytest.approx(1 / 12, abs=0.006)
    other = torch.tensor([0.0, 1.0]).double()
    left = (last.x.double() - MEAN) @ other - (other @ COVARIANCE @ b) / s**2 * (last.info["reward"] - m)
    assert float(left.mean()) == pytest.approx(0, abs=4 * float(left.std()) / n**0.5)


def test_best_of_is_the_best_of_the_samples(mixture):
    x, times, noise = torch.randn(3, 2).double(), mixture.times(5), Noise(4, 3)
    starts = [x, *(mixture.source(noise).double() for _ in range(3))]
    ends = torch.stack([run(integrate(mixture, start, times)).x for start in starts])
    values = torch.stack([REWARD(end) for end in ends])
    steps = list(best_of(mixture, REWARD, x, times, draws=4, noise=Noise(4, 3)))
    for i, step in enumerate(steps, 1):
        torch.testing.assert_close(step.info["reward"], values[:i].max(0)[0])
        torch.testing.assert_close(REWARD(step.x), step.info["reward"])
        assert spent(step.info) == {"evaluations": [5 * i] * 3, "rewards": [i] * 3, "decodes": [i] * 3}
    torch.testing.assert_close(steps[0].x, ends[0])


@pytest.mark.parametrize(("budget", "samples"), [(Budget(evaluations=17), 3), (Budget(rewards=2), 2), (Budget(), 9)])
def test_best_of_stops_at_its_budget(mixture, budget, samples):
    x = torch.randn(3, 2).double()
    steps = list(best_of(mixture, REWARD, x, mixture.times(5), draws=9, budget=budget, noise=Noise(4, 3)))
    assert len(steps) == samples
    assert (budget.left("evaluations") >= 0).all()
    assert (budget.left("rewards") >= 0).all()


def test_best_of_from_a_later_start_needs_a_random_move(mixture):
    x, times = torch.randn(3, 2).double(), torch.tensor([0.3, 0.6, 1.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="random transition"):
        next(best_of(mixture, REWARD, x, times, noise=Noise(0, 3)))
    values = [s.info["reward"] for s in best_of(mixture, REWARD, x, times, transition=ancestral, noise=Noise(0, 3))]
    assert (values[-1] > values[0]).any()


# --- SVDD ---


def test_svdd_by_hand(mixture):
    times, x = torch.tensor([0.3, 0.45, 1.0], dtype=torch.float64), torch.randn(3, 2).double()
    noise = Noise(5, 3)
    children = torch.stack([ancestral(mixture, x, times[0], times[1], noise) for _ in range(6)], 1)
    clean = torch.stack([mixture.ends(c, times[1]).clean for c in children.unbind(1)], 1)
    values = torch.stack([REWARD(c) for c in clean.unbind(1)], 1)
    best = values.argmax(1)
    step = next(iter(svdd(mixture, REWARD, x, times, draws=6, noise=Noise(5, 3))))
    rows = torch.arange(3)
    torch.testing.assert_close(step.x, children[rows, best])
    torch.testing.assert_close(step.clean, clean[rows, best])
    torch.testing.assert_close(step.info["reward"], values[rows, best])
    assert spent(step.info) == {"evaluations": [7] * 3, "rewards": [6] * 3, "decodes": [6] * 3}
    u = noise.uniform()
    for strength in (0.3, 8.0):
        soft = next(iter(svdd(mixture, REWARD, x, times, draws=6, strength=strength, noise=Noise(5, 3))))
        pick = torch.searchsorted((strength * values).softmax(1).cumsum(1), u[:, None])[:, 0]
        torch.testing.assert_close(soft.x, children[rows, pick])


def test_blocks_go_on_before_one_is_chosen(mixture):
    """CoDe: two moves of each of six, then the best; and a block as long as the grid chooses among whole trajectories."""
    times, x, noise = torch.tensor([0.3, 0.45, 0.7, 1.0], dtype=torch.float64), torch.randn(3, 2).double(), Noise(5, 3)
    children = [ancestral(mixture, x, times[0], times[1], noise) for _ in range(6)]
    children = torch.stack([ancestral(mixture, c, times[1], times[2], noise) for c in children], 1)
    clean = torch.stack([mixture.ends(c, times[2]).clean for c in children.unbind(1)], 1)
    best = torch.stack([REWARD(c) for c in clean.unbind(1)], 1).argmax(1)
    steps = list(svdd(mixture, REWARD, x, times[:3], draws=6, block=2, noise=Noise(5, 3)))
    assert [step.index for step in steps] == [2]
    torch.testing.assert_close(steps[0].x, children[torch.arange(3), best])
    assert spent(steps[0].info) == {"evaluations": [13] * 3, "rewards": [6] * 3, "decodes": [6] * 3}
    odd = [step.index for step in svdd(mixture, REWARD, x, times, draws=2, block=2, noise=Noise(5, 3))]
    assert odd == [1, 3]  # counted from the end

    def still(flow, x, s, t, noise, ends):
        return euler(flow, x, s, t, None, ends) if s < 0.4 else ancestral(flow, x, s, t, noise, ends)

    whole = run(svdd(mixture, REWARD, x, times, draws=40, block=3, transition=still, noise=Noise(5, 3)))
    one = run(svdd(mixture, REWARD, x, times, draws=1, block=3, transition=still, noise=Noise(5, 3)))
    assert (REWARD(whole.x) > REWARD(one.x)).all()  # a move without noise first takes nothing from the draws after it


def test_svdd_with_the_exact_value_tends_to_the_tilted_law():
    """Normal prior, linear reward, exact moves: the reward of the estimate is the value, but for a constant of t."""
    n, off = 1500, {}
    prior, _ = LINEAR.tilted(NORMAL)
    mean, covariance = prior.moments()
    for draws in (2, 60):
        x = torch.randn(n, 2).double()
        end = run(
            svdd(NORMAL, LINEAR, x, NORMAL.times(5), draws=draws, strength=1.0, transition=exact, noise=Draws(1, n))
        ).x
        off[draws] = ((end.mean(0) - mean).abs() / (covariance.diagonal() / n).sqrt()).max()
        if draws == 60:
            torch.testing.assert_close(end.T.cov(), covariance, atol=0.1, rtol=0)
    print(off)
    assert off[60] < 3.5
    assert off[2] > 8


def test_one_draw_is_the_sampler(mixture):
    x, times = torch.randn(3, 2).double(), mixture.times(5)
    free = run(integrate(mixture, x, times, transition=ancestral, noise=Noise(2, 3))).x
    for method in (svdd, rbf):
        last = run(method(mixture, REWARD, x, times, draws=1, noise=Noise(2, 3)))
        torch.testing.assert_close(last.x, free, atol=1e-12, rtol=0)


def seen(reward):
    """The reward, and a list of how many rows it is asked for each time."""
    asked = []

    def watched(image):
        asked.append(len(image))
        return reward(image)

    return watched, asked


@pytest.mark.parametrize("method", [svdd, rbf])
@pytest.mark.parametrize("path", [linear, trig], ids=["linear", "trig"])
@pytest.mark.parametrize(
    "move", [ancestral, partial(renoise, amount=0.7), partial(langevin, eta=0.0)], ids=["ancestral", "renoise", "ode"]
)
def test_moves_without_noise_are_rated_once(mixture, method, path, move):
    """The last move of `ancestral` and of `renoise`, and every one of an ODE: all draws are the same."""
    flow = MixtureFlow(mixture.weights, mixture.means, mixture.covariances, path)
    reward, asked = seen(REWARD)
    x, times = torch.randn(3, 2).double(), torch.tensor([0.2, 0.5, 0.7, 1.0], dtype=torch.float64)
    steps, looks = [], []
    for step in method(flow, reward, x, times, draws=5, transition=move, noise=Noise(5, 3)):
        steps.append(step)
        looks.append(sum(asked) - sum(looks))
    last = steps[-1]
    assert looks[-1] == 3
    if getattr(move, "func", None) is langevin:
        first = 3 if method is rbf else 0  # the record to begin with
        assert looks == [3 + first, 3, 3]
    assert sum(asked) == int(last.info["rewards"].sum())
    torch.testing.assert_close(REWARD(last.x), last.info["reward"])


# --- RBF ---


class Handicapped:
    """The reward, less 100 times a number of each row."""

    def __init__(self, numbers):
        self.numbers = numbers

    def __call__(self, image):
        return REWARD(image) - 100 * self.numbers

    def rows(self, index, total):
        return Handicapped(self.numbers.repeat_interleave(total // len(self.numbers))[index])


def test_rbf_asks_each_chain_by_its_own_reward(mixture):
    """A reward that is told something per row, and a measurement, whose y is; chains end at different times."""
    x, times, operator = torch.randn(4, 2).double(), mixture.times(6), Linear(lambda x: x[:, :1], (2,))
    targets = torch.tensor([[1.0], [-2.0], [0.3], [0.0]]).double()
    for reward, alone in (
        (Handicapped(torch.arange(4)), lambda i: Handicapped(torch.tensor([i]))),
        (Measurement(targets, operator, 0.4), lambda i: Measurement(targets[i : i + 1], operator, 0.4)),
    ):
        together = run(rbf(mixture, reward, x, times, draws=3, noise=Noise(2, 4)))
        for i in range(4):
            one = run(rbf(mixture, alone(i), x[i : i + 1], times, draws=3, noise=Noise(2, [i])))
            torch.testing.assert_close(together.x[i : i + 1], one.x, atol=1e-10, rtol=0)
            assert together.info["rewards"][i] == one.info["rewards"][0]


def by_hand(flow, reward, x, times, draws, noise, start=None):
    """Algorithm 2 of the paper for one chain, with its counts."""
    ends = flow.ends(x, times[0])
    record, quota, story = float(reward(ends.clean)), 0, []
    for s, t in pairwise(times):
        quota += draws
        best = None
        for made in range(1, quota + 1):  # noqa: B007
            child = ancestral(flow, x, s, t, noise, ends)
            after = child if t == 1 else flow.ends(child, t)
            clean = after if t == 1 else after.clean
            value = float(reward(clean))
            if best is None or value > best[0]:
                best = (value, child, after)
            if value > record or t == 1:  # the last move has no noise
                break
        record, quota, x, ends = max(record, best[0]), quota - made, best[1], best[2]
        story.append((best[0], record, quota, made))
    return x, story


@pytest.mark.parametrize("draws", [1, 3])
def test_rbf_is_its_algorithm(mixture, draws):
    """Chains of a batch go their own ways, in turn, each as if it were alone."""
    x, times = torch.randn(5, 2).double(), mixture.times(6)[:-1]
    steps = list(rbf(mixture, REWARD, x, times, draws=draws, noise=Noise(2, 5)))
    for i in range(5):
        end, story = by_hand(mixture, REWARD, x[i : i + 1], times, draws, Noise(2, [i]))
        torch.testing.assert_close(steps[-1].x[i : i + 1], end, atol=1e-12, rtol=0)
        for step, (value, record, quota, made) in zip(steps, story, strict=True):
            assert float(step.info["reward"][i]) == pytest.approx(value)
            assert float(step.info["record"][i]) == pytest.approx(record)
            assert (int(step.info["quota"][i]), int(step.info["draws"][i])) == (quota, made)
    if draws > 1:
        assert len({tuple(s.info["draws"].tolist()) for s in steps}) > 1
        assert max(int(s.info["draws"].max()) for s in steps) > draws  # something rolled over


@pytest.mark.parametrize(
    "move", [ancestral, partial(langevin, diffusion=diffusion.falling(4.5, 4)), partial(glass, midpoint=False, inner=3)]
)
@pytest.mark.parametrize(
    "options", [{}, {"spend_rest": True}, {"starts": 5}, {"starts": 3, "spend_rest": True}], ids=str
)
def test_rbf_keeps_its_books(mixture, move, options):
    draws, price = 4, 3 if getattr(move, "func", None) is glass else 1
    flow, x, times = counted(mixture), torch.randn(6, 2).double(), mixture.times(8)
    reward, rated = seen(REWARD)
    steps = list(rbf(flow, reward, x, times, draws=draws, transition=move, noise=Noise(1, 6), **options))
    assert sum(rated) == int(steps[-1].info["rewards"].sum())  # what is charged is what was asked
    made = torch.stack([s.info["draws"] for s in steps])
    quota = torch.stack([s.info["quota"] for s in steps])
    record = torch.stack([s.info["record"] for s in steps])
    starts = options.get("starts", 1)
    assert (made >= 1).all()
    assert torch.equal(quota.diff(dim=0), draws - made[1:])
    assert torch.equal(quota[-1], 8 * draws - made.sum(0))
    assert (quota >= 0).all()
    assert (record.diff(dim=0) >= 0).all()
    assert (steps[-1].info["reward"] <= record[-1]).all()
    # an evaluation less for each draw of the last step, which ends at t = 1
    assert torch.equal(steps[-1].info["evaluations"], starts + price * made.sum(0) - made[-1])
    assert torch.equal(steps[-1].info["rewards"], starts + made.sum(0))
    assert torch.equal(steps[-1].info["decodes"], starts + made.sum(0))
    assert flow.count.rows == int(steps[-1].info["evaluations"].sum())
    assert (steps[-1].info["evaluations"] <= starts + 8 * draws * price).all()
    if options.get("spend_rest") and move is not ancestral:
        assert not quota[-1].any()
    torch.testing.assert_close(REWARD(steps[-1].x), steps[-1].info["reward"])


@pytest.mark.parametrize("evaluations", [12, 20, 33])
def test_rbf_never_exceeds_its_budget(mixture, evaluations):
    budget, x = Budget(evaluations=evaluations), torch.randn(6, 2).double()
    steps = list(
        rbf(mixture, Handicapped(torch.arange(6)), x, mixture.times(8), draws=50, budget=budget, noise=Noise(1, 6))
    )
    assert steps[-1].index == 8
    assert (budget.spent["evaluations"] <= evaluations).all()
    assert (budget.spent["evaluations"] >= 8).all()


def test_several_starts_begin_from_the_best(mixture):
    """Their clean estimates at t = 0 are all the prior's mean, so another look-ahead is needed to tell them apart."""
    x, times, noise = torch.randn(3, 2).double(), mixture.times(4), Noise(2, 3)
    sources = torch.stack([x, *(mixture.source(noise).double() for _ in range(4))], 1)
    flow = MixtureFlow(mixture.weights, mixture.means, mixture.covariances, VP())  # a little is left at t = 0
    values = torch.stack([REWARD(flow.ends(s, times[0]).clean) for s in sources.unbind(1)], 1)
    best = sources[torch.arange(3), values.argmax(1)]
    asked = []

    def spy(flow, x, s, t, noise, ends=None):
        asked.append(x)
        return ancestral(flow, x, s, t, noise, ends)

    next(iter(rbf(flow, REWARD, x, times, starts=5, transition=spy, noise=Noise(2, 3))))
    assert torch.equal(asked[0], best)


def test_rbf_goes_on_with_what_it_has(mixture):
    x, times, noise = torch.randn(4, 2).double(), mixture.times(7), Noise(3, 4)
    states = [(s, noise.state()) for s in rbf(mixture, REWARD, x, times, draws=3, starts=2, noise=noise)]
    for i in (2, 5):
        step, state = states[i - 1]
        again = Noise(9, 4).restore(state)
        last = run(rbf(mixture, REWARD, step.x, times[i:], draws=3, starts=2, carried=step.info, noise=again))
        torch.testing.assert_close(last.x, states[-1][0].x, atol=1e-12, rtol=0)
        torch.testing.assert_close(last.info["record"], states[-1][0].info["record"])


# --- searches over paths and over sources ---


def test_path_search_by_hand(mixture):
    times, x = torch.tensor([0.6, 0.8, 1.0], dtype=torch.float64), torch.randn(4, 2).double()
    noise, early = Noise(5, 4), torch.tensor(0.35, dtype=torch.float64)
    tries = torch.stack([noised(mixture, x, times[0], early, noise) for _ in range(3)], 1).flatten(0, 1)
    tries = run(integrate(mixture, tries, torch.linspace(0.35, 0.8, 4, dtype=torch.float64))).x
    values = REWARD(mixture.ends(tries, times[1]).clean).view(2, 6)
    top, pick = values.topk(2)
    options = {"particles": 2, "draws": 3, "back": 0.25, "legs": 3, "start": 0.6}
    step = next(iter(path_search(mixture, REWARD, x, times, noise=Noise(5, 4), **options)))
    torch.testing.assert_close(step.x, tries[(pick + 6 * torch.arange(2)[:, None]).flatten()])
    torch.testing.assert_close(step.info["reward"], top.flatten())
    assert spent(step.info) == {"evaluations": [6 * 4] * 2, "rewards": [6] * 2, "decodes": [6] * 2}


def test_before_the_search_they_are_euler_steps(mixture):
    x, times = torch.randn(3, 2).double(), mixture.times(6)
    steps = list(path_search(mixture, REWARD, x, times, start=0.6, noise=Noise(0, 3)))
    for step, free in zip(steps[:4], list(integrate(mixture, x, times))[:4], strict=True):
        torch.testing.assert_close(step.x, free.x)
        assert step.info["reward"].isnan().all()
    assert steps[-1].info["reward"].isfinite().all()
    torch.testing.assert_close(REWARD(steps[-1].x), steps[-1].info["reward"])


def test_a_path_search_that_cannot_pay_goes_straight(mixture):
    x, budget = torch.randn(3, 2).double(), Budget(evaluations=70)
    steps = list(path_search(mixture, REWARD, x, mixture.times(10), budget=budget, noise=Noise(0, 3)))
    assert steps[-1].index == 10
    assert (budget.spent["evaluations"] <= 70 + 5).all()  # the steps to the end are made anyway
    free = run(path_search(mixture, REWARD, x, mixture.times(10), noise=Noise(0, 3)))
    assert (budget.spent["evaluations"] < free.info["evaluations"]).all()


def test_noise_search_by_hand(mixture):
    x, times, noise = torch.randn(3, 2).double(), mixture.times(4), Noise(5, 3)
    sample = lambda source: run(integrate(mixture, source, times)).x  # noqa: E731
    near = [0.8 * x + 0.6 * noise(x) for _ in range(3)]
    tried = torch.stack([x, *near], 1)
    ends = torch.stack([sample(source) for source in tried.unbind(1)], 1)
    values = torch.stack([REWARD(e) for e in ends.unbind(1)], 1)
    best, rows = values.argmax(1), torch.arange(3)
    step = next(iter(noise_search(mixture, REWARD, x, times, draws=3, radius=0.6, noise=Noise(5, 3))))
    torch.testing.assert_close(step.info["source"], tried[rows, best])
    torch.testing.assert_close(step.x, ends[rows, best])
    torch.testing.assert_close(step.info["reward"], values.max(1)[0])
    assert spent(step.info) == {"evaluations": [16] * 3, "rewards": [4] * 3, "decodes": [4] * 3}


def test_noise_search_climbs_and_stops_at_its_budget(mixture):
    x, budget = torch.randn(6, 2).double(), Budget(evaluations=60)
    steps = list(noise_search(mixture, REWARD, x, mixture.times(4), iterations=20, budget=budget, noise=Noise(5, 6)))
    assert len(steps) == 3  # 4 + 3 * 16
    record = torch.stack([s.info["reward"] for s in steps])
    assert (record.diff(dim=0) >= 0).all()
    assert (budget.spent["evaluations"] == 52).all()
    torch.testing.assert_close(run(integrate(mixture, steps[-1].info["source"], mixture.times(4))).x, steps[-1].x)


def test_at_equal_evaluations_every_search_beats_the_sampler():
    """On the toy, 200 evaluations each."""
    x, times, found = torch.randn(24, 2).double(), TOY.times(10), {}
    for name, method in {
        "sampler": partial(best_of, draws=1),
        "best of 20": partial(best_of, draws=20),
        "svdd": partial(svdd, draws=22),
        "rbf": partial(rbf, draws=20),
        "paths": partial(path_search, draws=8),
        "sources": partial(noise_search, iterations=4, draws=5),
    }.items():
        last = run(method(TOY, REWARD, x, times, noise=Noise(0, 24)))
        assert (last.info["evaluations"] <= 220).all()
        found[name] = float(REWARD(last.x).mean())
    print(found)
    assert all(value > found["sampler"] + 1 for name, value in found.items() if name != "sampler")


def test_a_reward_that_fails_somewhere_loses(mixture):
    """nan is never the best."""
    reward = lambda x: torch.where(x[:, 0] > 0.5, torch.nan, REWARD(x))  # noqa: E731
    x, times = torch.randn(20, 2).double(), mixture.times(6)
    for method in (
        partial(best_of, draws=12), partial(svdd, draws=12), partial(path_search, draws=8), partial(rbf, draws=12),
        noise_search,
    ):  # fmt: skip
        end = run(method(mixture, reward, x, times, noise=Noise(0, 20))).x
        assert reward(end).isfinite().float().mean() > 0.85


def test_mistakes(mixture):
    x, times, late = torch.randn(3, 2).double(), mixture.times(4), mixture.times(4)[1:]
    for method, grid, options, message in (
        (rbf, late, {"starts": 2}, "starts = 1 for times that begin at 0.25"),
        (path_search, times, {"particles": 2}, "multiple of particles"),
        (noise_search, late, {}, "times from 0"),
    ):
        with pytest.raises(ValueError, match=message):
            next(method(mixture, REWARD, x, grid, noise=Noise(0, 3), **options))
