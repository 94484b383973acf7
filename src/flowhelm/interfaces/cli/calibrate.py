"""The command that asks whether a method's samples are as uncertain as they say."""

from collections.abc import Callable
from typing import Annotated

import typer

from ...bench.exact.request import CalibrateRequest
from .progress import carried_out
from .shell import app, bad
from .words import asks, own


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    help="Test whether the samples of a method are as uncertain as they should be: restore pictures drawn "
    "from the prior itself, many times each.\n\n"
    "flowhelm calibrate flower --gamma 1 --operator random_mask --missing 0.5 --prior fashion --steps 50\n\n"
    "It prints a verdict (calibrated, over-confident, under-confident or biased) and writes OUT.json and OUT.png: the coverage of "
    "intervals, the ranks of the truth among the samples (simulation-based calibration), and TARP. `flowhelm calibrate exact` shows "
    "these tests on exact samples of a known posterior, and on samples that are wrong on purpose.\n\n"
    "Type options of the operator and of the method as for `flowhelm restore`.",
)
@asks(CalibrateRequest)
def calibrate(
    read: Callable[..., CalibrateRequest],
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METHOD [--OPTION VALUE]...",
            help="A method of `flowhelm methods`; or exact, to see the tests themselves.",
        ),
    ] = None,
) -> None:
    from ...app.models.doctor import check_deepinv

    check_deepinv()
    from ... import operators
    from ...app.options.signature import pick
    from ...app.options.words import flags, sort_words
    from ...bench.exact.calibrate import calibrate as run
    from ...bench.exact.calibrate import known_method
    from ...cards import METHODS

    if not words or words[0].startswith("-"):
        bad("name a method first: flowhelm calibrate flower --gamma 1; flowhelm methods lists them")
    name, *others = words or []
    parts = {"operator": pick("operator", context.params["operator"], operators.ALL)}
    if known_method(name) != "exact":
        parts["method"] = pick("method", name, METHODS)
    mine = own(calibrate)
    rest, given = sort_words(others, flags(parts, mine), mine)
    if rest:
        bad(f"expected one method and options, got also {' '.join(rest)}")
    carried_out(
        run(read(method=name, operator_options=given.get("operator", {}), method_options=given.get("method", {})))
    )
