"""Methods that need the structure of the measurement: method(flow, y, x, times, *, ...) -> Iterator[Step]."""

from .dps import dps
from .flow_dps import flow_dps
from .pnp_flow import pnp_flow

ALL = (dps, flow_dps, pnp_flow)

__all__ = ["ALL", "dps", "flow_dps", "pnp_flow"]
