"""What may be set for a check."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ...app.models.request import DeviceRequest, Size
from ...app.options.request import Flag, Untyped

Kind = Literal["method", "operator", "prior", "reward"]


class CheckRequest(DeviceRequest):
    """Does code of your own keep what flowhelm promises of its own?"""

    name: Annotated[str, Untyped()] = Field(description="FILE.py:NAME, package.module:NAME, or a name of flowhelm.")
    options: Annotated[dict[str, Any], Untyped()] = Field({}, description="Options of the method or operator.")
    kind: Annotated[Kind | None, Flag(("--as",), "KIND")] = Field(
        None, description="What it is: method, operator, prior or reward; default: as its arguments say."
    )
    size: Size = Field(
        None, description="Size of the pictures that an operator or a reward is checked on; default: 32x32."
    )
