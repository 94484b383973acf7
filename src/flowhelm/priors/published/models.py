"""Which checkpoints are published, where, and what their tensors do not show. This file needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Model(NamedTuple):
    """A published checkpoint.

    layout    name of the module that knows its tensors
    file      as it is called there
    where     an address to fetch it from
    what      it draws
    options   of the layout's `config`: what the tensors do not show
    """

    layout: str
    file: str
    where: str
    what: str
    options: Mapping[str, Any] = {}


_DRIVE = "https://drive.google.com/file/d/"
_ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/"
_CFM = "https://github.com/atong01/conditional-flow-matching/releases/download/1.0.4/"
_HUB = "https://huggingface.co/deepinv/"

MODELS: Mapping[str, Model] = {
    "pnp-flow-celeba": Model(
        "pnp_flow", "model_final.pt", f"{_DRIVE}1ZZ6S-PGRx-tOPkr4Gt3A6RN-PChabnD6", "faces of CelebA, 128 x 128", {"size": 128}
    ),
    "pnp-flow-afhq-cat": Model(
        "pnp_flow", "model_final.pt", f"{_DRIVE}1FpD3cYpgtM8-KJ3Qk48fcjtr1Ne_IMOF", "cats of AFHQ, 256 x 256", {"size": 256}
    ),
    "torchcfm-otcfm": Model(
        "torchcfm", "otcfm_cifar10_weights_step_400000.pt", f"{_CFM}otcfm_cifar10_weights_step_400000.pt", "CIFAR-10, 32 x 32"
    ),
    "torchcfm-icfm": Model(
        "torchcfm", "cfm_cifar10_weights_step_400000.pt", f"{_CFM}cfm_cifar10_weights_step_400000.pt", "CIFAR-10, 32 x 32"
    ),
    "torchcfm-fm": Model(
        "torchcfm", "fm_cifar10_weights_step_400000.pt", f"{_CFM}fm_cifar10_weights_step_400000.pt", "CIFAR-10, 32 x 32"
    ),
    "adm-ffhq-256": Model(
        "adm", "diffusion_ffhq_10m.pt", f"{_HUB}diffunet/resolve/main/diffusion_ffhq_10m.pt", "faces of FFHQ, 256 x 256", {"size": 256}
    ),
    "adm-imagenet-64": Model(
        "adm", "64x64_diffusion.pt", f"{_ADM}64x64_diffusion.pt", "ImageNet by class, 64 x 64",
        {"size": 64, "order": "part", "schedule": "cosine"},
    ),
    "adm-imagenet-128": Model(
        "adm", "128x128_diffusion.pt", f"{_ADM}128x128_diffusion.pt", "ImageNet by class, 128 x 128", {"size": 128, "heads": 4}
    ),
    "adm-imagenet-256": Model(
        "adm", "256x256_diffusion.pt", f"{_ADM}256x256_diffusion.pt", "ImageNet by class, 256 x 256", {"size": 256}
    ),
    "adm-imagenet-256-uncond": Model(
        "adm", "256x256_diffusion_uncond.pt", f"{_ADM}256x256_diffusion_uncond.pt", "ImageNet, 256 x 256", {"size": 256}
    ),
    "adm-imagenet-512": Model(
        "adm", "512x512_diffusion.pt", f"{_ADM}512x512_diffusion.pt", "ImageNet by class, 512 x 512", {"size": 512}
    ),
    "sit-xl-2-256": Model(
        "sit", "SiT-XL-2-256.pt",
        "https://www.dl.dropboxusercontent.com/scl/fi/as9oeomcbub47de5g4be0/SiT-XL-2-256.pt?rlkey=uxzxmpicu46coq3msb17b9ofa&dl=0",
        "latents of ImageNet by class, 256 x 256",
    ),
    "edm-ffhq-64": Model(
        "edm", "edm-ffhq-64x64-uncond-ve.pt", f"{_HUB}edm/resolve/main/edm-ffhq-64x64-uncond-ve.pt", "faces of FFHQ, 64 x 64"
    ),
    "edm-cifar10": Model(
        "edm", "edm-cifar10-32x32-uncond-ve.pt", f"{_HUB}edm/resolve/main/edm-cifar10-32x32-uncond-ve.pt", "CIFAR-10, 32 x 32"
    ),
    "edm-imagenet-64": Model(
        "edm", "adm-imagenet64-cond.pt", f"{_HUB}edm/resolve/main/adm-imagenet64-cond.pt", "ImageNet by class, 64 x 64"
    ),
}  # fmt: skip


def line(name: str, to: str) -> str:
    """The command that converts a published checkpoint."""
    return f"python -m flowhelm.priors.published.convert {name} {MODELS[name].file} {to}"
