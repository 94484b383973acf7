"""Editing a picture by a flow that is told something else: `method(new, old, clean, times, *, options)`, a generator of steps.

`old` and `new` are one prior under what the picture shows and what it should show. `times` may begin after 0: a later start keeps more
of the picture.
"""

from .flow_edit import flow_edit
from .flow_opt_edit import flow_opt_edit
from .inversion import inversion
from .sdedit import sdedit
from .stsl_edit import stsl_edit

ALL = (flow_opt_edit, flow_edit, inversion, sdedit, stsl_edit)
__all__ = ["ALL", "flow_edit", "flow_opt_edit", "inversion", "sdedit", "stsl_edit"]
