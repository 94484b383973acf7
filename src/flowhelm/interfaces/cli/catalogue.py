"""The commands that list methods and operators: read off their sources, without any request, so that they answer at once."""

from typing import Annotated

import typer

from .shell import app
from .words import offered, own


@app.command()
def methods(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Show the whole card of this one; your own: FILE.py:NAME.", autocompletion=offered("method")
        ),
    ] = None,
) -> None:
    """List the methods, or show one with its options."""
    _show("method", "shown", name)


@app.command("cite")
def cite_(name: Annotated[str, typer.Argument(help="A method, solver, loss, guide or move.")]) -> None:
    """Print the BibTeX of a method's papers.

    flowhelm cite dps >> references.bib
    """
    from ...cards import cite

    cite(name)


@app.command("operators")
def operators_(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Show the whole card of this one; your own: FILE.py:NAME.", autocompletion=offered("operator")
        ),
    ] = None,
) -> None:
    """List the operators, or show one with its options."""
    _show("operator", "operator", name)


def _show(part: str, shelf: str, name: str | None) -> None:
    from ...app.options.cards import card, listing
    from ...app.options.sources import functions, pick

    if name is None:
        typer.echo("\n".join(listing(functions(shelf))))
        return
    from .restore import restore as restore_

    typer.echo("\n".join(card(part, pick(shelf, name), own(restore_))))
