"""What `restore` does when nothing else is said, operator by operator."""

STD = 0.02
"""Of the noise in a photograph, in [-1, 1]: about two and a half 8-bit levels, a good camera in good light."""

Options = dict[str, float | int | str]

_LINEAR: Options = {"strength": 1.0, "energy": "flower", "renoise": 1.0}
_ADAM: Options = _LINEAR | {"inner": "adam:iterations=20,rate=0.1"}

# operator: (method, its options, steps); `strength` here is in units of 1 / std^2
TABLE: dict[str, tuple[str, Options, int]] = {
    "denoise": ("mpc_flow", _LINEAR, 50),
    "inpaint": ("mpc_flow", _LINEAR, 100),
    "box": ("mpc_flow", _LINEAR, 100),
    "random_mask": ("mpc_flow", _LINEAR, 100),
    "deblur": ("mpc_flow", _LINEAR, 100),
    "motion": ("mpc_flow", _LINEAR, 100),
    "superres": ("mpc_flow", _LINEAR, 100),
    "colorize": ("mpc_flow", _LINEAR, 100),
    "demosaic": ("mpc_flow", _LINEAR, 100),
    "jpeg": ("mpc_flow", _ADAM, 100),
    "saturate": ("mpc_flow", _ADAM, 100),
    "phase": ("mpc_flow", _ADAM, 200),
}


def preset(operator: str, std: float) -> tuple[str, Options, int]:
    """Name of the method, its options and the number of steps for an operator and a noise level."""
    method, options, steps = TABLE[operator]
    scaled = {"strength": options["strength"] / std**2} if "strength" in options else {}  # type: ignore[operator]
    return method, options | scaled, steps
