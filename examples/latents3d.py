"""Solids from words: a flow in the planes of a reconstruction model, and what becomes of it when its latents are badly scaled.

    python examples/latents3d.py encode runs/3d          # 2 minutes of one core: encoder, decoder, latents of 2000 solids
    python examples/latents3d.py train runs/3d           # 1 minute each: the same network on latents treated in five ways
    python examples/latents3d.py table runs/3d           # figures and a sheet of the five
    python examples/latents3d.py draw runs/3d "large torus" "small sphere box" --ply
    python examples/latents3d.py planes                  # what a network costs by the number of planes
    python examples/latents3d.py distil runs/3d          # 3 minutes each: students of one call or two, by MDT-dist and by pairs
    python examples/latents3d.py students runs/3d        # figures and a sheet of the students beside their teacher

Solids are spheres, boxes and tori, or one on another, by formula (`recipes.latents3d`). A training that was cut goes on.
The table: Fréchet distance of 240 samples to solids held apart, by occupancies averaged over 4 x 4 x 4 cells; the
share whose nearest training solid, by intersection over union, has the text that was asked for; and that intersection over union.
"""

import copy
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated

import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as fn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from flowhelm import NetFlow, Noise, guide, run, sample
from flowhelm.app.files.atomic import put_picture
from flowhelm.app.files.ply import put_solid
from flowhelm.app.show.sheet import sheet
from flowhelm.bench.intervals import interval
from flowhelm.codec import Codec, LatentFlow, Standardized, standardized
from flowhelm.distil import mdt_dist, pairs, reflow
from flowhelm.flow_map import Distilled
from flowhelm.metrics import frechet_features
from flowhelm.priors import student as student_of
from flowhelm.priors.mmdit import MMDiT, numbered
from flowhelm.priors.planes import Planes
from flowhelm.priors.triplane import AXES, TriPlane, depths, grid, shaded
from flowhelm.recipes.latents3d import KINDS, WORDS, occupancy, pool, solids
from flowhelm.solve import integrate
from flowhelm.train import Alone, cached, fit, seeded, shuffled
from flowhelm.train.reconstruction import by_place, occupied, reconstruction

app = typer.Typer(no_args_is_help=True, add_completion=False, help=(__doc__ or "").partition("\n")[0])
SOLIDS, APART, BATCH, SHAPE = 2000, 240, 32, (18, 16, 16)
CODEC, STEPS = 1000, 600
UPDATES, RATES = {"mdt_dist": 80, "reflow": 450}, {"mdt_dist": 2e-4, "reflow": 1e-3}
TREATMENTS = {
    "raw": "as the encoder gives them", "scale": "one scale for all", "channel": "standardized by plane and channel",
    "weight": "and weighted by place", "look": "and held to what is seen",
}  # fmt: skip
Out = Annotated[Path, typer.Argument(help="Folder of the run.")]
SHOWN = ("large sphere", "small box", "large torus", "large sphere box", "small box torus", "large torus sphere")


def turn(azimuth: float = 35, elevation: float = 25) -> Tensor:
    """From the frame of a camera, down, right and away, to that of the solid, z up. Degrees."""
    a, e = math.radians(azimuth), math.radians(elevation)
    down = (-math.sin(e) * math.cos(a), -math.sin(e) * math.sin(a), -math.cos(e))
    away = (math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), -math.sin(e))
    return torch.tensor([down, (math.sin(a), -math.cos(a), 0.0), away])


def codec_of(out: Path) -> TriPlane:
    if not (out / "codec.safetensors").exists():
        raise typer.BadParameter(f"'{out}' has no codec.safetensors; run encode first")
    codec = TriPlane()
    codec.load_state_dict(load_file(out / "codec.safetensors"))
    return codec.eval().requires_grad_(False)


@app.command()
def encode(
    out: Out,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the codec.")] = CODEC,
    count: Annotated[int, typer.Option("--solids", min=BATCH, help="Of the training; others are held apart.")] = SOLIDS,
) -> None:
    """Fit encoder and decoder, and encode the solids."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    train, apart = pool(count, seeded(0, 0, purpose="solids")), pool(APART, seeded(1, 0, purpose="solids"))
    torch.manual_seed(0)
    codec = TriPlane()
    average = copy.deepcopy(codec)
    data = shuffled(train.views, train.points, train.inside, batch=16)
    for update in fit(
        Alone(codec), occupied, data, steps=steps, average=average, rate=2e-3, warmup=50, ema=0.99, weight_decay=0.0,
        checkpoint=out / "codec.run.safetensors", minutes=1,
    ):  # fmt: skip
        if update.index % max(1, steps // 10) == 0:
            typer.echo(f"codec: step {update.index} of {steps}, loss {float(update.loss):.4f}", err=True)
    codec = average.eval().requires_grad_(False)
    save_file(codec.state_dict(), out / "codec.safetensors")
    latents, others = cached(codec, train.views), cached(codec, apart.views)
    words, asked = (numbered(each.these.texts(), WORDS, 3) for each in (train, apart))
    save_file(
        {
            "latents": latents, "words": words, "solids": train.coarse.byte(),
            "apart": others, "asked": asked, "judges": apart.coarse.byte(),
        }, out / "latents.safetensors",
    )  # fmt: skip
    found = solid(codec, others, 16) > 0.5
    both = (found & apart.coarse).flatten(1).sum(1) / (found | apart.coarse).flatten(1).sum(1)
    some = solids(6, seeded(9, 0))
    z = codec.encode(depths(occupancy(some, grid(32), 32).view(-1, 32, 32, 32)))
    true = occupancy(some, grid(64) @ turn(), 64).view(-1, 64, 64, 64)
    put_picture(out / "codec.png", sheet([("formula", shaded(true)), ("decoded", shaded(solid(codec, z, 64, turn())))]))
    std, mean = torch.std_mean(latents.transpose(0, 1).flatten(1), 1)
    typer.echo(
        f"{APART} solids held apart: intersection over union {both.mean():.3f} (lowest tenth {both.quantile(0.1):.3f})\n"
        f"channels: means {mean.min():.2f} to {mean.max():.2f}, standard deviations {std.min():.2f} to {std.max():.2f}; "
        f"one scale {latents.std():.2f}"
    )


def treated(codec: TriPlane, latents: Tensor, treatment: str) -> Codec:
    one, zero = torch.ones(()), torch.zeros(())
    if treatment == "raw":
        return Standardized(codec, zero, one)
    return Standardized(codec, zero, latents.std()) if treatment == "scale" else standardized(codec, latents)


def network(seed: int = 0) -> Planes:
    torch.manual_seed(seed)
    return Planes(SHAPE, words=len(WORDS), patch=4, width=64, layers=3, heads=4)


@app.command()
def train(
    out: Out,
    treatment: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(TREATMENTS)}; default: all.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each training.")] = STEPS,
    seed: Annotated[int, typer.Option(min=0, help="Of the network and of the training.")] = 0,
) -> None:
    """Train the flow on latents that are treated in each way."""
    torch.set_num_threads(1)
    if unknown := set(treatment or ()) - set(TREATMENTS):
        raise typer.BadParameter(f"expected treatments of {', '.join(TREATMENTS)}, got {', '.join(sorted(unknown))}")
    codec, stored = codec_of(out), load_file(out / "latents.safetensors")
    for name in treatment or TREATMENTS:
        made = treated(codec, stored["latents"], name)
        latents = made.normalize(stored["latents"])
        loss = partial(
            reconstruction,
            weight=by_place(latents) if name in ("weight", "look") else None,
            look=partial(views, made) if name == "look" else None,
        )
        net = network(seed)
        average = copy.deepcopy(net)
        for update in fit(
            NetFlow(net, SHAPE, null=net.null), loss, shuffled(latents, stored["words"], batch=BATCH, seed=seed), steps=steps,
            average=average, rate=2e-3, warmup=50, ema=0.99, weight_decay=0.0, seed=seed,
            checkpoint=out / f"{name}-{seed}.run.safetensors", minutes=1,
        ):  # fmt: skip
            if update.index % max(1, steps // 5) == 0:
                typer.echo(f"{name}: step {update.index} of {steps}, loss {float(update.loss):.4f}", err=True)
        save_file(average.state_dict(), out / f"{name}-{seed}.safetensors")


def views(codec: Standardized, latents: Tensor) -> Tensor:
    """The six views of 16 x 16 that a latent decodes to."""
    own = latents * codec.scale + codec.shift
    decoder: TriPlane = codec.codec  # type: ignore[assignment]
    return decoder.decode(own, 16)


def prior(out: Path, treatment: str, seed: int = 0) -> LatentFlow:
    codec, stored = codec_of(out), load_file(out / "latents.safetensors")
    net = network()
    file = out / f"{treatment}-{seed}.safetensors"
    if not file.exists():
        raise typer.BadParameter(f"'{file}' does not exist; run train --treatment {treatment} --seed {seed} first")
    net.load_state_dict(load_file(file))
    flow = NetFlow(net.eval().requires_grad_(False), SHAPE, null=net.null)
    return LatentFlow(flow, treated(codec, stored["latents"], treatment))


@torch.no_grad()
def drawn(flow: LatentFlow, words: Tensor, steps: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Planes, as the codec's decoder takes them."""
    told = flow.bind(words, guidance=partial(guide.cfg, scale=scale) if scale != 1 else None)
    x = run(integrate(told, told.source(Noise(seed, range(len(words)))), told.times(steps))).x
    codec: Standardized = flow.codec  # type: ignore[assignment]
    return x * codec.scale + codec.shift


def solid(codec: TriPlane, planes: Tensor, size: int, turned: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return torch.cat([codec.volume(z, size, turned) for z in planes.split(16)])


def nearest(volumes: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Which reference is nearest, and its intersection over union."""
    a, b = ((v.flatten(1) > 0.5).float() for v in (volumes, references.float()))
    both = a @ b.T
    whole = a.sum(1)[:, None] + b.sum(1) - both
    return (both / whole.clamp(min=1)).max(1).indices, (both / whole.clamp(min=1)).max(1).values


def judge(stored: dict[str, Tensor]) -> Callable[[Tensor], dict[str, float]]:
    """What the table says of volumes `(240, 16, 16, 16)` drawn for the texts of the solids held apart."""

    def small(volumes: Tensor) -> Tensor:
        return fn.avg_pool3d(volumes.float()[:, None], 4).flatten(1).double()

    def judged(volumes: Tensor) -> dict[str, float]:
        which, iou = nearest(volumes, stored["solids"])
        obeyed = (stored["words"][which] == stored["asked"]).all(1)
        far = frechet_features(small(volumes), small(stored["judges"]))
        return {"distance": float(far), "obeyed": float(obeyed.float().mean()), "iou": float(iou.mean())}

    return judged


@app.command()
def table(
    out: Out,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each treatment.")] = 1,
    draws: Annotated[int, typer.Option(min=1, help="Times that each training draws, from other noise.")] = 1,
    scale: Annotated[float, typer.Option(help="Of guidance.")] = 1.0,
) -> None:
    """Judge the trainings, and draw from each."""
    torch.set_num_threads(1)
    codec, stored = codec_of(out), load_file(out / "latents.safetensors")
    asked, judged = stored["asked"], judge(stored)
    typer.echo("| latents | distance, 20 steps | text obeyed | nearest | distance, 5 steps | text obeyed | nearest |")
    typer.echo("| --- |" + " --- |" * 6)
    floor = judged(solid(codec, stored["apart"], 16))
    apart = f"{floor['distance']:.3f} | {100 * floor['obeyed']:.1f} % | {floor['iou']:.2f}"
    typer.echo(
        f"| no flow: solids held apart, through the codec | {apart} | | | |\n"
        f"| no flow: solids of the training | {judged(stored['solids'][:APART])['distance']:.3f} | | | | | |"
    )
    rows = []
    for name, words in TREATMENTS.items():
        found: dict[str, list[float]] = {}
        for seed in range(seeds):
            if not (out / f"{name}-{seed}.safetensors").exists():
                continue
            flow = prior(out, name, seed)
            for steps in (20, 5):
                each = [judged(solid(codec, drawn(flow, asked, steps, seed + k, scale), 16)) for k in range(draws)]
                for key in each[0]:
                    values = [one[key] for one in each]
                    found.setdefault(f"{key}{steps}", []).extend(values if seeds == 1 else [fmean(values)])
            if seed == 0:
                planes = drawn(flow, numbered(SHOWN, WORDS, 3), 20, 5, scale)
                rows.append((words, shaded(solid(codec, planes, 64, turn()))))
        if found:
            cells = []
            for steps in (20, 5):
                cells.append(interval(found[f"distance{steps}"]).shown(3))
                cells.append(f"{interval(100 * each for each in found[f'obeyed{steps}']).shown(1)} %")
                cells.append(interval(found[f"iou{steps}"]).shown(2))
            typer.echo(f"| {words} | {' | '.join(cells)} |")
    put_picture(out / "solids.png", sheet(rows))
    typer.echo(f"\nwrote {out / 'solids.png'}: {', '.join(SHOWN)}", err=True)


@app.command()
def distil(
    out: Out,
    method: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(UPDATES)}; default: both.")] = None,
    treatment: Annotated[str, typer.Option(help=f"Of the teacher: one of {', '.join(TREATMENTS)}.")] = "weight",
    updates: Annotated[int | None, typer.Option(min=1, help=f"Default: {UPDATES}, about as long each.")] = None,
    drawn_pairs: Annotated[
        int, typer.Option("--pairs", min=BATCH, help="Solids that the teacher draws for reflow.")
    ] = 384,
    scale: Annotated[float, typer.Option(help="Of the guidance that the students learn.")] = 2.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the training.")] = 0,
) -> None:
    """Distil the flow into students of one call or two: by MDT-dist, which reads the solids, and by pairs that the teacher draws."""
    torch.set_num_threads(1)
    if unknown := set(method or ()) - set(UPDATES):
        raise typer.BadParameter(f"expected methods of {', '.join(UPDATES)}, got {', '.join(sorted(unknown))}")
    flow, stored = prior(out, treatment), load_file(out / "latents.safetensors")
    latents, words = flow.codec.normalize(stored["latents"]), stored["words"]  # type: ignore[attr-defined]
    teacher = flow.flow.bind(words, guidance=partial(guide.cfg, scale=scale))
    for name in method or UPDATES:
        count, began = updates or UPDATES[name], time.process_time()
        made = begun(flow.flow, name)
        made.net.requires_grad_(True)
        loss, data = partial(mdt_dist, teacher=teacher), shuffled(latents, words, batch=BATCH, seed=seed)
        if name == "reflow":
            loss, data = partial(reflow, points=2), pairs(teacher, drawn_pairs, batch=BATCH, steps=20, seed=seed)
        average = copy.deepcopy(made.net)
        for update in fit(
            made, loss, data, steps=count, average=average, rate=RATES[name], warmup=20, ema=0.98, weight_decay=0.0, seed=seed,
            checkpoint=out / f"{name}-{seed}.run.safetensors", minutes=1,
        ):  # fmt: skip
            if update.index % max(1, count // 10) == 0:
                used = time.process_time() - began
                typer.echo(f"{name}: {update.index} of {count}, loss {float(update.loss):.4f}, {used:.0f} s", err=True)
        save_file(average.state_dict(), out / f"{name}-{seed}.safetensors")


def begun(teacher: NetFlow, method: str) -> Distilled:
    """A student that begins as the teacher, its network a copy."""
    if method == "mdt_dist":
        return student_of(teacher)
    return Distilled(copy.deepcopy(teacher.net), teacher.shape, teacher.path, null=teacher.null)


def by_teacher(flow: LatentFlow, steps: int, scale: float, words: Tensor, seed: int) -> Tensor:
    return drawn(flow, words, steps, seed, scale)


@torch.no_grad()
def by_student(flow: LatentFlow, made: Distilled, fresh: float, calls: int, words: Tensor, seed: int) -> Tensor:
    told, noise = made.bind(words), Noise(seed, range(len(words)))
    x = run(sample.jumps(told, told.source(noise), told.times(calls), fresh=fresh, noise=noise.named("jump"))).x
    return flow.codec.scale * x + flow.codec.shift  # type: ignore[attr-defined]


@app.command()
def students(
    out: Out,
    treatment: Annotated[str, typer.Option(help=f"Of the teacher: one of {', '.join(TREATMENTS)}.")] = "weight",
    seeds: Annotated[int, typer.Option(min=1, help="Times that each draws, from other noise.")] = 3,
    scale: Annotated[float, typer.Option(help="Of the teacher's guidance.")] = 2.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the students' training.")] = 0,
) -> None:
    """Judge the students beside their teacher, and draw from each."""
    torch.set_num_threads(1)
    flow, stored = prior(out, treatment), load_file(out / "latents.safetensors")
    codec, judged, asked = codec_of(out), judge(stored), stored["asked"]

    ways: dict[str, Callable[[Tensor, int], Tensor]] = {
        f"the teacher, {steps} Euler step{'s' * (steps > 1)}, guided": partial(by_teacher, flow, steps, scale)
        for steps in (20, 2, 1)
    }
    for name in UPDATES:
        if (file := out / f"{name}-{seed}.safetensors").exists():
            made = begun(flow.flow, name)
            made.net.load_state_dict(load_file(file))
            fresh = 100.0 if name == "mdt_dist" else 0.0  # a map to the end only
            for calls in (2, 1):
                ways[f"{name}, {calls} call{'s' * (calls > 1)}"] = partial(by_student, flow, made, fresh, calls)
    typer.echo("| drawn by | distance | text obeyed, % | nearest | ms a solid |\n| --- | --- | --- | --- | --- |")
    rows = []
    for name, way in ways.items():
        found, spent = [], []
        for draw in range(seeds):
            began = time.process_time()
            planes = way(asked, draw)
            spent.append(1e3 * (time.process_time() - began) / len(asked))
            found.append(judged(solid(codec, planes, 16)))
        columns = [
            interval(each[key] * by for each in found) for key, by in (("distance", 1), ("obeyed", 100), ("iou", 1))
        ]
        cells = [each.shown(digits) for each, digits in zip([*columns, interval(spent)], (3, 1, 2, 1), strict=True)]
        typer.echo(f"| {name} | {' | '.join(cells)} |")
        rows.append((name, shaded(solid(codec, way(numbered(SHOWN, WORDS, 3), 5), 64, turn()))))
    put_picture(out / "students.png", sheet(rows))
    typer.echo(f"\nwrote {out / 'students.png'}: {', '.join(SHOWN)}", err=True)


@app.command()
def draw(
    out: Out,
    texts: Annotated[
        list[str], typer.Argument(help=f"small or large, then one or two of {', '.join(KINDS)}, the upper first.")
    ],
    treatment: Annotated[str, typer.Option(help=f"One of {', '.join(TREATMENTS)}.")] = "weight",
    steps: Annotated[int, typer.Option(min=1, help="Euler steps.")] = 20,
    scale: Annotated[float, typer.Option(help="Of guidance.")] = 2.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    ply: Annotated[bool, typer.Option(help="Also write each as a PLY file (pip install scikit-image).")] = False,
) -> None:
    """Draw a solid for each text."""
    torch.set_num_threads(1)
    try:
        words = numbered(texts, WORDS, 3)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    codec = codec_of(out)
    planes = drawn(prior(out, treatment), words, steps, seed, scale)
    put_picture(out / "drawn.png", sheet([("", shaded(solid(codec, planes, 96, turn())))], columns=len(texts)))
    typer.echo(f"wrote {out / 'drawn.png'}")
    for i, (text, volume) in enumerate(zip(texts, solid(codec, planes, 64), strict=True)):
        if ply:
            file = out / f"{i}-{text.replace(' ', '-')}.ply"
            typer.echo(f"wrote {file}: {put_solid(file, volume)} triangles")


@app.command()
def planes() -> None:
    """Print what one evaluation costs by the number of planes, beside a transformer in which every token sees every other."""
    typer.echo("| planes | many streams, MFLOPs | one stream, MFLOPs |\n| --- | --- | --- |")
    for count in (1, 3, 6, 12, 24):
        axes = [AXES[i % 3] for i in range(count)]
        streams = Planes((6 * count, 32, 32), words=5, axes=axes, patch=2, width=96, layers=3, heads=4)
        joint = MMDiT((6, 32 * count, 32), words=5, patch=2, width=96, layers=3, heads=4)
        cells = []
        for net, x in ((streams, torch.zeros(1, 6 * count, 32, 32)), (joint, torch.zeros(1, 6, 32 * count, 32))):
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
                net(x, torch.zeros(1))
            cells.append(f"{counter.get_total_flops() / 1e6:.0f}")
        typer.echo(f"| {count} | {' | '.join(cells)} |")


if __name__ == "__main__":
    app()
