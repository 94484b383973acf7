"""Every method of the contract, with options under which a few small steps show something; and those that carry more than a state."""

from collections.abc import Callable
from functools import partial

from flowhelm import inner, restore, steer
from flowhelm.bench.contract.world import STEPS
from flowhelm.transition import euler, glass

few = partial(inner.adam, iterations=8)
METHODS: dict[str, Callable] = {
    "mpc_flow": partial(steer.mpc_flow, strength=20.0),
    "mpc_flow K=3": partial(steer.mpc_flow, strength=20.0, horizon=3, inner=few),
    "mpc_flow rest": partial(steer.mpc_flow, strength=20.0, horizon=None, inner=few),
    "mpc_flow renoised": partial(steer.mpc_flow, strength=20.0, renoise=0.3),
    "mpc_flow_dt": partial(steer.mpc_flow_dt, strength=20.0, inner=few),
    "mpc_flow_dt renoised": partial(steer.mpc_flow_dt, strength=20.0, inner=few, renoise=0.3),
    "dps": partial(restore.dps, step=0.3),
    "dps exact": partial(restore.dps, exact=True),
    "hqs": restore.hqs,
    "mpc_picture": restore.mpc_picture,
    "pnp_admm": restore.pnp_admm,
    "red": restore.red,
    "pnp_flow": restore.pnp_flow,
    "pnp_flow draws=3": partial(restore.pnp_flow, draws=3, decay=0.5),
    "flow_dps": partial(restore.flow_dps, rate=2.0),
    "flower": restore.flower,
    "flower gamma=1": partial(restore.flower, gamma=1.0),
    "diffpir": restore.diffpir,
    "diffpir zeta=0.3": partial(restore.diffpir, zeta=0.3),
    "rebridge": restore.rebridge,
    "rebridge euler": partial(restore.rebridge, kappa=5.0, transition=euler),
    "fig": partial(restore.fig, w=1.0, mix=0.0),
    "daps": partial(restore.daps, variance=0.3, langevin=30),
    "daps langevin": partial(restore.daps, variance=0.3, exact=False, ode=2, langevin=30),
    "flair": restore.flair,
    "flair carry=1": partial(restore.flair, carry=1.0, inner=3),
    "ot_ode": restore.ot_ode,
    "tmpd": restore.tmpd,
    "tmpd diagonal": partial(restore.tmpd, covariance="diagonal"),
    "stsl": partial(restore.stsl, step=0.3),
    "stsl secant": partial(restore.stsl, step=0.3, probe="secant"),
    "stsl exact": partial(restore.stsl, exact=True, step=1.0, probe="exact"),
    "flow_priors": partial(restore.flow_priors, rate=0.1, inner=5),
    "sitcom": partial(restore.sitcom, inner=10, rate=0.05),
    "afdps": partial(restore.afdps, level=1.0, softening=0.5),
    "tds": restore.tds,
    "flow_chef": steer.flow_chef,
    "flow_chef euler": partial(steer.flow_chef, rate=0.5, inner=1, transition=euler),
    "oc_flow": partial(steer.oc_flow, iterations=STEPS),
    "flow_grad": partial(steer.flow_grad, iterations=STEPS),
    "d_flow": partial(steer.d_flow, iterations=STEPS, inner=partial(inner.lbfgs, iterations=1)),
    "flow_opt": partial(steer.flow_opt, iterations=STEPS, rate=0.3),
    "fk": partial(steer.fk, proposal="gradient"),  # a single particle: without a proposal nothing would draw it to y
    "fk control": partial(steer.fk, proposal="control", potential="max"),
    "svdd": partial(steer.svdd, draws=24),
    "svdd soft, glass": partial(steer.svdd, draws=8, strength=2.0, transition=partial(glass, inner=2)),
    "rbf": partial(steer.rbf, draws=24),
    "rbf whole": partial(steer.rbf, draws=12, starts=12, spend_rest=True),
    "path_search": partial(steer.path_search, draws=16),
    "best_of": partial(steer.best_of, draws=STEPS),
    "noise_search": partial(steer.noise_search, iterations=STEPS, draws=6),
}

CARRIED = {
    *("mpc_flow K=3", "flair", "flair carry=1", "flow_priors", "pnp_admm", "mpc_picture", "oc_flow", "flow_opt"),
    *("rbf", "rbf whole", "afdps", "tds", "fk", "fk control"),
}
"""Those whose step hands on more than its state: a plan, a dual or a source, weights."""
