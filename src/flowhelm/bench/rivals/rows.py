"""deepinv's restorations in the tables of `flowhelm bench`: the same prior, pictures and measurements, in the same file of rows.

    python -m flowhelm.bench.rivals.rows --data test_photos.zip --folder CBSD68 --images 20 --size 128 --protocol defaults --out rows.csv
    flowhelm table rows.csv --decide

DPIR is the one that its documentation recommends, as it is there: 8 steps, levels and weight of its own, started from the adjoint;
and with 24 of these steps. DiffPIR is the best of its samplers of posteriors on the tasks of
`python -m flowhelm.bench.rivals.compare`, which compares all of them.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from ...app.run import Event, Planned, Run, Said, Stepped, drive
from ...flow import Flow
from ...known import PHOTOS
from ...measure import LinearOperator, Measurement
from ...operators.bridge import to_unit
from ...rng import Noise, digest
from ...step import Step
from ..compare import rows, runner
from ..compare.command import distances, planned
from ..compare.decide import decided
from ..compare.request import BenchRequest
from ..compare.runner import Entry


def deepinv_dpir(flow: Flow, y: Measurement, x: Tensor, times: Tensor, *, noise: Noise | None = None) -> Iterator[Step]:
    """deepinv's DPIR with our prior for its denoiser; of `times` only the number of steps counts.

    Its class has 8 steps. For another number it is put together as there, with as many levels.
    """
    from deepinv.optim import DPIR, HQS, L2, PnP

    from .deepinv import Handed

    y01, physics, std = measured(y)
    total = len(times) - 1
    if total == 8:
        model = DPIR(sigma=std, denoiser=Handed(flow))
    else:
        levels = torch.logspace(math.log10(49 / 255), math.log10(std), total)
        model = HQS(
            data_fidelity=L2(), prior=PnP(denoiser=Handed(flow)), max_iter=total, g_first=False, early_stop=False,
            stepsize=(levels / max(0.01, std)) ** 2 / 0.23, sigma_denoiser=levels,
        )  # fmt: skip
    with torch.no_grad():
        image = 2 * model(y01, physics) - 1
    yield Step(total, total, times[-1], image, image, {})


def deepinv_diffpir(flow: Flow, y: Measurement, x: Tensor, times: Tensor, *, noise: Noise) -> Iterator[Step]:
    """deepinv's DiffPIR at its documented settings, with our prior for its denoiser; one stream draws for all rows."""
    from deepinv.optim import L2
    from deepinv.physics import GaussianNoise
    from deepinv.sampling import DiffPIR

    from .deepinv import Handed

    y01, physics, std = measured(y)
    physics.set_noise_model(GaussianNoise(std))
    total = len(times) - 1
    model = DiffPIR(Handed(flow), L2(), max_iter=total)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(digest(noise.seeds[0], noise.keys[0]))
        image = 2 * model(y01, physics) - 1
    yield Step(total, total, times[-1], image, image, {})


def measured(y: Measurement) -> tuple[Tensor, Any, float]:
    """The measurement for pictures in [0, 1], a physics of its own, and the noise there."""
    if not isinstance(y.operator, LinearOperator):
        raise ValueError("deepinv: expected a linear operator, got another; choose linear tasks")
    from .deepinv import as_physics

    y01, std = to_unit(y.operator, y.y, y.std)
    return y01, as_physics(y.operator), std


METHODS = {"dpir": deepinv_dpir, "diffpir": deepinv_diffpir}


def entry(word: str) -> Entry:
    """`dpir`, or `dpir:24` with so many steps (default: 8 of DPIR, 50 of DiffPIR).

    Raises:
        ValueError: another word.
    """
    name, _, number = word.partition(":")
    if name not in METHODS or (number and not (number.isdecimal() and int(number))):
        raise ValueError(f"method: expected {' or '.join(METHODS)}, with a number of steps as in dpir:24, got {word!r}")
    steps = int(number or (8 if name == "dpir" else 50))
    return Entry(f"deepinv {word}", partial(METHODS[name]), {}, steps)


def made(request: BenchRequest, entries: list[Entry]) -> Run[None]:
    """Appends the rows that are not there yet, and shows the table that decides."""
    plan = planned(request)
    columns = distances(request, plan.work)
    done = {rows.key(row) for row in rows.read(request.out) if not row["error"]}
    total = len(plan.work) * len(entries)
    yield Planned(total)
    for i, cell in enumerate(plan.work):
        for j, each in enumerate(entries, 1):
            if not runner.is_done(cell, each, done):
                rows.append(request.out, runner.rows_of(cell, each, columns).rows)
            yield Stepped(i * len(entries) + j, total, f"{cell.task.name} {cell.pictures.names[0]}: {each.label}")
    yield Said(decided(rows.read(request.out)))


def show() -> Callable[[Event], None]:
    """Prints what comes of the work, and what is left of it where people see it."""
    began = time.monotonic()

    def tell(event: Event) -> None:
        if isinstance(event, Stepped):
            left = (time.monotonic() - began) / event.index * (event.total - event.index) / 60
            print(
                f"\r{event.index}/{event.total}, {event.text}, {left:.0f} min left  ",
                end="",
                file=sys.stderr,
                flush=True,
            )
        elif isinstance(event, Said):
            print(f"\n{event.text}")

    return tell


def main(
    data: Annotated[Path, typer.Option(help="The pictures: a zip archive or a folder.")],
    out: Annotated[Path, typer.Option(help="The rows, appended to: a .csv file of flowhelm bench.")],
    folder: Annotated[str, typer.Option(help="Take only this part of the archive.")] = "",
    images: Annotated[int, typer.Option(help="How many pictures, by name.")] = 20,
    skip: Annotated[int, typer.Option(help="Leave out so many first; below 0: begin so many before the end.")] = 0,
    size: Annotated[int, typer.Option(help="Side of the centre crops in pixels.")] = 128,
    batch: Annotated[int, typer.Option(help="How many pictures to restore at a time.")] = 4,
    protocol: Annotated[str, typer.Option(help="The set of tasks.")] = "defaults",
    task: Annotated[list[str] | None, typer.Option(help="A task of the protocol; several may be given.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="dpir, dpir:24, diffpir; several may be given.")] = None,
    prior: Annotated[str, typer.Option(help="A bundled prior, a weights file or deepinv:NAME.")] = PHOTOS,
    features: Annotated[
        Path | None, typer.Option(help="A classifier whose features measure, as in flowhelm bench.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
) -> None:
    """Restore pictures with deepinv's DPIR and DiffPIR and our prior, into the rows of flowhelm bench."""
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        entries = [entry(word) for word in method or ["dpir"]]
        request = BenchRequest(
            data=data, out=out, folder=folder, images=images, skip=skip, size=size, batch=batch, protocol=protocol,
            task=tuple(task or ()), prior=(prior,), method=("hqs",), features=features,
        )  # fmt: skip
        drive(made(request, entries), show())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


if __name__ == "__main__":
    typer.run(main)
