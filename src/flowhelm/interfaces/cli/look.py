"""The commands that look: at methods, operators, priors, models, and at what fits into a memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .restore import restore as restore_
from .shell import Dtype, Prompt, Quantize, app, bad, own


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
def doctor(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Examine this one: a bundled prior, a .safetensors file of flowhelm, a pipeline of diffusers (a folder or org/name), "
            "or module:function or file.py:function that returns a Flow (which runs that code).",
        ),
    ] = None,
    prior: Annotated[str, typer.Option(help="Without MODEL: a bundled prior, or a .safetensors file.")] = "photos",
    pictures: Annotated[
        Path | None,
        typer.Option(help="With MODEL: a picture or a folder of pictures of the kind that it was trained on."),
    ] = None,
    parity: Annotated[
        bool, typer.Option("--parity", help="Compare a pipeline with its flow: the same prompt, noise and steps.")
    ] = False,
    size: Annotated[
        str | None, typer.Option(metavar="HEIGHTxWIDTH", help="Of a pipeline's pictures; default: its own.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="With --parity.")] = 4,
    prompt: Prompt = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    device: Annotated[str, typer.Option(help="Of a pipeline: cpu or cuda.")] = "cpu",
) -> None:
    """Check that everything is in place; with MODEL, whether its sign, time, range and path are right (status 1: they are not)."""
    only: dict[str, Any] = {"prompt": prompt, "dtype": dtype, "quantize": quantize}
    if model is None:
        if pictures is not None or parity:
            word, how = ("parity", "") if parity else ("pictures", " FOLDER")
            bad(f"--{word} goes with a MODEL: flowhelm doctor {'ORG/NAME' if parity else 'photos'} --{word}{how}")
        from ...app.models.doctor import doctor as examine

        for what, how in examine(prior):
            typer.echo(f"{what:12} {how}")
        typer.echo("all well")
        return
    from ...app.models import opening as models

    if not models.is_pipeline(model):
        models.settled(model, device="cpu", **only)
        if parity or size is not None:
            bad(
                f"--{'parity' if parity else 'size'} is for pipelines of diffusers (a folder or org/name), not {model!r}"
            )
        _examine(model, pictures)
        return
    from ...app.models.device import to_device

    sides, device = None if size is None else models.size_of(size), str(to_device(device))
    settings = models.settled(model, device=device, **only) | {"device": device}
    if not parity:
        flow = models.told(models.opened(model, settings, size=sides), settings)
        _examine(model, pictures, flow)
        return
    from ...app.models.doctor import parity as compared

    lines, good = compared(model, settings, sides, steps)
    for line in lines:
        typer.echo(line)
    if not good:
        raise typer.Exit(1)


def _examine(model: str, pictures: Path | None, flow: Any = None) -> None:
    from ...app.models.doctor import examine_model

    found = examine_model(model, pictures, flow=flow)
    for each in found:
        typer.echo(f"{each.name:12} {each.verdict:8} {each.words}")
    broken = [each for each in found if each.verdict == "broken"]
    if broken:
        named = next((each for each in broken if each.name == "convention"), broken[0])
        typer.echo(f"broken: {named.words}")
        raise typer.Exit(1)
    verdicts = {each.verdict for each in found}
    if "skipped" in verdicts:
        typer.echo("well as far as it could be checked; give --pictures for the rest")
    else:
        typer.echo("nothing is broken; look at what is odd" if "odd" in verdicts else "all well")


@app.command(
    "plan",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    help="Say whether a method on a model fits into a GPU's memory, and with which settings, before anything is loaded.\n\n"
    "flowhelm plan black-forest-labs/FLUX.2-dev mpc_flow --vram 24 --size 512x512 --operator superres --factor 4\n\n"
    "MODEL is a bundled prior, a .safetensors file of flowhelm, or the hub name or folder of a diffusers pipeline, of which only the "
    "configs are read. METHOD is one of `flowhelm methods`, or sample. Status 2 and one sentence if nothing fits.",
)
def plan_(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL METHOD [--OPTION VALUE]...", help="And options of operator and method."),
    ] = None,
    vram: Annotated[float | None, typer.Option(help="GiB of the GPU.")] = None,
    size: Annotated[str | None, typer.Option(help="Pixels: a number, or HEIGHTxWIDTH; default: the model's.")] = None,
    operator: Annotated[str, typer.Option(help="See `flowhelm operators`.")] = "superres",
    particles: Annotated[int, typer.Option(min=1, help="Rows at a time: particles, or pictures.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Of the method.")] = 28,
    quantize: Annotated[
        str | None,
        typer.Option(help="none, int8, nf4, nf4-double, fp8 or a type of GGUF; default: the gentlest that fits."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of weights that are not packed.")] = "bfloat16",
    tokens: Annotated[int | None, typer.Option(min=1, help="Of the prompt; default: what it is padded to.")] = None,
    reserve: Annotated[float, typer.Option(help="GiB that are left alone: the driver's, kernels' workspaces.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    probe: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="Load the model, make two steps there (cuda) and compare.")
    ] = None,
) -> None:
    from ... import operators
    from ...app.models.plan import METHODS
    from ...app.models.planning import run
    from ...app.options.signature import pick
    from ...app.options.words import flags, sort_words

    mine = own(plan_, "json")
    positional = [word for word in (words or [])[:2] if not word.startswith("-")]
    if len(positional) != 2 or vram is None:
        bad("expected a model, a method and --vram: flowhelm plan black-forest-labs/FLUX.2-dev mpc_flow --vram 24")
    assert vram is not None
    model, method = positional
    parts = {"operator": pick("operator", operator, operators.ALL), "method": pick("method", method, METHODS)}
    rest, given = sort_words((words or [])[2:], flags(parts, mine), mine)
    if rest:
        bad(f"expected a model, a method and options, got also {' '.join(rest)}")
    run(
        model, method, vram=vram, size=size, operator=operator, operator_options=given.get("operator", {}),
        options=given.get("method", {}), rows=particles, steps=steps, quantize=quantize, dtype=dtype, words=tokens, reserve=reserve,
        as_json=as_json, device=probe,
    )  # fmt: skip


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
