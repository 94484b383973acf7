"""How different two pictures look to a trained network: `flowhelm.metrics.feature_distance` in two networks' features.

`classified` takes the classifier that `python -m flowhelm.bench.quality.classifier` trains in minutes, every level alike.
`perceptual` is LPIPS (Zhang et al. 2018, arXiv:1801.03924), version 0.1 with AlexNet, from weights in a safetensors file. The
weights (Krizhevsky's network and a weight for each channel of five levels) do not ship with flowhelm and are never downloaded by
it. Where torchmetrics has them, they become such a file by

    from safetensors.torch import save_file
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity as Lpips
    save_file({k: v.clone() for k, v in Lpips("alex").net.state_dict().items()}, "lpips.safetensors")
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ...metrics import feature_distance

CONVOLUTIONS = (0, 3, 6, 8, 10)
"""Of AlexNet's features: each with the ReLU behind it is one level."""


def perceptual(path: Path, device: str = "cpu") -> Callable[[Tensor, Tensor], Tensor]:
    """(picture, reference), each `(b, c, h, w)` in [-1, 1] -> distance `(b,)`; grey ones are repeated, both are clamped.

    Raises:
        ValueError: no such file, or one without the tensors.
    """
    from safetensors.torch import load_file
    from torchvision.models import alexnet  # type: ignore[import-untyped]

    try:
        tensors = {name: value.float() for name, value in load_file(path).items()}
        heads = [tensors[f"lin{level}.model.1.weight"].to(device) for level in range(5)]
        weights = {
            f"{i}.{part}": next(v for n, v in tensors.items() if n.startswith("net.") and n.endswith(f".{i}.{part}"))
            for i in CONVOLUTIONS
            for part in ("weight", "bias")
        }
    except (OSError, KeyError, StopIteration) as error:
        raise ValueError(
            f"lpips: expected the weights of torchmetrics' LPIPS with AlexNet in '{path}' ({error!r})"
        ) from None
    except Exception as error:  # safetensors raises its own type
        raise ValueError(f"lpips: '{path}' is not a readable safetensors file ({error})") from None
    net = alexnet(weights=None).features.to(device).eval().requires_grad_(False)
    net.load_state_dict(weights)
    # the means and spreads that the published weights were made with
    shift = torch.tensor([-0.030, -0.088, -0.188], device=device)[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450], device=device)[:, None, None]

    def features(x: Tensor) -> list[Tensor]:
        x = (x.clamp(-1, 1).expand(-1, 3, -1, -1) - shift) / scale
        found = []
        for i, layer in enumerate(net):
            x = layer(x)
            if i - 1 in CONVOLUTIONS:
                found.append(x)
        return found

    @torch.no_grad()
    def distance(image: Tensor, reference: Tensor) -> Tensor:
        return feature_distance(features(image), features(reference), [head[0] for head in heads])

    return distance


def classified(path: Path, channels: int, device: str = "cpu") -> Callable[[Tensor, Tensor], Tensor]:
    """(picture, reference), each `(b, c, h, w)` in [-1, 1] -> distance `(b,)` in a classifier's features; both are clamped.

    Args:
        path: of `python -m flowhelm.bench.quality.classifier`; channels: of the pictures, which its network must have.

    Raises:
        ValueError: another file, or a classifier of other pictures.
    """
    from ...rewards.classifier import read

    net = read(path)
    if net.channels != channels:
        raise ValueError(
            f"features: expected a classifier of pictures with {channels} channels, got {net.channels} in '{path}'; "
            "train that of another set: python -m flowhelm.bench.quality.classifier"
        )
    net = net.to(device)

    @torch.no_grad()
    def distance(image: Tensor, reference: Tensor) -> Tensor:
        return feature_distance(net.levels(image.clamp(-1, 1)), net.levels(reference.clamp(-1, 1)))

    return distance
