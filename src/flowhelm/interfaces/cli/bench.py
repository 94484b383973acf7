"""The commands that measure: benchmarks, and what is chosen by them (grids, presets)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from ...app.models.request import GridsRequest, VelocityRequest
from ...bench.compare.request import BenchRequest, SearchRequest, TableRequest
from ...bench.exact.request import CalibrateRequest
from ...bench.papers.request import ProtocolRequest
from .progress import carried_out
from .shell import app, bad, command_line
from .words import FREE, asks, first, sorted_out


@app.command(
    help="Find the best times to take few steps at, for one prior.\n\n"
    "flowhelm grids fashion --steps 4,8 --guided\n\n"
    "Compares evenly spaced and shifted times with those of BOSS (a dynamic programme over local errors) and its variant for the error "
    "at the end, keeps the best, and says how far it ends from a fine solution, on noises that were used for nothing else. The bundled "
    "priors have their grids already; beside weights of your own, NAME.safetensors, the file is NAME.grids.json."
)
@asks(GridsRequest, arguments=("prior",))
def grids(read: Callable[..., GridsRequest]) -> None:
    request = read()
    from ...app.models.grids import search

    carried_out(search(request))


@app.command(
    help="Compare methods: prior x task x method x picture x seed, one row each.\n\n"
    "flowhelm bench --data photos.zip --folder CBSD68 --images 20 --size 128 --prior photos --protocol pnp_flow "
    "--method pnp_flow --method 'mpc_flow:horizon=2,inner=adam:iterations=8,label=K=2' --evaluations 100 --out rows.csv\n\n"
    "Rows are appended to --out as they are finished, and the same command goes on where it was stopped. The protocols are pnp_flow, "
    "photographs and nonlinear; the exact one is `python -m flowhelm.bench.exact.posterior`.\n\n"
    "A method is NAME or NAME:option=value,... with its own options (`flowhelm methods NAME`), steps=N and label=TEXT. Options that "
    "you leave out are those of the nearest preset, or else the method's defaults.\n\n"
    "It counts the cost: evaluations of the network per picture, and how many of them were differentiated."
)
@asks(BenchRequest)
def bench(read: Callable[..., BenchRequest]) -> None:
    request = read()
    _check(request, request.prior, ("label", "steps"))
    from ...bench.compare.command import bench as run

    carried_out(run(request, command_line()))


def _check(request: BenchRequest | SearchRequest, priors: Sequence[str], beside: Sequence[str] = ()) -> None:
    """Says what is wrong with the words, before torch and the rest are imported, which takes seconds."""
    from ...app.models.request import check_prior
    from ...app.options import sources
    from ...app.options.words import worded

    for text in request.method:
        worded("method", text, sources.functions("method"), beside)
    for prior in priors:
        check_prior(prior)
    if not request.data.exists():
        bad(f"data: {str(request.data)!r} does not exist; check the path")


@app.command()
@asks(TableRequest)
def table(
    read: Callable[..., TableRequest], rows: Annotated[Path, typer.Argument(help="What `flowhelm bench` wrote.")]
) -> None:
    """Show the rows of a benchmark: means with 95 % intervals over pictures, and margins over a reference."""
    request = read()
    if not rows.exists():
        bad(f"{str(rows)!r} does not exist; make it with flowhelm bench --out {rows}")
    from ...bench.compare.command import show as run

    carried_out(run(rows, request, command_line()))


@app.command(
    help="Run a paper's table with the network that it used, and print our figures beside the published ones.\n\n"
    "flowhelm protocol pnp_flow --prior pnp-flow-celeba.safetensors --data celeba/test --out pnp_flow.csv\n\n"
    "flowhelm protocol mpc_flow --show\n\n"
    "It has the paper's tasks, noise, steps and settings; what differs is said below the table. Without --prior it says which file is "
    "needed, where it is published and how to convert it. Rows are appended to --out as they are finished, and the same command goes on "
    "where it was stopped. `flowhelm bench` takes other priors, methods and tasks."
)
@asks(ProtocolRequest, arguments=("paper",))
def protocol(read: Callable[..., ProtocolRequest]) -> None:
    request = read()
    from ...bench.papers.command import protocol as run

    carried_out(run(request))


presets_app = typer.Typer(no_args_is_help=True, help="List the settings of methods, or search for better ones.")


app.add_typer(presets_app, name="presets")


@presets_app.command(
    help="Search for the few strengths of methods, on pictures held apart from training and from tests.\n\n"
    "flowhelm presets search --method pnp_flow --operator deblur:border=circular --std 0.05 --data bsds400.zip --skip -24 --images 8 "
    "--size 64 --out presets.json\n\n"
    "The search is Optuna's TPE, seeded; the default is the first trial, what the shipped presets say the second, and the same command "
    "goes on where it was stopped. Options given in NAME:option=value,... stay. Without --vary every positive number is searched, from a "
    "tenth to ten times its default (a strength around 1 / std^2)."
)
@asks(SearchRequest)
def search(read: Callable[..., SearchRequest]) -> None:
    request = read()
    _check(request, [request.prior])
    from ...bench.compare.search import search as run

    carried_out(run(request, command_line()))


@presets_app.command("list")
def list_presets(
    file: Annotated[Path | None, typer.Argument(help="A preset file; default: those that ship.")] = None,
) -> None:
    """Show presets, and what they were found on."""
    from ...app.restore.presets import lines

    for line in lines(file):
        typer.echo(line)


@presets_app.command("velocity")
@asks(VelocityRequest, arguments=("prior",))
def velocity_(read: Callable[..., VelocityRequest]) -> None:
    """Measure the error of a prior's velocity at each time: the weights of the method flair, for use in Python.

    flowhelm presets velocity photos --data bsds400.zip --out photos.velocity.json
    """
    request = read()
    from ...app.models.velocity_error import velocity as run

    carried_out(run(request))


@app.command(
    context_settings=FREE,
    help="Test whether the samples of a method are as uncertain as they should be: restore pictures drawn "
    "from the prior itself, many times each.\n\n"
    "flowhelm calibrate flower --gamma 1 --operator random_mask --missing 0.5 --prior fashion --steps 50\n\n"
    "It prints a verdict (calibrated, over-confident, under-confident or biased) and writes OUT.json and OUT.png: the coverage of "
    "intervals, the ranks of the truth among the samples (simulation-based calibration), and TARP. `flowhelm calibrate exact` shows "
    "these tests on exact samples of a known posterior, and on samples that are wrong on purpose.\n\n"
    "Type options of the operator and of the method as for `flowhelm restore`.",
)
@asks(CalibrateRequest, words=("METHOD", "A method of `flowhelm methods`; or exact, to see the tests themselves."))
def calibrate(read: Callable[..., CalibrateRequest], context: typer.Context, words: list[str]) -> None:
    from ...app.models.request import check_prior, is_pipeline
    from ...app.options import sources
    from ...app.options.words import check

    name, others = first(words, "method", ": flowhelm calibrate flower --gamma 1; flowhelm methods lists them")
    parts = {"operator": sources.pick("operator", context.params["operator"])}
    if name != "exact":
        parts["method"] = sources.pick("method", name)
    given = sorted_out(calibrate, others, parts, "one method and options")
    request = read(method=name, **{f"{part}_options": options for part, options in given.items()})
    for part, function in parts.items():
        check(function, given[part])
    if request.prior != "exact" and not is_pipeline(request.prior):
        check_prior(request.prior)
    from ...app.models.doctor import check_deepinv
    from ...bench.exact.calibrate import calibrate as run

    check_deepinv()
    carried_out(run(request))
