"""The command that asks whether a method's samples are as uncertain as they say."""

from pathlib import Path
from typing import Annotated

import typer

from .shell import app, bad, own


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    help="Is a method as sure of its samples as it may be? Restore, many times each, truths drawn from the prior itself.\n\n"
    "flowhelm calibrate flower --gamma 1 --operator random_mask --missing 0.5 --prior fashion --steps 50\n\n"
    "Prints a verdict (calibrated, over-confident, under-confident or biased) and writes OUT.json and OUT.png: what intervals hold, "
    "ranks of the truth among the samples (simulation-based calibration), and TARP. With --prior exact, a mixture over small pictures, "
    "the posterior is known: `flowhelm calibrate exact` shows the tests on exact samples of it, and on these made wrong on purpose.\n\n"
    "Options of the operator and of the method are given as in `flowhelm restore`.",
)
def calibrate(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="METHOD [--OPTION VALUE]...", help="See `flowhelm methods`; or exact, a control."),
    ] = None,
    operator: Annotated[str, typer.Option(help="Of the measurements: see `flowhelm operators`.")] = "random_mask",
    prior: Annotated[
        str, typer.Option(help="exact (a known mixture), a bundled prior, or a .safetensors file.")
    ] = "exact",
    truths: Annotated[int, typer.Option(help="How many, drawn from the prior; more see smaller faults.")] = 64,
    samples: Annotated[
        int, typer.Option(help="Of each truth; 19 have 90 % of the truths between the extreme ones.")
    ] = 19,
    steps: Annotated[int, typer.Option(min=1, help="Of the method.")] = 20,
    std: Annotated[float, typer.Option(help="Of the noise, with pixel values in [-1, 1].")] = 0.1,
    size: Annotated[
        int | None,
        typer.Option(min=4, help="Side of the pictures; default: 8 for exact, else the prior's, at most 32."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    out: Annotated[Path, typer.Option(help="Name of the results, without suffix.")] = Path("calibration"),
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    from ...app.models.doctor import check_deepinv

    check_deepinv()
    from ... import operators
    from ...app.options.signature import pick
    from ...app.options.words import flags, sort_words
    from ...bench.exact.calibrate import EXACT, known_method
    from ...bench.exact.calibrate import calibrate as run
    from ...cards import METHODS

    if not words or words[0].startswith("-"):
        bad("name a method first: flowhelm calibrate flower --gamma 1; flowhelm methods lists them")
    name, *others = words or []
    parts = {"operator": pick("operator", operator, operators.ALL)}
    if known_method(name) != EXACT:
        parts["method"] = pick("method", name, METHODS)
    mine = own(calibrate)
    rest, given = sort_words(others, flags(parts, mine), mine)
    if rest:
        bad(f"expected one method and options, got also {' '.join(rest)}")
    run(
        name, given, operator=operator, prior=prior, truths=truths, samples=samples, steps=steps, std=std, size=size, seed=seed,
        out=out, device=device, threads=threads, say=typer.echo,
    )  # fmt: skip
