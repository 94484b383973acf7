"""The commands that measure: benchmarks and presets."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from .shell import app, bad, command_line


@app.command(
    help="Compare methods: prior x task x method x picture x seed, one row each.\n\n"
    "flowhelm bench --data photos.zip --folder CBSD68 --images 20 --size 128 --prior photos --protocol pnp_flow "
    "--method pnp_flow --method 'mpc_flow:horizon=2,inner=adam:iterations=8,label=K=2' --evaluations 100 --out rows.csv\n\n"
    "Rows are appended to --out as they are finished, and the same command goes on where it was stopped. Protocols: pnp_flow, "
    "photographs, nonlinear; the exact one is `python -m flowhelm.bench.exact.posterior`.\n\n"
    "A method is NAME or NAME:option=value,... with its own options (`flowhelm methods NAME`), steps=N and label=TEXT. Options that "
    "are not given are those of the nearest preset, or else the method's defaults.\n\n"
    "Cost is counted: evaluations of the network per picture, and those that were differentiated."
)
def bench(
    data: Annotated[Path, typer.Option(help="Zip archive or folder of pictures, or an .npz of arrays.")],
    folder: Annotated[str, typer.Option(help="Part of the archive; of an .npz, the array.")] = "",
    images: Annotated[int, typer.Option(min=1, help="How many, by name.")] = 20,
    size: Annotated[int | None, typer.Option(min=8, help="Side of the centre crops; default: the prior's.")] = None,
    skip: Annotated[int, typer.Option(help="Leave out so many first; below 0: begin so many before the end.")] = 0,
    spread: Annotated[bool, typer.Option("--spread", help="Evenly spaced by name, not the first ones.")] = False,
    prior: Annotated[list[str] | None, typer.Option(help="Bundled or a file; several may be given.")] = None,
    protocol: Annotated[str, typer.Option(help="pnp_flow, photographs or nonlinear.")] = "pnp_flow",
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="Of the protocol, or OPERATOR:option=value,std=S; default: all of it."),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(metavar="NAME[:option=value,...]", help="Several may be given; default: all.")
    ] = None,
    baselines: Annotated[bool, typer.Option(help="Also restore without a prior.")] = True,
    steps: Annotated[int | None, typer.Option(min=1, help="Of every method; default: its preset's, or 50.")] = None,
    evaluations: Annotated[
        float | None,
        typer.Option(min=1, help="As many steps as cost nearest to this: evaluations + 2 for each differentiated one."),
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="As many steps as take about so long per picture.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many, from 0.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 4,
    presets: Annotated[list[Path] | None, typer.Option(help="Preset files to look at before those that ship.")] = None,
    defaults: Annotated[bool, typer.Option("--defaults", help="No presets: the methods' own defaults.")] = False,
    reference: Annotated[str | None, typer.Option(help="Of the margins, a label; default: the best baseline.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report, too.")] = None,
    lpips: Annotated[
        Path | None, typer.Option(help="Weights (flowhelm.bench.compare.perceptual says which) for LPIPS.")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Do again what has failed.")] = False,
    out: Annotated[Path, typer.Option(help="Rows: .csv, or .parquet (a folder).")] = Path("bench.csv"),
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    from ...bench.compare.command import Budget
    from ...bench.compare.command import bench as run

    run(
        prior=prior or ["photos"],
        protocol=protocol,
        task=task or [],
        method=method or [],
        data=data,
        folder=folder,
        images=images,
        size=size,
        skip=skip,
        spread=spread,
        seeds=seeds,
        budget=Budget(steps, evaluations, seconds),
        presets=presets or [],
        defaults=defaults,
        baselines=baselines,
        batch=batch,
        reference=reference,
        report=report,
        lpips=lpips,
        retry=retry,
        out=out,
        threads=threads,
        device=device,
        command=command_line(),
        say=typer.echo,
    )


@app.command()
def table(
    rows: Annotated[Path, typer.Argument(help="What `flowhelm bench` wrote.")],
    reference: Annotated[str | None, typer.Option(help="Of the margins, a label; default: the best baseline.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report, too.")] = None,
) -> None:
    """Show the rows of a benchmark: means with 95 % intervals over pictures, and margins over a reference."""
    from ...bench.compare.command import show

    show(rows, reference=reference, report=report, command=command_line(), say=typer.echo)


presets_app = typer.Typer(no_args_is_help=True, help="Settings of methods that were searched for.")


app.add_typer(presets_app, name="presets")


@presets_app.command(
    help="Search for the few strengths of methods, on pictures held apart from training and from tests.\n\n"
    "flowhelm presets search --method pnp_flow --operator deblur:border=circular --std 0.05 --data bsds400.zip --skip -24 --images 8 "
    "--size 64 --out presets.json\n\n"
    "Optuna's TPE, seeded; the default is the first trial, and the same command goes on where it was stopped. Options given in "
    "NAME:option=value,... stay. Without --vary every positive number is searched, from a tenth to ten times its default (a strength "
    "around 1 / std^2)."
)
def search(
    method: Annotated[list[str], typer.Option(metavar="NAME[:option=value,...]", help="Several may be given.")],
    data: Annotated[Path, typer.Option(help="Zip archive or folder of pictures, or an .npz of arrays.")],
    operator: Annotated[
        str | None, typer.Option(metavar="NAME[:option=value,...]", help="Default: all tasks of the protocol.")
    ] = None,
    std: Annotated[float | None, typer.Option(help="Of the noise, in [-1, 1], with --operator.")] = None,
    protocol: Annotated[str, typer.Option(help="pnp_flow, photographs or nonlinear.")] = "pnp_flow",
    task: Annotated[list[str] | None, typer.Option(metavar="TASK", help="Of the protocol.")] = None,
    folder: Annotated[str, typer.Option(help="Part of the archive; of an .npz, the array.")] = "",
    images: Annotated[int, typer.Option(min=1, help="How many, by name.")] = 8,
    size: Annotated[int | None, typer.Option(min=8, help="Side of the centre crops; default: the prior's.")] = None,
    skip: Annotated[int, typer.Option(help="Leave out so many first; below 0: begin so many before the end.")] = 0,
    spread: Annotated[bool, typer.Option("--spread", help="Evenly spaced by name, not the first ones.")] = False,
    prior: Annotated[str, typer.Option(help="Bundled or a file.")] = "photos",
    vary: Annotated[
        list[str] | None, typer.Option(metavar="NAME=LOW:HIGH[:log]|NAME=A|B", help="Search these options only.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="In all, those of an interrupted search among them.")] = 30,
    steps: Annotated[int | None, typer.Option(min=1, help="Default: 50.")] = None,
    evaluations: Annotated[
        float | None, typer.Option(min=1, help="Instead: as many steps as cost nearest to this, as in bench.")
    ] = None,
    score: Annotated[str, typer.Option(help="psnr or ssim, the mean over the pictures.")] = "psnr",
    seed: Annotated[int, typer.Option(help="Of the noise and of the search.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 4,
    out: Annotated[Path, typer.Option(help="Preset file; others that stand in it stay.")] = Path("presets.json"),
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    from ...bench.compare.search import search as run

    if score not in ("psnr", "ssim"):
        bad(f"--score: expected psnr or ssim, got {score!r}")
    run(
        method=method,
        operator=operator,
        std=std,
        protocol=protocol,
        task=task or [],
        prior=prior,
        data=data,
        folder=folder,
        images=images,
        size=size,
        skip=skip,
        spread=spread,
        vary=vary or [],
        trials=trials,
        steps=steps,
        evaluations=evaluations,
        score=cast("Literal['psnr', 'ssim']", score),
        seed=seed,
        batch=batch,
        out=out,
        threads=threads,
        device=device,
        command=command_line(),
        say=typer.echo,
    )


@presets_app.command("list")
def list_presets(
    file: Annotated[Path | None, typer.Argument(help="A preset file; default: those that ship.")] = None,
) -> None:
    """Show presets, and what they were found on."""
    from ...app.restore.presets import lines

    for line in lines(file):
        typer.echo(line)


@presets_app.command("velocity")
def velocity_(
    prior: Annotated[str, typer.Argument(help="A bundled prior by name, or a .safetensors file.")],
    data: Annotated[
        Path, typer.Option(help="Pictures that it was not trained on: a zip archive, a folder, or an .npz of arrays.")
    ],
    out: Annotated[Path, typer.Option(help="The table, a .json file.")],
    folder: Annotated[str, typer.Option(help="Only this part of the archive or folder (or this array).")] = "",
    images: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 16,
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the centre crops; default: the prior's, at most 128.")
    ] = None,
    points: Annotated[int, typer.Option(min=2, help="Times, from 0 to 1.")] = 50,
    draws: Annotated[int, typer.Option(min=1, help="Of the noise, at each time.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's.")] = None,
) -> None:
    """Measure the error of a prior's velocity at each time: the weights of the method flair, for use in Python.

    flowhelm presets velocity photos --data bsds400.zip --out photos.velocity.json
    """
    from ...app.models.velocity_error import velocity as run

    run(
        prior, data, out, folder=folder, images=images, size=size, points=points, draws=draws, seed=seed, device=device,
        threads=threads, say=typer.echo,
    )  # fmt: skip
