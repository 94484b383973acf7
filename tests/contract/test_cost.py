"""What a method's card says it costs is what is counted."""

from functools import partial

import pytest
import torch

from flowhelm import Flow, Noise, inner, restore, run, steer
from flowhelm.guide import counted
from flowhelm.transition import ancestral, glass, heun, midpoint

N, M = 5, 4
adam = partial(inner.adam, iterations=M)

COSTS = {  # evaluations, backwards
    "mpc_flow": (partial(steer.mpc_flow), N, 0),
    "mpc_flow adam": (partial(steer.mpc_flow, inner=adam), N, 0),
    "mpc_flow lbfgs": (partial(steer.mpc_flow, inner=inner.lbfgs, renoise=0.5), N, 0),
    "mpc_flow K=2": (partial(steer.mpc_flow, horizon=2, inner=adam), N * (1 + M), N * M),
    "mpc_flow K=3": (partial(steer.mpc_flow, horizon=3, inner=adam), N * (1 + 2 * M), N * M * 2),
    "mpc_flow K=5": (partial(steer.mpc_flow, horizon=5, inner=adam), N * (1 + 4 * M), N * M * 4),
    "mpc_flow_dt": (partial(steer.mpc_flow_dt, inner=adam), N * (1 + M) - M, (N - 1) * M),
    "dps": (restore.dps, N, N),
    "dps ancestral": (partial(restore.dps, transition=ancestral), N, N),
    "dps heun": (partial(restore.dps, transition=heun), 2 * N - 1, N),
    "pnp_flow": (restore.pnp_flow, N, 0),
    "pnp_flow draws=3": (partial(restore.pnp_flow, draws=3), 3 * N, 0),
    "flow_dps": (partial(restore.flow_dps, inner=3), N, 0),
    "flower": (restore.flower, N, 0),
    "diffpir": (restore.diffpir, N, 0),
    "rebridge": (restore.rebridge, N, 0),
    "daps": (partial(restore.daps, ode=3), 3 * N, 0),
    "flow_chef": (partial(steer.flow_chef, inner=4), N, 0),
    "flair": (restore.flair, N, 0),
    "tmpd diagonal": (partial(restore.tmpd, covariance="diagonal"), N, 2 * (N - 1)),
    "tmpd one iteration": (partial(restore.tmpd, iterations=1), N, 2 * (N - 1)),
    "tmpd two iterations": (partial(restore.tmpd, iterations=2), N, 3 * (N - 1)),
    "stsl": (restore.stsl, N, 1 + 2 * (N - 1)),
    "stsl without variance": (partial(restore.stsl, variance_weight=0.0), N, N),
    "stsl repeats=3": (partial(restore.stsl, repeats=3), 1 + 3 * (N - 1), 1 + 6 * (N - 1)),
    "stsl secant": (partial(restore.stsl, probe="secant"), 1 + 2 * (N - 1), 1 + 2 * (N - 1)),
    "stsl exact": (partial(restore.stsl, probe="exact"), N, 1 + (1 + 8) * (N - 1)),  # y has eight numbers
    "sitcom": (partial(restore.sitcom, inner=M, margin=-1.0), N * (1 + M), N * M),
    "flow_priors": (partial(restore.flow_priors, inner=2), N * (1 + 2), N * 2 * 2),
    "afdps": (restore.afdps, N, 0),
    "tds": (restore.tds, N, N - 1),
    "tds start=0": (partial(restore.tds, start=0.0), N, N),
    "tds start=0.5": (partial(restore.tds, start=0.5), N, 2),
    "flow_opt": (partial(steer.flow_opt, iterations=M), M * N, 0),
    "fk": (steer.fk, N, 0),
    "fk glass": (partial(steer.fk, transition=partial(glass, inner=3)), 6 * N, 0),
    "fk gradient": (partial(steer.fk, proposal="gradient"), N, N - 1),
    "fk control": (partial(steer.fk, proposal="control"), N, 0),
    "best_of": (partial(steer.best_of, draws=M), M * N, 0),
    "oc_flow": (partial(steer.oc_flow, iterations=M), 1 + (M + 1) * (2 * N - 3), (M + 1) * (N - 1)),
    "oc_flow adam": (
        partial(steer.oc_flow, iterations=3, inner=adam),
        1 + 3 * (M * (2 * N - 3) + N - 1),
        3 * M * (N - 1),
    ),
    "flow_grad": (partial(steer.flow_grad, iterations=M), (M + 1) * 2 * N, (M + 1) * N),
    "d_flow": (partial(steer.d_flow, iterations=3, inner=adam), 3 * (M * (2 * N - 1) + N), 3 * M * N),
    "d_flow blend": (
        partial(steer.d_flow, iterations=3, inner=adam, blend=0.1),
        3 * (M * (2 * N - 1) + N) + 3 * N,
        3 * M * N,
    ),
    "d_flow midpoint": (
        partial(steer.d_flow, iterations=3, inner=adam, transition=midpoint),
        2 * 3 * (M * (2 * N - 1) + N),
        2 * 3 * M * N,
    ),
}


@pytest.mark.parametrize("name", COSTS)
def test_evaluations_and_backwards(flow, y, name):
    method, calls, backward = COSTS[name]
    flow = counted(flow)
    run(method(flow, y, flow.source(Noise(1, 3)), flow.times(N), noise=Noise(0, 3)))
    assert (flow.count.calls, flow.count.backward) == (calls, backward)
    assert flow.count.rows == 3 * calls


ROWS = {  # evaluations per picture
    "rbf": (partial(steer.rbf, draws=1), N),
    "svdd": (partial(steer.svdd, draws=4), 1 + 4 * (N - 1)),
    "svdd glass": (partial(steer.svdd, draws=4, transition=partial(glass, inner=1)), 1 + 4 * (N - 1) + 4 * N),
    "path_search": (partial(steer.path_search, draws=4, start=0.5, legs=3), 3 + 4 * (2 * 4 - 1)),
    "noise_search": (partial(steer.noise_search, iterations=2, draws=M), N * (1 + 2 * M)),
}


@pytest.mark.parametrize("name", ROWS)
def test_several_draws_are_one_call(flow, y, name):
    method, rows = ROWS[name]
    flow = counted(flow)
    run(method(flow, y, flow.source(Noise(1, 3)), flow.times(N), noise=Noise(0, 3)))
    assert flow.count.rows == 3 * rows
    assert flow.count.backward == 0


def test_the_paper_s_three_step_horizon_costs_what_its_card_says(flows, y):
    ends = []
    for recompute in (False, True):
        flow = counted(flows["pixels"])
        method = partial(steer.mpc_flow, horizon=3, inner=partial(inner.adam, iterations=20), recompute=recompute)
        ends.append(run(method(flow, y, flow.source(Noise(1, 3)), flow.times(2))).x)
        assert flow.count.calls == 2 * (1 + 20 * 2) + recompute * 2 * 20
        assert flow.count.backward == 2 * 20 * 2
    assert torch.equal(*ends)


def test_oc_flow_keeps_its_evaluations_if_asked(flows, y):
    ends = []
    for recompute, calls in ((True, 1 + (M + 1) * (2 * N - 3)), (False, 1 + (M + 1) * (N - 1))):
        flow = counted(flows["pixels"])
        method = partial(steer.oc_flow, iterations=M, recompute=recompute)
        ends.append(run(method(flow, y, flow.source(Noise(1, 3)), flow.times(N), noise=Noise(0, 3))).x)
        assert flow.count.calls == calls
    assert torch.equal(*ends)


class Forward(torch.autograd.Function):
    """The identity; its gradient is an error."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise AssertionError("the network was differentiated")


def undifferentiable(flow: Flow) -> Flow:
    class OneWay(type(flow)):
        def velocity(self, x, t):
            return Forward.apply(super().velocity(x, t))

    one_way = object.__new__(OneWay)
    one_way.__dict__.update(flow.__dict__)
    return one_way


FREE = [name for name, (_, _, backward) in COSTS.items() if not backward]


@pytest.mark.parametrize("name", [*FREE, *ROWS])
def test_the_network_is_never_differentiated(flow, y, name):
    method, flow = (COSTS | ROWS)[name][0], undifferentiable(flow)
    x = flow.source(Noise(1, 3)).requires_grad_()
    run(method(flow, y, x, flow.times(N), noise=Noise(0, 3)))
    with pytest.raises(AssertionError, match="was differentiated"):
        run(restore.dps(flow, y, x, flow.times(N)))
