"""Is the memory that a plan foretells the memory that is used? Pipelines of about half a GB with random weights, on the CPU.

python -m flowhelm.bench.pipelines.memory              # all pairs of a pipeline and a method; a few minutes, below 4 GB
python -m flowhelm.bench.pipelines.memory flux:dps

Foretold: `flowhelm.memory.footprint`, on meta. Measured: in a process of its own, the peak of its resident set while the method makes
two steps and decodes the result, above what was resident before the model was made (after the same on a tiny pipeline, so that
libraries are there already). On a GPU `flowhelm plan ... --probe` compares with the allocator's own peak.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import inner, operators, restore, steer
from ...flow import Flow
from ...measure import Measurement
from ...memory import STEPS, Begin, Footprint, aten, footprint, walk
from ...priors.pipelines.pipeline import Pipeline
from ...rng import Noise
from ...solve import integrate

SIDE = 256
WORDS = 128
_ADAM = partial(inner.adam, iterations=3)
METHODS: dict[str, Any] = {
    "sample": lambda flow, y, x, times, noise: integrate(flow, x, times, noise=noise),
    "mpc_flow": partial(steer.mpc_flow, inner=_ADAM),
    "flow_dps": restore.flow_dps,
    "dps": restore.dps,
    "mpc_flow K=2": partial(steer.mpc_flow, horizon=2, inner=_ADAM),
}
SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
CASES = (
    "flux:sample", "flux:mpc_flow", "flux:dps", "flux:dps:network", "flux:dps:network+decoder",
    "sd3:flow_dps", "sd3:dps", "sd3:dps:network",
    "flux2:mpc_flow", "flux2:mpc_flow:decoder", "flux2:mpc_flow K=2", "flux2:dps:network",
)  # fmt: skip
"""PIPELINE:METHOD, and what is checkpointed."""


@dataclass(frozen=True)
class Compared:
    """MiB, of one pair. The activations are what is left without the weights, which are known anyway."""

    case: str
    weights: float
    foretold: float
    measured: float

    @property
    def ratio(self) -> float:
        return self.foretold / self.measured

    @property
    def activations(self) -> float:
        """Ratio of the rest."""
        return (self.foretold - self.weights) / (self.measured - self.weights)


def configs(name: str, wide: bool = True) -> dict[str, Any]:
    """Of a pipeline of about 100 million parameters, or of a tiny one."""
    heads, widths = (12, [64, 128, 256, 256]) if wide else (2, [32, 32, 32, 32])
    kl: dict[str, Any] = {
        "block_out_channels": widths, "layers_per_block": 2, "norm_num_groups": 32,
        "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
        "use_quant_conv": False, "use_post_quant_conv": False,
    }  # fmt: skip
    if name == "flux":
        net = {
            "_class_name": "FluxTransformer2DModel", "patch_size": 1, "in_channels": 64, "num_layers": 2 if wide else 1,
            "num_single_layers": 4 if wide else 1, "attention_head_dim": 64, "num_attention_heads": heads, "joint_attention_dim": 64,
            "pooled_projection_dim": 64, "axes_dims_rope": [16, 24, 24], "guidance_embeds": True,
        }  # fmt: skip
        vae = {"_class_name": "AutoencoderKL", "latent_channels": 16, "scaling_factor": 0.36, "shift_factor": 0.1, **kl}
        return {"_class_name": "FluxPipeline", "transformer": net, "vae": vae, "scheduler": SCHEDULER}
    if name == "flux2":
        net = {
            "_class_name": "Flux2Transformer2DModel", "in_channels": 128, "num_layers": 2 if wide else 1,
            "num_single_layers": 6 if wide else 1, "attention_head_dim": 64, "num_attention_heads": heads, "joint_attention_dim": 64,
            "axes_dims_rope": [16, 16, 16, 16],
        }  # fmt: skip
        vae = {"_class_name": "AutoencoderKLFlux2", "latent_channels": 32, **kl}
        return {"_class_name": "Flux2Pipeline", "transformer": net, "vae": vae, "scheduler": SCHEDULER}
    if name == "sd3":
        net = {
            "_class_name": "SD3Transformer2DModel", "sample_size": 32, "patch_size": 2, "in_channels": 16, "out_channels": 16,
            "num_layers": 6 if wide else 1, "attention_head_dim": 64, "num_attention_heads": heads, "caption_projection_dim": 64 * heads,
            "joint_attention_dim": 64, "pooled_projection_dim": 64, "pos_embed_max_size": 64,
        }  # fmt: skip
        vae = {
            "_class_name": "AutoencoderKL",
            "latent_channels": 16,
            "scaling_factor": 1.53,
            "shift_factor": 0.06,
            **kl,
        }
        return {"_class_name": "StableDiffusion3Pipeline", "transformer": net, "vae": vae, "scheduler": SCHEDULER}
    raise ValueError(f"bench.memory: expected flux, flux2 or sd3, got {name!r}")


def told(flow: Pipeline, words: int) -> Pipeline:
    """Bound to a prompt of one row, without text encoders, on the device of the network."""
    made = flow.stand_in(1, words)
    return flow.bind(made, negative=made, scale=7.0 if flow.name.startswith("Stable") else 4.0)


def checkpointed(flow: Pipeline, what: str) -> Pipeline:
    """The flow, with gradient checkpointing of `network`, `decoder` or `network+decoder`."""
    for part, module in (("network", flow.net), ("decoder", flow.pipe.vae)):
        if part in what:
            module.enable_gradient_checkpointing()
    return flow


def begin(method: Any, side: int, device: str) -> Begin:
    """Begins the method on a measurement of a picture of this side."""

    def start(flow: Flow, steps: int) -> Any:
        operator: Any = operators.superres((3, side, side), factor=4)
        y: Tensor = operator.to(device).A(torch.zeros(1, 3, side, side, device=device))
        x = torch.ones(1, *flow.shape, device=device)
        return method(flow, Measurement(y, operator, 0.05), x, flow.times(steps), noise=Noise(0, 1))

    return start


def foretell(case: str) -> Footprint:
    """On meta."""
    from ...priors.pipelines.skeleton import skeleton

    name, method, what = _parts(case)
    flow = checkpointed(told(skeleton(configs(name), size=(SIDE, SIDE), dtype=torch.float32), WORDS), what)
    held = {"network": [flow.net], "decoder": [flow.pipe.vae]}
    return footprint(flow, begin(METHODS[method], SIDE, "meta"), held, steps=STEPS, hidden=convolutions)


def convolutions(func: Any, args: tuple[Any, ...]) -> int:
    """Bytes that a convolution takes for itself on the CPU: oneDNN copies its input into another layout, and in the backward pass
    makes the input's gradient in that layout first. (The rise of the resident set by single convolutions says so.)"""
    image = {aten.convolution.default: 0, aten.convolution_backward.default: 1}.get(func)
    return 0 if image is None else args[image].numel() * args[image].element_size()


def measure(case: str) -> float:
    """MiB in this process, which must be a new one with the environment of `alone`."""
    from ...priors.pipelines import wrap
    from ...priors.pipelines.skeleton import made
    from ..compare.cost import Tally, watched

    name, method, what = _parts(case)

    def flow(wide: bool, side: int) -> Pipeline:
        torch.manual_seed(0)
        pipe = made(configs(name, wide), torch.float32, "cpu")
        return checkpointed(told(wrap(pipe, size=(side, side)), WORDS if wide else 8), what)

    walk(flow(False, 64), begin(METHODS[method], 64, "cpu"), STEPS)
    tally = Tally()
    with watched(tally, torch.device("cpu")):
        walk(flow(True, SIDE), begin(METHODS[method], SIDE, "cpu"), STEPS)
    return tally.mebibytes


def alone(case: str) -> float:
    """`measure` in a process of its own, where freed memory goes back to the system at once."""
    settings = {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "flowhelm.bench.pipelines.memory", "--measure", case]
    paths = os.pathsep.join([str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, env={**os.environ, **settings, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=900
    )
    if done.returncode:
        raise RuntimeError(f"bench.memory: {case} failed: {done.stderr.strip().splitlines()[-1]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def compare(cases: Iterable[str] = CASES) -> Iterator[Compared]:
    for case in cases:
        found = foretell(case)
        yield Compared(case, sum(found.weights.values()) / 2**20, found.peak / 2**20, alone(case))


def _parts(case: str) -> tuple[str, str, str]:
    name, method, *what = case.split(":")
    return name, method, what[0] if what else ""


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        torch.set_num_threads(1)
        print(json.dumps(measure(sys.argv[2])))
        return
    print(
        f"{'pipeline:method:checkpointing':32} {'weights':>8} {'foretold':>9} {'measured':>9} {'ratio':>6} {'without weights':>16}   MiB"
    )
    for each in compare(sys.argv[1:] or CASES):
        print(
            f"{each.case:32} {each.weights:8.0f} {each.foretold:9.0f} {each.measured:9.0f} {each.ratio:6.3f} {each.activations:16.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
