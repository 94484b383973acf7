"""deepinv's pretrained denoisers by name, `deepinv:DRUNet`: which there are, where their weights come from, and the networks.

    flow = flowhelm.load("deepinv:DRUNet")

The weights are those that deepinv itself fetches, from huggingface.co/deepinv into the folder of `torch.hub`. They are read as
tensors only (`weights_only`), never as the pickle that such a file is, and must fit the network exactly. A network is asked for
pictures in [0, 1] and noise levels in the same unit, as deepinv does; sides that it cannot take are padded. deepinv is imported
when a network is made.
"""

from __future__ import annotations

import difflib
import threading
import urllib.request
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from ..known import DENOISERS as PREFIX
from ..looks import Looks

WAIT = 3.0
"""Seconds in which the server must have answered."""


class Denoiser(NamedTuple):
    """One of deepinv's networks with its default weights for colour pictures.

    folder, file   at huggingface.co/deepinv
    levels         of noise that it was trained for, pictures in [0, 1]; of one level, twice the same
    options        of its class
    stride         sides are padded to multiples of it
    reach          in pixels: how far an output looks, or most of its look where there is attention
    entry          of the file, that holds the weights; "": the file itself
    looks          at a picture, `Flow.looks`: it was trained on patches in any position, or on faces that are mirrored only
    empty          made without memory first, since drawing its random weights takes seconds
    """

    folder: str
    file: str
    levels: tuple[float, float]
    options: Mapping[str, Any] = {}
    stride: int = 1
    reach: int = 64
    entry: str = ""
    looks: Looks = "turned"
    empty: bool = False


# The levels are those of https://deepinv.github.io/deepinv/user_guide/reconstruction/pretrained-models.html, with two exceptions.
# It gives 20/255 for DRUNet, of a file that was replaced since; deepinv's own DPIR asks these weights from 49/255 on. Of the blind
# networks it names none: Restormer's blind weights were trained up to 50/255 (arXiv:2111.09881, section 4), as was SCUNet with
# blurs, JPEG and more besides (arXiv:2203.13278, section 3.2).
NETWORKS: dict[str, Denoiser] = {
    "DRUNet": Denoiser(
        "drunet", "drunet_deepinv_color_finetune_22k.pth", (0.0, 50 / 255), stride=8, reach=192, empty=True
    ),
    "GSDRUNet": Denoiser(
        "gradientstep", "GSDRUNet_torch.ckpt", (0.0, 50 / 255), {"device": "meta"}, 8, 216, "state_dict", empty=True
    ),
    "DiffUNet": Denoiser("diffunet", "diffusion_ffhq_10m.pt", (0.005, 78.0), stride=32, looks="mirrored"),
    "FFDNet": Denoiser(
        "FFDNet", "ffdnet_color.pth", (0.0, 75 / 255),
        {"n_conv_layers": 12, "nf": 96, "img_channels": 3, "orthogonal_init": False}, stride=2, reach=26,
    ),
    "DnCNN": Denoiser("dncnn", "dncnn_sigma2_color.pth", (2 / 255, 2 / 255), reach=20),
    "Restormer": Denoiser("restormer", "gaussian_color_denoising_blind.pth", (0.0, 50 / 255), stride=8, entry="params"),
    "SCUNet": Denoiser("scunet", "scunet_color_real_psnr.pth", (0.0, 50 / 255), stride=64, reach=128),
}  # fmt: skip
LEAST = 1e-4
"""The level that stands for none."""


def named(name: str | Path) -> bool:
    """Whether a prior's name is meant for one of deepinv's."""
    return str(name).startswith(PREFIX)


def of(name: str | Path) -> Denoiser:
    """What is known of `deepinv:NAME`.

    Raises:
        ValueError: there is none of that name.
    """
    word = str(name).removeprefix(PREFIX)
    if word not in NETWORKS:
        near = difflib.get_close_matches(word.lower(), [each.lower() for each in NETWORKS], 1, 0.6)
        close = next((each for each in NETWORKS if each.lower() in near), None)
        hint = f"did you mean {PREFIX}{close}?" if close else f"there are {', '.join(NETWORKS)}"
        raise ValueError(f"prior: deepinv has no pretrained denoiser {word!r} that is known here; {hint}")
    return NETWORKS[word]


def url(name: str | Path) -> str:
    """Where the weights are fetched from."""
    known = of(name)
    return f"https://huggingface.co/deepinv/{known.folder}/resolve/main/{known.file}?download=true"


def place(name: str | Path) -> Path:
    """Where the weights lie, or would: the folder of `torch.hub`, which TORCH_HOME moves."""
    return Path(torch.hub.get_dir()) / "checkpoints" / of(name).file


def weights(name: str | Path) -> Path:
    """The file of the weights, fetched if it is not there.

    Raises:
        ValueError: unknown name; or the file is not there and cannot be fetched, within a few seconds.
    """
    path = place(name)
    if not path.is_file():
        try:
            _reachable(url(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url(name), str(path))
        except Exception as error:  # of the network, of a server, of the disk
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise ValueError(
                f"prior: the weights of {name} are not on this machine and cannot be fetched ({reason}); "
                f"download {url(name)} where there is a connection and put the file at '{path}'"
            ) from error
    return path


def _reachable(address: str) -> None:
    """Raises unless the server answers within WAIT. In a thread, since finding its address waits for as long as it likes."""
    said: list[Exception | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=WAIT):
                said.append(None)
        except Exception as error:  # whatever it is, it is said
            said.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(WAIT)
    if not said:
        raise TimeoutError(f"no answer in {WAIT:g} seconds")
    if said[0] is not None:
        raise said[0]


class Told(nn.Module):
    """A network, `net(picture, sigma (b,), *conditions)`, for pictures of any size: the border is repeated up to the stride."""

    def __init__(self, net: nn.Module, stride: int, reach: int):
        super().__init__()
        self.net, self.stride, self.reach = net, stride, reach

    def forward(self, x: Tensor, sigma: Tensor, *conditions: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        bottom, right = -height % self.stride, -width % self.stride
        if bottom or right:
            x = fn.pad(x, (0, right, 0, bottom), mode="replicate")
        out: Tensor = self.net(x, sigma, *conditions)
        return out[..., :height, :width]


def network(name: str | Path, *, random: bool = False) -> Told:
    """The network with its weights, on the CPU, in evaluation mode and frozen.

    Args:
        random: without its weights, which need not be there then.

    Raises:
        ValueError: as `weights`; or a file that is not made of the network's tensors.
    """
    known = of(name)
    path = None if random else weights(name)
    import deepinv.models

    made = getattr(deepinv.models, str(name).removeprefix(PREFIX), None)
    if made is None:
        raise ValueError(
            f"prior: the deepinv that is installed has no {name}; install a later one: pip install -U deepinv"
        )
    empty = known.empty and not random
    options = {k: v for k, v in known.options.items() if empty or v != "meta"}
    with torch.device("meta") if empty else nullcontext():
        net: nn.Module = made(**options, pretrained=None)
    if path is not None:
        _filled(net, path, known.entry, assign=empty)
    return Told(net, known.stride, known.reach).eval().requires_grad_(False)


def _filled(net: nn.Module, path: Path, entry: str, *, assign: bool) -> None:
    """Gives a network the tensors of a file, and nothing else of it."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a pickle that wants more, of a file cut off, of another format
        raise ValueError(
            f"prior: '{path}' cannot be read as tensors alone ({_reason(error)}); {_again(path)}"
        ) from error
    held = held[entry] if entry and isinstance(held, Mapping) and entry in held else held
    if not isinstance(held, Mapping) or not all(isinstance(each, Tensor) for each in held.values()):
        raise ValueError(f"prior: '{path}' holds something else than a network's tensors; {_again(path)}")
    own = {name for name, _ in net.named_buffers()}  # what a network makes of its own accord
    try:
        with torch.no_grad():
            found = net.load_state_dict(
                {name: each.float() for name, each in held.items()}, strict=False, assign=assign
            )
        if found.unexpected_keys or set(found.missing_keys) - own:
            raise ValueError(f"{(found.unexpected_keys or found.missing_keys)[0]} is in one of them only")
        if not all(bool(each.isfinite().all()) for each in net.state_dict().values()):
            raise ValueError("not every number in it is finite")
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"prior: '{path}' does not hold the tensors of this network ({_reason(error)}); {_again(path)}"
        ) from error


def _again(path: Path) -> str:
    return f"delete '{path.name}' there and run the command again, which fetches it anew"


def _reason(error: Exception) -> str:
    lines = (str(error).strip() or type(error).__name__).splitlines()
    return " ".join(line.strip() for line in lines[:2])[:200].rstrip(".")
