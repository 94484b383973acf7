"""Blur a photograph, add noise, restore it. Usage: python restore.py photo.png restored.png"""

import sys

from flowhelm import Noise, metrics, operators, priors, run, simulate, steer
from flowhelm.app.files.pictures import read, write
from flowhelm.control import flower


def restore(photo: str, out: str, steps: int = 50, std: float = 0.05) -> tuple[float, float]:
    clean = read(photo).pixels  # (1, 3, height, width), float32 in [-1, 1]
    flow = priors.load("photos").sized(*clean.shape[-2:])
    # for a real photograph leave `border` open: see operators.clean_shape
    blur = operators.deblur(tuple(clean.shape[1:]), sigma=1.6, border="circular")
    noise = Noise(seed=0, rows=1)  # one random stream per picture
    y = simulate(blur, clean, std, noise.named("measurement"))
    x, times = flow.source(noise), flow.times(steps)
    # the command line's preset for a linear operator
    method = steer.mpc_flow(flow, y, x, times, strength=1 / std**2, energy=flower, renoise=1.0, noise=noise)
    restored = flow.decode(run(method).x)
    write(out, restored)
    return metrics.psnr(y.y, clean).item(), metrics.psnr(restored, clean).item()


if __name__ == "__main__":
    print("PSNR: blurred {:.2f} dB, restored {:.2f} dB".format(*restore(sys.argv[1], sys.argv[2])))
