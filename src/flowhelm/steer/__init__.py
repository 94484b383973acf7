"""Methods that need a reward only, so restore too: method(flow, reward, x, times, *, ...) -> Iterator[Step]."""

from .mpc_flow import mpc_flow
from .mpc_flow_dt import mpc_flow_dt

ALL = (mpc_flow, mpc_flow_dt)

__all__ = ["ALL", "mpc_flow", "mpc_flow_dt"]
