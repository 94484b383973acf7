"""Methods that need the structure of the measurement: method(flow, y, x, times, *, ...) -> Iterator[Step]."""

from .afdps import afdps
from .aps import aps
from .daps import daps
from .diffpir import diffpir
from .dps import dps
from .fig import fig
from .flair import flair
from .flow_dps import flow_dps
from .flow_priors import flow_priors
from .flower import flower
from .g2d2 import g2d2
from .hqs import hqs
from .mpc_picture import mpc_picture
from .ot_ode import ot_ode
from .pmrf import pmrf
from .pnp_admm import pnp_admm
from .pnp_flow import pnp_flow
from .rebridge import rebridge
from .red import red
from .sgdd import sgdd
from .sitcom import sitcom
from .stsl import stsl
from .tag import tag
from .tds import tds
from .tmpd import tmpd
from .vble import vble

ALL = (
    hqs, mpc_picture, pnp_admm, red, pnp_flow, flow_dps, flower, diffpir, rebridge, fig, daps, flair,  # the network forward only
    dps, ot_ode, tmpd, stsl,  # its gradient, once or a few times per step
    flow_priors, sitcom,  # its gradient for each of several inner steps
    afdps, tds,  # weighted particles
    pmrf, vble,  # priors of their own: a paired flow, a compressor
)  # fmt: skip

TOKENS = (aps, g2d2, tag, sgdd)
"""Of priors over tokens, which the others do not take, and which take no others."""

__all__ = ["ALL", "TOKENS", *(method.__name__ for method in (*ALL, *TOKENS))]
