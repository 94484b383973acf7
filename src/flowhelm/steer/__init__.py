"""Methods that need a reward only, so restore too: method(flow, reward, x, times, *, ...) -> Iterator[Step]."""

from .d_flow import d_flow
from .flow_chef import flow_chef
from .flow_grad import flow_grad
from .flow_opt import flow_opt
from .mpc_flow import mpc_flow
from .mpc_flow_dt import mpc_flow_dt
from .oc_flow import oc_flow

ALL = (
    mpc_flow, mpc_flow_dt, flow_chef,  # along one trajectory
    oc_flow, flow_grad, d_flow, flow_opt,  # whole trajectories, again and again
)  # fmt: skip

__all__ = ["ALL", *(method.__name__ for method in ALL)]
