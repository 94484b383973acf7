"""What holds for every method."""

from functools import partial

import pytest
import torch
from every import CARRIED, few

from flowhelm import Measurement, Noise, cards, integrate, restore, run, steer
from flowhelm.bench.contract import laws
from flowhelm.bench.contract.world import STEPS, start


def steps(method, flow, y, **options):
    x = start(flow, len(y.y)).requires_grad_()  # whatever needs a gradient outside, a method gives none back
    return method(flow, y, x, flow.times(STEPS), noise=Noise(0, len(x)), **options)


def shapes(value, flow):
    """Of an entry of `info`, but for `(b,)`."""
    return {
        "plan": (3, *value.shape[1:2], *flow.shape),
        "log_w": (3, 1),
        "source": (3, *flow.shape),
        "dual": (3, *flow.shape),
    }


def test_every_method_is_in_the_list(methods):
    whole = {method for method in (*steer.ALL, *restore.ALL) if cards.prior_kind(method) == "flow"}
    assert {getattr(m, "func", m) for m in methods.values()} == whole
    # those of another kind of prior are held to the same laws in tests/methods
    assert {*steer.ALL, *restore.ALL} - whole == {restore.pmrf, restore.vble}


def test_steps(method, flow, y, request):
    done = laws.steps(method, flow, y)
    assert bool(cards.carried(method, done[-1].info)) is (request.node.callspec.params["method"] in CARRIED)
    assert [(s.index, s.total) for s in done] == [(i, STEPS) for i in range(1, STEPS + 1)]
    for step in done:
        for name, value in step.info.items():
            assert value.shape == shapes(value, flow).get(name, (3,))
    assert flow.decode(done[-1].x).shape == (3, 1, 4, 4)


def test_a_seed_is_a_result_and_nothing_is_written_to_nor_does_grad_mode_leak(method, flow, y):
    laws.null(method, flow, y)


def test_the_measurement_is_fitted(method, flow, y):
    laws.fit(method, flow, y, 0.8)


def test_a_row_does_not_see_its_neighbours(method, flow, y):
    laws.rows(method, flow, y, 1e-5)


def test_the_card_says_what_it_costs(method, flow, y):
    laws.cost(method, flow, y)


def test_a_prior_with_a_decoder_is_refused_where_it_does_not_fit(methods, flows, y):
    """The other methods are held to every law on one."""
    for method in methods.values():
        if cards.pixels_only(getattr(method, "func", method)):
            assert laws.latent(method, flows["latent"], y).startswith("it refuses a prior with a decoder")


def test_rows_share_a_measurement(method, flow, y):
    """One that is given once is that of every row, as if it were given for each."""
    once, each = (Measurement(rows, y.operator, y.std) for rows in (y.y[:1], y.y[:1].expand_as(y.y)))
    ends = [run(method(flow, m, start(flow), flow.times(STEPS), noise=Noise(0, 3))).x for m in (once, each)]
    torch.testing.assert_close(*ends, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("index", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_step_resumes_the_run(method, flow, y, index):
    """With what its info carries, if it carries anything; trajectories that are improved as a whole do not go on from a state."""
    laws.resume(method, flow, y, index)


@pytest.mark.parametrize("name", ["afdps", "tds", "fk", "fk control"])
def test_a_state_alone_resumes_a_single_particle(methods, flow, y, name):
    method, times, noise = methods[name], flow.times(STEPS), Noise(0, 3)
    if cards.pixels_only(method.func if isinstance(method, partial) else method) and not flow.pixels:
        pytest.skip("for priors over pixels")
    expected = run(steps(method, flow, y)).x
    for step in method(flow, y, start(flow), times, noise=noise):
        if step.index == 2:
            break
    resumed = run(method(flow, y, step.x, times[2:], noise=Noise(9, 3).restore(noise.state())))
    torch.testing.assert_close(resumed.x, expected, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["mpc_flow K=3", "mpc_flow rest", "flair"])
def test_a_plan_of_several_steps_is_resumed_with_it(methods, flow, y, name):
    times, method, noise = flow.times(STEPS), methods[name], Noise(0, 3)
    expected = run(steps(method, flow, y)).x
    for step in method(flow, y, start(flow), times, noise=noise):
        if step.index == 3:
            break
    for plan, same in ((step.info["plan"], True), (None, False)):
        again = Noise(9, 3).restore(noise.state())
        resumed = run(method(flow, y, step.x, times[3:], noise=again, plan=plan)).x
        assert torch.equal(resumed, expected) is same


def test_a_reward_without_a_gradient_is_refused(flow):
    blind = lambda image: image.detach().mean((1, 2, 3))  # noqa: E731
    for method in (
        *(steer.mpc_flow, steer.mpc_flow_dt, steer.oc_flow, steer.flow_grad, steer.d_flow),
        *(steer.flow_chef, steer.flow_opt, partial(steer.fk, proposal="gradient")),
    ):
        with pytest.raises(ValueError, match="differentiable reward"):
            run(method(flow, blind, start(flow), flow.times(STEPS), noise=Noise(0, 3)))


def test_any_reward_steers(flow, flows):
    free = run(integrate(flow, start(flow), flow.times(STEPS))).x
    rough = lambda image: -10 * (image - 0.5).abs().sqrt().mean((1, 2, 3))  # noqa: E731
    smooth = lambda image: -10 * (image - 0.5).square().mean((1, 2, 3))  # noqa: E731
    for reward, method in (
        (rough, partial(steer.mpc_flow, strength=5.0)),
        (rough, partial(steer.mpc_flow, strength=5.0, horizon=2, inner=few)),
        (rough, partial(steer.mpc_flow_dt, strength=5.0)),
        (smooth, partial(steer.flow_chef, rate=0.05)),  # the slope of the rough one is infinite where it is best
        (rough, partial(steer.flow_opt, rate=0.01, iterations=12)),
        (smooth, partial(steer.oc_flow, strength=5.0, iterations=3)),
        (smooth, partial(steer.flow_grad, rate=0.1)),
        (smooth, partial(steer.d_flow, weight=0.01, regulariser="normal", iterations=1, inner=few)),
    ):
        end = run(method(flow, reward, start(flow), flow.times(STEPS))).x
        assert (reward(flow.decode(end)) > reward(flow.decode(free))).all(), method.func.__name__


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        (steer.mpc_flow, {"times": [0.0, 0.5]}, "end at 1"),
        (steer.mpc_flow_dt, {"times": [0.0, 0.7, 0.5, 1.0]}, "increasing times"),
        (steer.mpc_flow, {"renoise": 0.5}, "expected a Noise"),
    ],
)
def test_mistakes_are_told_at_the_first_step(flows, y, method, change, message):
    flow, options = flows["pixels"], dict(change)
    times = torch.tensor(options.pop("times", [0.0, 0.5, 1.0]), dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        next(method(flow, y, start(flow), times, **options))


def test_curvature_needs_a_prox(flows, y):
    with pytest.raises(ValueError, match="curvature"):
        next(steer.mpc_flow_dt(flows["latent"], y, start(flows["latent"]), flows["latent"].times(4), curvature=1.0))
