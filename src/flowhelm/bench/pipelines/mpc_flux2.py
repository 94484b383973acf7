"""The three public demonstrations of MPC-Flow on FLUX.2, with their published settings (arXiv:2601.23231, its released code).

    python -m flowhelm.bench.pipelines.mpc_flux2 colour   --model black-forest-labs/FLUX.2-dev --picture old.png --prompt "a harbour, 1950"
    python -m flowhelm.bench.pipelines.mpc_flux2 superres --model ... --picture small.png --prompt "..."
    python -m flowhelm.bench.pipelines.mpc_flux2 style    --model ... --picture painting.png --prompt "a lighthouse"
    python -m flowhelm.bench.pipelines.mpc_flux2 colour   --tiny          # a random tiny FLUX.2: what happens, not what it looks like

| task | cost of the picture in [0, 1] | rate | rho | picture |
| --- | --- | --- | --- | --- |
| colour | mean squared error of the luminance | 0.2 | 1e-6 | grey, shown to the model, too |
| superres | mean squared error after bicubic reduction by 4 | 0.5 | 2.5e-6 | small, shown to the model, too |
| style | squared distance of Gram matrices, CLIP ViT-B/16, third block | 0.5 | 64 | of the style |

All: K = 1, 20 iterations of Adam from 0 in the displacement, energy rho t |delta|^2, 28 steps, embedded guidance 4. The network is
evaluated once a step and never differentiated; the decoder is, 20 times a step. A line is printed for each step: the cost with no
control, and with the one that was found; then the seconds (of a processor without a GPU) and, with one, the most memory, beside plain
sampling of as many steps.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import inner, steer
from ...control import flux2
from ...flow import Flow
from ...inner import Closed, Cost
from ...rewards import Style, vision
from ...rng import Noise
from ...solve import integrate
from ...step import Reward, Step
from ...step import run as final
from ..compare.cost import Metered, Tally
from ..intervals import interval


class Setting(NamedTuple):
    rate: float
    rho: float


SETTINGS = {"colour": Setting(0.2, 1e-6), "superres": Setting(0.5, 2.5e-6), "style": Setting(0.5, 64.0)}
STEPS, ITERATIONS, FACTOR = 28, 20, 4


class Spent(NamedTuple):
    """Seconds, of a processor without a GPU, and the most memory on the GPU in GB, without one 0."""

    seconds: float
    memory: float


def spent(device: torch.device, work: Callable[[], Any]) -> tuple[Any, Spent]:
    """What some work gives, and what it took."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    clock = time.perf_counter if cuda else time.process_time
    began = clock()
    made = work()
    if cuda:
        torch.cuda.synchronize(device)
    return made, Spent(clock() - began, torch.cuda.max_memory_allocated(device) / 1e9 if cuda else 0.0)


class Told(NamedTuple):
    """Of one step: its number, the objective without a control and with the one that was found."""

    step: int
    before: float
    after: float


def unit(image: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], clamped, as the demonstrations score pictures."""
    return (image.clamp(-1, 1) + 1) / 2


def luminance(target: Tensor) -> Reward:
    """target: `(b, 1, h, w)` in [0, 1]."""

    def reward(image: Tensor) -> Tensor:
        weights = torch.tensor([0.299, 0.587, 0.114]).to(image).view(3, 1, 1)
        return -((weights * unit(image)).sum(1, keepdim=True) - target).square().mean((1, 2, 3))

    return reward


def reduced(target: Tensor, factor: int = FACTOR) -> Reward:
    """target: `(b, 3, h, w)` in [0, 1], `factor` times smaller."""

    def reward(image: Tensor) -> Tensor:
        small = torch.nn.functional.interpolate(
            unit(image), scale_factor=1 / factor, mode="bicubic", align_corners=False
        )
        return -(small - target).square().mean((1, 2, 3))

    return reward


def guided(
    flow: Flow,
    reward: Reward,
    x: Tensor,
    times: Tensor,
    setting: Setting,
    each: Callable[[float, float], None] = lambda before, after: None,
) -> Iterator[Step]:
    """MPC-Flow as the demonstrations run it; `each` is told the objective before and after every plan."""

    def solver(cost: Cost, start: Tensor, closed: Closed | None) -> Tensor:
        found = inner.adam(cost, start, closed, iterations=ITERATIONS, rate=setting.rate)
        with torch.no_grad():
            each(float(cost(start).sum()), float(cost(found).sum()))
        return found

    return steer.mpc_flow(
        flow, reward, x, times, strength=1.0, energy=partial(flux2, rho=setting.rho), unit="displacement", inner=solver
    )


def run(
    flow: Any, task: str, picture: Tensor, *, clip: str | None = None, steps: int = STEPS, seed: int = 0,
    say: Callable[[Told], None] = lambda told: None,
) -> tuple[Tensor, Tally]:  # fmt: skip
    """One demonstration on a bound FLUX.2.

    Args:
        flow: a `pipelines.Flux2`, bound to the prompt.
        picture: grey `(1, 1, h, w)`, small `(1, 3, h/4, w/4)` or of the style `(1, 3, ., .)`, in [-1, 1].
        clip: of the style: the CLIP model by name or folder.

    Returns:
        The picture `(1, 3, h, w)` in [-1, 1], and what it cost.
    """
    if task == "colour":
        reward, shown = luminance(unit(picture)), picture.expand(-1, 3, -1, -1)
    elif task == "superres":
        size = flow.size
        reward = reduced(unit(picture))
        shown = torch.nn.functional.interpolate(picture, size, mode="bicubic", antialias=True)
    elif task == "style":
        reward, shown = Style(vision(clip or "openai/clip-vit-base-patch16"), picture), None
    else:
        raise ValueError(f"mpc_flux2: expected one of {', '.join(SETTINGS)}, got {task!r}")
    told: list[tuple[float, float]] = []
    tally = Tally()
    metered = Metered(flow if shown is None else flow.beside(shown), tally)
    x = flow.source(Noise(seed, rows=[0])).to(flow.net.device)
    step = None
    for step in guided(metered, reward, x, flow.times(steps), SETTINGS[task], lambda a, b: told.append((a, b))):
        say(Told(step.index, *told[-1]))
    assert step is not None
    with torch.no_grad():
        return flow.decode(step.x), tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=SETTINGS)
    parser.add_argument("--model", default="black-forest-labs/FLUX.2-dev", help="a folder or a name of the hub")
    parser.add_argument("--tiny", action="store_true", help="a random tiny model and picture instead")
    parser.add_argument("--picture", type=Path, help="grey, small or of the style")
    parser.add_argument("--prompt", default="", help="what the picture is to show")
    parser.add_argument("--size", default="512x512", help="HEIGHTxWIDTH of the result, for style")
    parser.add_argument("--quantize", help="such as nf4: FLUX.2 [dev] fits 24 GB then")
    parser.add_argument("--clip", help="of the style: a CLIP model by name or folder")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("mpc_flux2.png"))
    a = parser.parse_args()
    try:
        _run(a, parser)
    except ValueError as error:  # a model, a picture or a size that will not do
        parser.exit(2, f"{error}\n")


def _run(a: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if a.tiny:
        flow, picture, clip = _tiny(a.task)
    else:
        from ...app.files.pictures import read
        from ...priors import pipelines

        if a.picture is None:
            parser.error("--picture is missing (or give --tiny)")
        picture = read(a.picture, channels=1 if a.task == "colour" else 3).pixels.to(a.device)
        height, width = picture.shape[-2:] if a.task != "style" else (int(n) for n in a.size.split("x"))
        scale = FACTOR if a.task == "superres" else 1
        flow = pipelines.load(a.model, size=(height * scale, width * scale), quantize=a.quantize, device=a.device).bind(
            [a.prompt]
        )
        clip = a.clip
    x = flow.source(Noise(a.seed, rows=[0])).to(flow.net.device)
    with torch.no_grad():
        _, plain = spent(x.device, lambda: flow.decode(final(integrate(flow, x, flow.times(a.steps))).x))
    print(f"{'step':>4} {'objective':>12} {'controlled':>12}")
    left: list[float] = []

    def say(t: Told) -> None:
        left.append(100 * t.after / t.before)
        print(f"{t.step:4d} {t.before:12.6g} {t.after:12.6g}{'' if t.after < t.before else '   ROSE'}")

    (image, tally), own = spent(
        x.device, lambda: run(flow, a.task, picture, clip=clip, steps=a.steps, seed=a.seed, say=say)
    )
    print(
        f"{tally.rows} evaluations of the network, {tally.backward_rows} backward passes through it, {tally.decoder} decodes "
        f"(of each step 2 for this table)\n"
        f"the control leaves {interval(left).shown(1)} % of the objective of a step; "
        f"it fell at {sum(each < 100 for each in left)} of {len(left)}\n"
        f"{own.seconds:.2f} s; plain sampling {plain.seconds:.2f} s"
        + (f"; {own.memory:.2f} GB, plain {plain.memory:.2f}" if own.memory else "")
    )
    from ...app.files.pictures import write

    write(a.out, image.cpu())
    print(f"wrote {a.out}")


def _tiny(task: str) -> tuple[Any, Tensor, str | None]:
    from ...priors.pipelines import wrap
    from . import tiny

    torch.manual_seed(0)
    flow = wrap(tiny.flux2(), size=(64, 64)).bind(tiny.embeddings(48))
    draw = torch.Generator().manual_seed(1)
    shape = {"colour": (1, 1, 64, 64), "superres": (1, 3, 16, 16), "style": (1, 3, 48, 48)}[task]
    picture = 2 * torch.rand(*shape, generator=draw) - 1
    return flow, picture, None if task != "style" else _tiny_clip()


def _tiny_clip() -> str:
    import tempfile

    from transformers import CLIPVisionConfig, CLIPVisionModel

    folder = tempfile.mkdtemp()
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=32, patch_size=8
    )
    CLIPVisionModel(config).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
