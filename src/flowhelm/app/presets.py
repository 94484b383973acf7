"""What `restore` does when nothing else is said, operator by operator."""

STD = 0.02
"""Of the noise in a photograph, in [-1, 1]: about two and a half 8-bit levels, a good camera in good light."""

Options = dict[str, float | int | str]


def _flower(strength: float) -> Options:
    return {"strength": strength, "energy": "flower", "renoise": 1.0}


# operator: (method, its options, steps); a `strength` here is in units of 1 / std^2. Chosen, coarsely, on eight pictures that
# were held apart from the bundled prior's training; docs/benchmark.md has the table of what was compared.
TABLE: dict[str, tuple[str, Options, int]] = {
    "denoise": ("mpc_flow", _flower(1.0), 50),
    "inpaint": ("mpc_flow", _flower(2.0), 100),
    "box": ("mpc_flow", _flower(1.5), 100),
    "random_mask": ("mpc_flow", _flower(2.0), 100),
    "deblur": ("mpc_flow", _flower(2.0), 50),
    "motion": ("mpc_flow", _flower(2.0), 50),
    "superres": ("mpc_flow", _flower(1.0), 50),
    "colorize": ("mpc_flow", _flower(2.0), 100),
    "demosaic": ("mpc_flow", _flower(2.0), 100),
    "jpeg": ("pnp_flow", {"decay": 0.2, "rate": 0.5}, 100),
    "saturate": ("pnp_flow", {"decay": 0.3, "rate": 0.5}, 64),
    "phase": ("mpc_flow", _flower(1.0) | {"inner": "adam:iterations=20,rate=0.1"}, 200),
}


def preset(operator: str, std: float) -> tuple[str, Options, int]:
    """Name of the method, its options and the number of steps for an operator and a noise level."""
    method, options, steps = TABLE[operator]
    scaled = {"strength": options["strength"] / std**2} if "strength" in options else {}  # type: ignore[operator]
    return method, options | scaled, steps
