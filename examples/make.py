"""Makes the pictures in this folder: crops of three free pictures from scikit-image, and a damaged version of each.

    python examples/make.py

Needs scikit-image, whose wheel holds the three pictures; nothing is downloaded. Every run gives the same pixels.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from skimage import data

HERE = Path(__file__).parent


def main() -> None:
    portrait, crop = data.astronaut(), np.s_[10:266, 96:352]
    astronaut = portrait[crop]
    chelsea = data.chelsea()[20:276, 96:352]
    coffee = data.coffee()[8:392, 110:494]
    mask = scratches(256, 256, seed=5)
    save("astronaut", astronaut)
    save("astronaut_blurred", noisy(blurred(portrait, sigma=1.6)[crop], std=0.05, seed=0))
    save("chelsea", chelsea)
    save("chelsea_mask", mask)
    save("chelsea_scratched", np.where(mask[..., None] == 255, chelsea, 255))
    save("coffee", coffee)
    save("coffee_small", noisy(coffee.reshape(192, 2, 192, 2, 3).mean((1, 3)), std=0.02, seed=1))


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Circular convolution with a Gaussian cut off at about four sigma; a crop of it is blurred as a photograph is."""
    radius = int(sigma / 0.3 + 1)
    for axis in (0, 1):
        shifts = np.arange(-radius, radius + 1)
        weights = np.exp(-(shifts**2) / (2 * sigma**2))
        rolled = [w * np.roll(image, s, axis) for s, w in zip(shifts, weights / weights.sum(), strict=True)]
        image = np.sum(rolled, 0)
    return image


def noisy(image: np.ndarray, std: float, seed: int) -> np.ndarray:
    """Adds Gaussian noise; `std` counts with pictures in [-1, 1], so that one level is 2 / 255."""
    return image + 127.5 * std * np.random.default_rng(seed).standard_normal(image.shape)


def scratches(height: int, width: int, seed: int) -> np.ndarray:
    """White = keep, black = missing: seven bent strokes and a blot, as a worn print has."""
    rng = np.random.default_rng(seed)
    mask = Image.new("L", (width, height), 255)
    draw, size = ImageDraw.Draw(mask), np.array([width, height])
    t = np.linspace(0, 1, 60)[:, None]
    for _ in range(7):
        start, end = rng.uniform(0.02, 0.98, (2, 2)) * size
        bend = (start + end) / 2 + rng.normal(0, 0.12, 2) * size
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        draw.line([(float(x), float(y)) for x, y in curve], fill=0, width=int(rng.integers(2, 5)), joint="curve")
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    radii = 14 + sum(rng.normal(0, 3 / k) * np.cos(k * angles + rng.uniform(0, 2 * np.pi)) for k in range(2, 7))
    blot = np.array([0.72, 0.68]) * size + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    draw.polygon([(float(x), float(y)) for x, y in blot], fill=0)
    return np.asarray(mask)


def save(name: str, image: np.ndarray) -> None:
    Image.fromarray(image.round().clip(0, 255).astype(np.uint8)).save(HERE / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
