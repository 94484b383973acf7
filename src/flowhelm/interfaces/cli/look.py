"""The commands that look: at methods, operators, priors, models, and at what fits into a memory."""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from ...app.models.request import DoctorRequest, PlanRequest
from ...app.restore.request import MaskRequest
from .progress import carried_out
from .restore import restore as restore_
from .shell import app, bad
from .words import asks, own


@app.command("mask")
@asks(MaskRequest, arguments=("photo",))
def mask_(read: Callable[..., MaskRequest]) -> None:
    """Offer the scratches, dust and creases of a scan as a mask, with a picture to look at first.

    flowhelm mask scan.jpg && flowhelm restore scan.jpg --operator inpaint --mask scan.mask.png
    """
    from ...app.restore.mask import mask

    carried_out(mask(read()))


@app.command()
def methods(name: Annotated[str | None, typer.Argument(help="Show this one whole.")] = None) -> None:
    """List the methods, or show one with its options."""
    from ... import restore, steer

    _show("method", name, (*steer.ALL, *restore.ALL))


@app.command("operators")
def operators_(name: Annotated[str | None, typer.Argument(help="Show this one whole.")] = None) -> None:
    """List the operators, or show one with its options."""
    from ... import operators

    _show("operator", name, operators.ALL)


def _show(part: str, name: str | None, functions: Sequence[object]) -> None:
    from ...app.options.cards import card, listing
    from ...app.options.signature import pick

    for line in listing(functions) if name is None else card(part, pick(part, name, functions), own(restore_)):  # type: ignore[arg-type]
        typer.echo(line)


@app.command()
@asks(DoctorRequest, without=("checkpointing", "tiling", "no_plan", "negative", "scale", "threads", "prior"))
def doctor(
    read: Callable[..., DoctorRequest],
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Examine this one: a bundled prior, a .safetensors file of flowhelm, a pipeline of diffusers (a folder or org/name), "
            "or module:function or file.py:function that returns a Flow (which runs that code).",
        ),
    ] = None,
    prior: Annotated[str, typer.Option(help="Without MODEL: a bundled prior, or a .safetensors file.")] = "photos",
) -> None:
    """Check that everything is in place; with MODEL, whether its sign, time, range and path are right (status 1: they are not)."""
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
    "plan",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    help="Say whether a method on a model fits into a GPU's memory, and with which settings, before anything is loaded.\n\n"
    "flowhelm plan black-forest-labs/FLUX.2-dev mpc_flow --vram 24 --size 512x512 --operator superres --factor 4\n\n"
    "MODEL is a bundled prior, a .safetensors file of flowhelm, or the hub name or folder of a diffusers pipeline, of which only the "
    "configs are read. METHOD is one of `flowhelm methods`, or sample. Status 2 and one sentence if nothing fits.",
)
@asks(PlanRequest)
def plan_(
    read: Callable[..., PlanRequest],
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL METHOD [--OPTION VALUE]...", help="And options of operator and method."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    from ... import operators
    from ...app.models.fitting import METHODS
    from ...app.models.plan import planned
    from ...app.options.signature import pick
    from ...app.options.words import flags, sort_words

    mine = own(plan_)
    positional = [word for word in (words or [])[:2] if not word.startswith("-")]
    if len(positional) != 2:
        bad("expected a model, a method and --vram: flowhelm plan black-forest-labs/FLUX.2-dev mpc_flow --vram 24")
    model, method = positional
    parts = {
        "operator": pick("operator", context.params["operator"], operators.ALL),
        "method": pick("method", method, METHODS),
    }
    rest, given = sort_words((words or [])[2:], flags(parts, mine), mine)
    if rest:
        bad(f"expected a model, a method and options, got also {' '.join(rest)}")
    options = {f"{part}_options": given.get(part, {}) for part in parts}
    found = planned(read(model=model, method=method, **options))
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
    name: Annotated[str | None, typer.Argument(help="Show the card of this one.")] = None,
    terms: Annotated[bool, typer.Option("--terms", help="Only the terms of its data and weights.")] = False,
) -> None:
    """List the bundled priors, or show the card of one."""
    from ...app.models import cards as shown

    if name is None:
        if terms:
            bad("--terms goes with a name: flowhelm priors photos --terms")
        for line in shown.listing():
            typer.echo(line)
        return
    typer.echo(shown.terms(name) if terms else shown.card(name))
