"""The commands that look: at scans, priors, models, and at what fits into a memory."""

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from ...app.models.request import DoctorRequest, PlanRequest
from ...app.restore.request import MaskRequest
from ...bench.contract.request import CheckRequest
from ...known import PHOTOS
from .progress import carried_out
from .shell import app, bad
from .words import FREE, asks, first, offered, sorted_out


@app.command("mask")
@asks(MaskRequest, arguments=("photo",))
def mask_(read: Callable[..., MaskRequest]) -> None:
    """Offer the scratches, dust and creases of a scan as a mask, with a picture to look at first.

    flowhelm mask scan.jpg && flowhelm restore scan.jpg --operator inpaint --mask scan.mask.png
    """
    from ...app.restore.mask import mask

    carried_out(mask(read()))


@app.command()
@asks(DoctorRequest, without=("checkpointing", "tiling", "no_plan", "negative", "scale", "threads", "prior"))
def doctor(
    read: Callable[..., DoctorRequest],
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="The model to examine: a bundled prior, a .safetensors file of flowhelm, a pipeline of diffusers (a folder or org/name), "
            "or module:function or file.py:function that returns a Flow (which runs that code).",
        ),
    ] = None,
    prior: Annotated[str, typer.Option(help="Without MODEL: a bundled prior, or a .safetensors file.")] = PHOTOS,
) -> None:
    """Check the installation; with MODEL, check that a model has the right sign, time, range and path (status 1 if not)."""
    from ...app.models.doctor import doctor as examine
    from ...app.models.doctor import examined

    if model is not None:
        if not carried_out(examined(read(prior=model))):
            raise typer.Exit(1)
        return
    request = read(prior=prior)
    if request.pictures is not None or request.parity:
        word, how = ("parity", "") if request.parity else ("pictures", " FOLDER")
        bad(f"--{word} goes with a MODEL: flowhelm doctor {'ORG/NAME' if request.parity else 'photos'} --{word}{how}")
    for what, how in examine(prior):
        typer.echo(f"{what:12} {how}")
    typer.echo("all well")


@app.command(
    "check",
    context_settings=FREE,
    help="Check a method, an operator, a prior or a reward of your own: a line for each thing that must hold, and what mends it.\n\n"
    "flowhelm check my_method.py:pnp_admm --weight 0.3\n\n"
    "A method runs on a small known prior: its steps, the same seed twice, the misfit, its cost against its card, resuming, rows alone and "
    "together, and a prior with a decoder. Of an operator: its gradient, range, linearity, adjoint and prox. A prior is examined as by "
    "`flowhelm doctor`. Status 1 if something is broken. The code is run.",
)
@asks(CheckRequest, words=("FILE.py:NAME", "The code, and options of it."))
def check_(read: Callable[..., CheckRequest], words: list[str]) -> None:
    name, others = first(words, "method or other code", ": flowhelm check my_method.py:pnp_admm")
    request = read(name=name)
    from ... import operators
    from ...app.options.signature import pick
    from ...bench.contract.command import check, kind_of
    from ...cards import METHODS

    kind: str = request.kind or kind_of(name)
    parts = (
        {kind: pick(kind, name, METHODS if kind == "method" else operators.ALL)}
        if kind in ("method", "operator")
        else {}
    )
    given = sorted_out(check_, others, parts, "one name and options")
    if not carried_out(check(request.changed(kind=kind, options=given.get(kind, {})))):
        raise typer.Exit(1)


@app.command(
    "plan",
    context_settings=FREE,
    help="Check whether a method on a model fits into a GPU's memory, and with which settings, before the model is loaded.\n\n"
    "flowhelm plan black-forest-labs/FLUX.2-dev mpc_flow --vram 24 --size 512x512 --operator superres --factor 4\n\n"
    "MODEL is a bundled prior, a .safetensors file of flowhelm, or the hub name or folder of a diffusers pipeline, of which only the "
    "configs are read. METHOD is one of `flowhelm methods`, one of `flowhelm align` (an adapter of rank 8, --particles pictures in an "
    "update), or sample. Status 2 and one sentence if nothing fits.",
)
@asks(PlanRequest, words=("MODEL METHOD", "The model, the method, and options of operator and method."))
def plan_(
    read: Callable[..., PlanRequest],
    context: typer.Context,
    words: list[str],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    from ...app.models.request import check_prior
    from ...app.options import sources
    from ...app.options.words import check

    positional = [word for word in (words or [])[:2] if not word.startswith("-")]
    if len(positional) != 2:
        bad("expected a model, a method and --vram: flowhelm plan black-forest-labs/FLUX.2-dev mpc_flow --vram 24")
    model, method = positional
    parts = {
        "operator": sources.pick("operator", context.params["operator"]),
        "method": sources.pick("planned", method),
    }
    given = sorted_out(plan_, (words or [])[2:], parts, "a model, a method and options")
    request = read(model=model, method=method, **{f"{part}_options": options for part, options in given.items()})
    for part, function in parts.items():
        check(function, given[part])
    check_prior(model)
    from ...app.models.plan import planned

    found = planned(request)
    if as_json:
        typer.echo(found.json())
    elif found.fits:
        from rich.console import Console

        from .plan_table import table

        typer.echo(found.sentence)
        Console(width=None if sys.stdout.isatty() else 120).print(table(found))
    if not found.fits:
        bad(found.sentence)


@app.command()
def priors(
    name: Annotated[
        str | None, typer.Argument(help="Show the card of this one.", autocompletion=offered("prior"))
    ] = None,
    terms: Annotated[bool, typer.Option("--terms", help="Show only the terms of its data and weights.")] = False,
) -> None:
    """List the bundled priors and those of deepinv, or show the card of one."""
    from ...app.models import cards as shown

    if name is None:
        if terms:
            bad("--terms goes with a name: flowhelm priors photos --terms")
        for line in shown.listing():
            typer.echo(line)
        return
    typer.echo(shown.terms(name) if terms else shown.card(name))
