"""Methods that need a reward only, so restore too: method(flow, reward, x, times, *, ...) -> Iterator[Step]."""

from .best_of import best_of
from .d_flow import d_flow
from .fk import fk
from .flow_chef import flow_chef
from .flow_grad import flow_grad
from .flow_opt import flow_opt
from .mpc_flow import mpc_flow
from .mpc_flow_dt import mpc_flow_dt
from .noise_search import noise_search
from .oc_flow import oc_flow
from .path_search import path_search
from .rbf import rbf
from .svdd import svdd

ALL = (
    mpc_flow, mpc_flow_dt, flow_chef,  # along one trajectory
    oc_flow, flow_grad, d_flow, flow_opt,  # whole trajectories, again and again
    fk, svdd, rbf, path_search,  # random moves and a choice among them: no gradient
    best_of, noise_search,  # whole samples and a choice among them: no gradient
)  # fmt: skip

__all__ = ["ALL", *(method.__name__ for method in ALL)]
