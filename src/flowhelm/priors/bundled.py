"""The small priors that ship with the package."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import torch
from safetensors import safe_open

from ..flow import NetFlow
from .unet import UNet

NAMES = ("photos",)


def load(name: str | Path = "photos", device: str = "cpu") -> NetFlow:
    """A bundled prior by name, or one that `recipes/photos.py` has trained, by the path of its safetensors file.

    Returns:
        A flow over colour pictures in [-1, 1]; of 256 x 256 pixels until `flow.sized(height, width)`. Weights are float32
        and frozen, laid out channels-last. `flow.net.reach` and `flow.net.stride` are what `guide.tiled` asks for.

    Raises:
        ValueError: unknown name, or a file that is no such prior.
    """
    path = Path(str(files(__package__) / "weights" / f"{name}.safetensors")) if name in NAMES else Path(name)
    if not path.is_file():
        raise ValueError(f"prior: expected one of {', '.join(NAMES)} or a .safetensors file, got '{name}'")
    try:
        with safe_open(path, framework="pt") as f:
            config = json.loads((f.metadata() or {})["config"])
            weights = {key: f.get_tensor(key).float() for key in f.keys()}  # noqa: SIM118  (a handle, not a dict)
        net = UNet(tuple(config.pop("widths")), **config)
        net.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"prior: expected weights written by recipes/photos.py, got '{path}' ({error})") from None
    except Exception as error:  # safetensors raises its own type for a file of another format
        raise ValueError(f"prior: '{path}' is not a readable safetensors file ({error})") from None
    net.eval().requires_grad_(False)
    return NetFlow(net.to(device).to(memory_format=torch.channels_last), (3, 256, 256))
