"""Blur a photograph, add noise, restore it. Usage: python restore.py photo.png restored.png"""

import sys

from flowhelm import Noise, begin, metrics, operators, priors, run, simulate
from flowhelm.app.files.pictures import read, write
from flowhelm.restore import hqs


def restore(photo: str, out: str, steps: int = 8, std: float = 0.05) -> tuple[float, float]:
    clean = read(photo).pixels  # (1, 3, height, width), float32 in [-1, 1]
    flow = priors.load("photos").sized(*clean.shape[-2:])
    # for a real photograph leave `border` open: see operators.clean_shape
    blur = operators.deblur(tuple(clean.shape[1:]), sigma=1.6, border="circular")
    noise = Noise(seed=0, rows=1)  # one random stream per picture
    y = simulate(blur, clean, std, noise)
    x, times = begin(hqs, flow, y, steps)  # the blurred picture, and the noise levels that hqs goes through
    restored = flow.decode(run(hqs(flow, y, x, times)).x)
    write(out, restored)
    return metrics.psnr(y.y, clean).item(), metrics.psnr(restored, clean).item()


if __name__ == "__main__":
    print("PSNR: blurred {:.2f} dB, restored {:.2f} dB".format(*restore(sys.argv[1], sys.argv[2])))
