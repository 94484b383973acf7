"""Normalising flows: likelihoods, which blocks are tough, and how long the inverses take at equal output.

    python -m flowhelm.bench.quality.normalising bits fashion-tarflow --data fashion_mnist.npz     bits per dimension, beside baselines
    python -m flowhelm.bench.quality.normalising blocks fashion-tarflow --data fashion_mnist.npz   IGM, CRM, the plan; error by sweep
    python -m flowhelm.bench.quality.normalising time fashion-tarflow                              seconds of the inverses, paired ratios
    python -m flowhelm.bench.quality.normalising clean fashion-tarflow --data fashion_mnist.npz    denoising error: Tweedie, FSM, plain
    python -m flowhelm.bench.quality.normalising videos moving_digits.safetensors --data mnist_t10k.npz

The pictures are those that no training saw. The law of such a flow is that of pictures with noise (`flow.noise`), so bits are of noisy
pictures, rounded to the 256 steps of [-1, 1]; no model can be below the bits of the noise itself, which stand beside.
"""

from __future__ import annotations

import math
import time as clock
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from torch import Tensor
from torch.nn import functional as fn

from ... import inverse
from ...bijection import Bijection, Cleaner, arranged, linear, scattered
from ...metrics import frechet_features
from ...priors.tarflow import Denoiser, Normalising, load
from ...recipes.fashion import whole
from ...recipes.fashion_tarflow import fashion_tarflow
from ...recipes.moving_digits import moving
from ...recipes.moving_digits import read as digits_of
from ...rewards.classifier import read
from ...rng import Noise
from ...step import run
from ...toughness import begun, plan, swept, toughness
from ...train import fit, seeded
from ...train.flow_score import flow_score
from ..intervals import interval

app = typer.Typer(no_args_is_help=True, add_completion=False, help=(__doc__ or "").partition("\n")[0])
Prior = Annotated[str, typer.Argument(help="fashion-tarflow, or a file that flowhelm train has written")]
Data = Annotated[Path, typer.Option(help="fashion_mnist.npz")]
STARTS: tuple[Literal["previous", "noise"], ...] = ("previous", "noise")
TOLERANCES = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6)


def held(data: Path, part: str, count: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures `(n, 1, 28, 28)` in [-1, 1] of a set, the first of a fixed order; the same with noise; their classes."""
    images, labels = whole(data)[part]
    rows = torch.randperm(len(images), generator=seeded(0, 0, purpose="held"))[:count]
    clean = images[rows][..., 2:-2, 2:-2].float() / 127.5 - 1
    return clean, clean + noise * torch.randn(clean.shape, generator=seeded(0, 1, purpose="held")), labels[rows]


def per_dimension(log_prob: Tensor, dimensions: int) -> Tensor:
    """Nats of a density of pictures in [-1, 1] -> bits per dimension of 256 steps."""
    return (-log_prob / dimensions + math.log(128)) / math.log(2)


def gaussian(train: Tensor, test: Tensor, noise: float) -> Tensor:
    """Log density of `test` by the normal law with the mean of `train`, its covariance, and the noise: both `(n, d)`."""
    cov = torch.cov(train.T) + noise**2 * torch.eye(train.shape[1]).to(train)
    return torch.distributions.MultivariateNormal(train.mean(0), cov, validate_args=False).log_prob(test)


@app.command()
@torch.no_grad()
def bits(
    prior: Prior = "fashion-tarflow",
    data: Data = Path("fashion_mnist.npz"),
    count: Annotated[int, typer.Option(help="pictures held apart")] = 1000,
    learnt: Annotated[int, typer.Option(help="training pictures of the normal laws")] = 60_000,
) -> None:
    """Bits per dimension of noisy pictures held apart: the flow, normal laws, a uniform one, and the noise alone."""
    flow = load(prior)
    _, noisy, labels = held(data, "test", count, flow.noise)
    seen, _, known = held(data, "train", learnt, flow.noise)
    d = noisy[0].numel()
    rows = {f"{prior}, given the class": torch.cat([told(flow, c).log_prob(x) for x, c in parts(noisy, labels)])}
    rows[f"{prior}, not given it"] = torch.cat([flow.log_prob(x) for x, _ in parts(noisy, labels)])
    x, y = seen.flatten(1).double(), noisy.flatten(1).double()
    each = torch.empty(len(y), dtype=torch.float64)
    for label in known.unique():
        each[labels == label] = gaussian(x[known == label], y[labels == label], flow.noise)
    rows["a normal law for each class"] = each
    rows["a normal law"] = gaussian(x, y, flow.noise)
    print(f"| {count} pictures, noise {flow.noise:g} | bits per dimension | above the noise |\n| --- | --- | --- |")
    floor = per_dimension(torch.tensor(-0.5 * d * math.log(2 * math.pi * math.e * flow.noise**2)), d)
    for name, log_prob in rows.items():
        found = per_dimension(log_prob, d)
        print(f"| {name} | {interval(found.tolist()).shown(3)} | {float(found.mean() - floor):.3f} |")
    edge = 1 + 3 * flow.noise
    uniform = per_dimension(torch.tensor(-d * math.log(2 * edge)), d)
    print(f"| uniform in [{-edge:g}, {edge:g}] | {float(uniform):.3f} | {float(uniform - floor):.3f} |")
    print(f"| the noise alone: no model is below | {float(floor):.3f} | 0 |")


def told(flow: Normalising, labels: Tensor) -> Normalising:
    return flow.bind(labels) if flow.null else flow


def parts(x: Tensor, labels: Tensor, size: int = 100) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(size), labels.split(size), strict=True))


@app.command()
@torch.no_grad()
def blocks(
    prior: Prior = "fashion-tarflow",
    data: Data = Path("fashion_mnist.npz"),
    count: Annotated[int, typer.Option(min=1, help="pictures of a batch of IGM and CRM")] = 1000,
    batches: Annotated[int, typer.Option(min=1, help="batches, over which intervals are")] = 5,
    rows: Annotated[int, typer.Option(help="pictures of the error by sweep")] = 32,
    scale: Annotated[float, typer.Option(help="of guidance in the error by sweep; 1 for none")] = 1.0,
) -> None:
    """IGM and CRM of every block, the plan that follows, and Jacobi's greatest error after so many sweeps. Half a minute of one core.

    Intervals of 95 % over batches; of the sweeps that a picture needs until no pixel errs by more than 1e-4, over pictures.
    """
    flow = load(prior)
    _, noisy, labels = held(data, "test", max(count * batches, rows), flow.noise)
    each_batch = [toughness(flow, part) for part in noisy[: count * batches].split(count)]
    totals = [sum(float(each.crm) for each in found) for found in each_batch]
    print(
        "| block, from noise to picture | layers | IGM from noise | IGM from zeros | share of CRM | plan |\n|"
        + " --- |" * 6
    )
    ways = plan(each_batch[0])
    for k, way in reversed(list(enumerate(ways))):
        words = f"from {way.start}, {way.segments} segment{'s' * (way.segments > 1)}"
        mine = [found[k] for found in each_batch]
        share = interval(100 * float(each.crm) / total for each, total in zip(mine, totals, strict=True))
        print(
            f"| {k} | {flow.net.config['layers'][k]} | {interval(float(each.noise) for each in mine).shown(3)} | "
            f"{interval(float(each.zeros) for each in mine).shown(3)} | {share.shown(1)} % | {words} |"
        )
    rule = partial(linear, scale=scale) if scale != 1 else None
    guided = flow.bind(labels[:rows], rule=rule)
    z = guided.source(Noise(0, rows))
    exact, counts = list(inverse.sequential(guided, z)), (1, 2, 4, 8, 16, 24, 32, 40, z.shape[1])
    heads = " | ".join(map(str, counts))
    print(
        f"\n| block: error after so many sweeps | {heads} | sweeps to 1e-4, of a picture |\n|{' --- |' * (2 + len(counts))}"
    )
    for step, k in zip(exact, reversed(range(len(flow.blocks))), strict=True):
        block = flow.blocks[k]
        here, end = arranged(block, z), arranged(block, step.x)
        x, errors = begun(here, ways[k].start), []
        for _ in range(max(counts)):
            x = swept(guided, block, here, x).clamp(-100, 100)
            errors.append((x - end).abs().flatten(1).max(1).values)
        left = torch.stack(errors) > 1e-4  # the last sweep above it, and one more
        needed = (left * torch.arange(1, len(left) + 1)[:, None]).max(0).values + 1
        cells = [f"{float(errors[n - 1].max()):.1e}" for n in counts]
        print(f"| {k} | {' | '.join(cells)} | {interval(needed.tolist()).shown(1)} |")
        z = step.x


def uncached(flow: Bijection, z: Tensor) -> Tensor:
    """Token by token, all before it computed again for each: what published gains are measured against."""
    for block in reversed(flow.blocks):
        rows = arranged(block, z)
        x = torch.zeros_like(rows)
        for i in range(rows.shape[1]):
            mean, log_scale = flow.affine(block, x, 0, i + 1)
            x[:, i : i + 1] = rows[:, i : i + 1] * log_scale[:, i:].exp() + mean[:, i:]
        z = scattered(block, x, len(z))
    return z


@app.command()
@torch.no_grad()
def time(
    prior: Prior = "fashion-tarflow",
    batch: Annotated[list[int], typer.Option(help="pictures at once; may be given several times")] = [1, 8, 64],  # noqa: B006
    error: Annotated[
        float, typer.Option(help="greatest difference from the sequential inverse that is allowed")
    ] = 1e-3,
    repeats: Annotated[int, typer.Option(help="paired measurements of each")] = 7,
    scale: Annotated[float, typer.Option(help="of guidance; 1 for none")] = 1.0,
    threads: Annotated[int, typer.Option(help="of the CPU")] = 1,
    slow: Annotated[bool, typer.Option(help="the loop without keys and values, too")] = True,
) -> None:
    """Median seconds of the inverses, and paired ratios to the sequential one with keys and values kept, with a 95 % interval over repeats.

    Two minutes of one core.
    """
    torch.set_num_threads(threads)
    flow = load(prior)
    print(
        "| batch | inverse | tolerance | sweeps of the blocks | greatest difference | seconds | times as fast as sequential |"
    )
    print("|" + " --- |" * 7)
    for rows in batch:
        labels = torch.arange(rows) % flow.net.config["classes"]
        bound = flow.bind(labels, rule=partial(linear, scale=scale) if scale != 1 else None)
        z, other = bound.source(Noise(0, rows)), bound.source(Noise(1, rows))
        ways: dict[str, tuple[Callable[..., Any], float]] = {"sequential": (inverse.sequential, 0.0)}
        single = [way._replace(segments=z.shape[1] if way.segments > 1 else 1) for way in flow.plan]
        others: dict[str, Callable[..., Any]] = {
            "Jacobi, whole sweeps": partial(inverse.jacobi, keep=False),
            "Jacobi": inverse.jacobi,
            "GS-Jacobi, planned": partial(inverse.gs_jacobi, plan=flow.plan),
            "GS-Jacobi, 2 segments": partial(inverse.gs_jacobi, segments=2),
            "token by token where tough, Jacobi elsewhere": partial(inverse.gs_jacobi, plan=single),
        }
        for name, method in others.items():
            ways[name] = _tolerant(bound, method, other, error)
        loops: dict[str, Callable[[], Any]] = {name: partial(_run, bound, way, z) for name, (way, _) in ways.items()}
        if slow:
            loops["sequential, nothing kept"] = partial(uncached, bound, z)
        seconds: dict[str, list[float]] = {name: [] for name in loops}
        for turn in range(repeats + 1):
            for name in list(loops)[turn % len(loops) :] + list(loops)[: turn % len(loops)]:
                began = clock.process_time()
                loops[name]()
                if turn:  # the first warms up
                    seconds[name].append(clock.process_time() - began)
        exact = run(inverse.sequential(bound, z)).clean
        for name, spent in seconds.items():
            ratio = interval(a / b for a, b in zip(seconds["sequential"], spent, strict=True))
            text = "| | |"
            if name in ways:
                steps = list(ways[name][0](bound, z))
                sweeps = " ".join(str(int(step.info["sweeps"])) for step in steps)
                text = f"{ways[name][1]:g} | {sweeps} | {float((steps[-1].clean - exact).abs().max()):.1e} |"
            print(
                f"| {rows} | {name} | {text} {torch.tensor(spent).median():.3f} | {ratio.shown(2)} |",
                flush=True,
            )


def _tolerant(flow: Bijection, method: Callable[..., Any], z: Tensor, error: float) -> tuple[Callable[..., Any], float]:
    """The method with the widest tolerance that errs by a third of what is allowed, on noise that is not timed: other noise errs more."""
    exact = run(inverse.sequential(flow, z)).clean
    for tolerance in TOLERANCES:
        made = partial(method, tolerance=tolerance)
        if float((run(made(flow, z)).clean - exact).abs().max()) <= error / 3:
            return made, tolerance
    return partial(method, tolerance=0.0), 0.0


def _run(flow: Bijection, method: Callable[..., Any], z: Tensor) -> Tensor:
    return run(method(flow, z)).clean


def cleaners(flow: Normalising, data: Path, steps: int, width: int, seed: int = 0) -> dict[str, Cleaner]:
    """Two networks of the same first weights, data and noise: one learns the flow's slope, one the noise itself."""
    made = fashion_tarflow(data, seed=seed, noise=flow.noise)
    found = {}
    for name, target in (("flow-score matching", "score"), ("plain denoiser", "noise")):
        torch.manual_seed(seed)
        cleaner = Cleaner(Denoiser(1, width), flow.noise)
        loss: Any = partial(flow_score, flow=flow, target=target)  # type: ignore[arg-type]
        for _ in fit(cleaner, loss, made.data, steps=steps, rate=2e-3, warmup=steps // 10, seed=seed):
            pass
        found[name] = cleaner
        cleaner.net.eval().requires_grad_(False)
    return found


@app.command()
def clean(
    prior: Prior = "fashion-tarflow",
    data: Data = Path("fashion_mnist.npz"),
    steps: Annotated[int, typer.Option(help="of training of each of the two networks")] = 300,
    width: Annotated[int, typer.Option(help="of these")] = 24,
    count: Annotated[int, typer.Option(help="pictures held apart")] = 1000,
    drawn: Annotated[int, typer.Option(help="samples of the Frechet distance, at the prior's scale")] = 2000,
    judge: Annotated[
        Path | None,
        typer.Option(help="fashion_classifier.safetensors of flowhelm.bench.quality.classifier, for the distance"),
    ] = None,
) -> None:
    """Noise taken out: squared error on pictures held apart, and the Frechet distance of samples, of Tweedie's formula and two networks."""
    flow = load(prior)
    found = cleaners(flow, data, steps, width)
    truth, noisy, labels = held(data, "test", count, flow.noise)
    told_ = told(flow, labels)

    def tweedie(flow: Bijection, x: Tensor, labels: Tensor) -> Tensor:
        return torch.cat([flow.bind(c).cleaned(part) for part, c in parts(x, labels)])

    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"nothing": lambda x, _: x}
    ways["Tweedie"] = partial(tweedie, told_)
    for name, cleaner in found.items():
        ways[name] = partial(_cleaned, cleaner)
    with torch.no_grad():
        samples, classes = _samples(flow, drawn) if judge else (None, None)
        net = read(judge) if judge else None
        real = net.judge(whole(data)["test"][0])[0] if net else None
        print(
            "| cleaned by | squared error, 1000 times | ratio to Tweedie, paired | right class | Frechet to test pictures |\n|"
            + " --- |" * 5
        )
        base = (ways["Tweedie"](noisy, labels) - truth).square().flatten(1).mean(1)
        for name, way in ways.items():
            error = (way(noisy, labels) - truth).square().flatten(1).mean(1)
            text = " | "
            if net is not None and samples is not None and classes is not None and real is not None:
                image = ((way(samples, classes).clamp(-1, 1) + 1) * 127.5).round().byte()
                features, seen = net.judge(fn.pad(image, (2, 2, 2, 2)))
                text = f"{float((seen == classes).double().mean()):.1%} | {float(frechet_features(features, real)):.3f}"
            print(
                f"| {name} | {interval((1000 * error).tolist()).shown(3)} | {interval((error / base).tolist()).shown(3)} | {text} |",
                flush=True,
            )


def _cleaned(cleaner: Cleaner, x: Tensor, labels: Tensor) -> Tensor:
    return torch.cat([cleaner(part) for part in x.split(100)])


def _samples(flow: Normalising, count: int) -> tuple[Tensor, Tensor]:
    """As `flowhelm sample --no-cleanup` draws them, all classes in turn."""
    labels, found = torch.arange(count) % flow.net.config["classes"], []
    for first in range(0, count, 200):
        bound = flow.bind(labels[first : first + 200], rule=partial(linear, scale=flow.about["scale"]))
        found.append(
            run(inverse.sequential(bound, bound.source(Noise(0, range(first, min(first + 200, count)))))).clean
        )
    return torch.cat(found), labels


@app.command()
def videos(
    prior: Annotated[str, typer.Argument(help="a file that flowhelm train moving-digits has written")],
    data: Annotated[Path, typer.Option(help="mnist_t10k.npz")] = Path("mnist_t10k.npz"),
    count: Annotated[int, typer.Option(help="videos held apart")] = 200,
    drawn: Annotated[int, typer.Option(help="videos drawn")] = 32,
    tolerance: Annotated[float, typer.Option(help="of the sweeps")] = 1e-3,
) -> None:
    """Videos: bits of frames given those before, sweeps saved by the start from the frame before, and how much frames change."""
    flow = load(prior)
    digits, labels = digits_of(data)
    cut = len(digits) * 4 // 5
    batch = moving(digits[cut:], labels[cut:], batch=count, seed=1)(0)
    noisy = batch.clean + flow.noise * torch.randn(batch.clean.shape, generator=seeded(0, 1, purpose="held"))
    with torch.no_grad():
        bound = told(flow, batch.condition[0])
        frames, per = flow.shape[0], math.prod(flow.shape[1:])
        pieces = torch.cat([_by_frame(flow.bind(c), x) for x, c in parts(noisy, batch.condition[0], 50)])
        whole_ = torch.cat([flow.bind(c).log_prob(x) for x, c in parts(noisy, batch.condition[0], 50)])
        print(
            f"bits per dimension: {interval(per_dimension(whole_, per * frames).tolist()).shown(3)}; by frame, given those before:"
        )
        print(" ".join(interval(per_dimension(pieces[:, k], per).tolist()).shown(3) for k in range(frames)))
        z = bound.source(Noise(0, count))[:drawn]
        some = flow.bind(batch.condition[0][:drawn])
        exact = run(inverse.sequential(some, z)).clean
        print(
            "\n| start of a frame | sweeps of the deep block, by frame | together after frame 1 | greatest difference |\n|"
            + " --- |" * 4
        )
        for start in STARTS:
            steps = list(inverse.starflow_v(some, z, start=start, tolerance=tolerance))
            sweeps = [int(step.info["sweeps"]) for step in steps]
            print(
                f"| {start} | {' '.join(map(str, sweeps))} | {sum(sweeps[1:])} | {float((steps[-1].clean - exact).abs().max()):.1e} |"
            )
        changes = {"drawn": exact, "real, noisy": noisy[:drawn], "drawn, frames of other videos": exact.roll(1, 0)}
        print("\n| videos | mean square change from a frame to the next |\n| --- | --- |")
        for name, other in changes.items():
            first = exact if "other" in name else other
            change = (other[:, 1:] - first[:, :-1]).square().flatten(1).mean(1)
            print(f"| {name} | {interval(change.tolist()).shown(3)} |")


def _by_frame(flow: Bijection, video: Tensor) -> Tensor:
    """Log density of each frame given those before: `(b, frames)`."""
    frames = flow.shape[0]
    x, total = flow.net.tokens(video), video.new_zeros(len(video), frames)
    for block in flow.blocks:
        rows = arranged(block, x)
        mean, log_scale = flow.affine(block, rows)
        x = scattered(block, (rows - mean) * (-log_scale).exp(), len(video))
        total = total - scattered(block, log_scale, len(video)).reshape(len(video), frames, -1).sum(2)
    return total - 0.5 * (x.square() + math.log(2 * math.pi)).reshape(len(video), frames, -1).sum(2)


if __name__ == "__main__":
    app()
