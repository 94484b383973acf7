"""flowhelm and deepinv together: a prior of ours as deepinv's denoiser, and a physics of deepinv's for a method of ours.

Usage: python examples/deepinv_denoiser.py photo.png

deepinv's pictures are in [0, 1], ours in [-1, 1]. A noise level in [0, 1] is half of what it is in [-1, 1];
`operators.bridge` converts a measurement, `Flow.as_denoiser` converts on its own.
"""

import sys

import deepinv as dinv
import torch
from torch import Tensor

from flowhelm import Measurement, Noise, metrics, priors, run, steer
from flowhelm.app.files.pictures import read
from flowhelm.control import flower
from flowhelm.operators import bridge

STD = 0.025  # of the noise, for pictures in [0, 1]


def measured(clean: Tensor) -> tuple[dinv.physics.LinearPhysics, Tensor]:
    """A physics of deepinv and what it measures of pictures `(b, c, h, w)` in [0, 1]: a blur, and noise."""
    blur = dinv.physics.functional.gaussian_blur(psf_size=(17, 17), sigma=(1.6, 1.6))
    physics = dinv.physics.BlurFFT(img_size=tuple(clean.shape[1:]), filter=blur)
    physics.set_noise_model(dinv.physics.GaussianNoise(STD, rng=torch.Generator().manual_seed(0)))
    return physics, physics(clean)


def theirs(physics: dinv.physics.LinearPhysics, y: Tensor) -> Tensor:
    """deepinv's DPIR, with our prior for its denoiser."""
    flow = priors.load("photos-2").sized(*y.shape[-2:])
    with torch.no_grad():
        return dinv.optim.DPIR(sigma=STD, denoiser=flow.as_denoiser())(y, physics)


def ours(physics: dinv.physics.LinearPhysics, y: Tensor, steps: int = 50) -> Tensor:
    """Our MPC-Flow, with deepinv's physics."""
    flow, noise = priors.load("photos-2").sized(*y.shape[-2:]), Noise(seed=0, rows=len(y))
    signed, std = bridge.to_signed(physics, y, STD)
    target = Measurement(signed, physics, std)
    options = {"strength": 1 / std**2, "energy": flower, "renoise": 1.0}  # the command line's preset
    return (run(steer.mpc_flow(flow, target, flow.source(noise), flow.times(steps), **options, noise=noise)).x + 1) / 2


if __name__ == "__main__":
    clean = (read(sys.argv[1]).pixels + 1) / 2
    physics, y = measured(clean)
    for name, picture in (("blurred", y), ("DPIR", theirs(physics, y)), ("MPC-Flow", ours(physics, y))):
        print(f"{name:9}{metrics.psnr(2 * picture - 1, 2 * clean - 1).item():6.2f} dB")
