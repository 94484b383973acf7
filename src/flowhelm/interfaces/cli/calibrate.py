"""The command that asks whether a method's samples are as uncertain as they say."""

from collections.abc import Callable
from typing import Annotated

import typer

from ...bench.exact.request import CalibrateRequest
from .progress import carried_out
from .shell import app
from .words import asks, first, sorted_out


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
