"""The commands that restore: one photograph, a batch, and what was made before again."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ...app.restore.presets import STD
from .shell import (
    Checkpointing,
    Cores,
    DryRun,
    Dtype,
    Negative,
    NoPlan,
    Prompt,
    Quantize,
    Ray,
    Retry,
    Scale,
    Tiling,
    Workers,
    app,
    bad,
    own,
    typed,
)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    help="Restore a photograph, or a batch: a folder or several of them.\n\n"
    "Options of the operator and of the method are listed by `flowhelm operators NAME` and "
    "`flowhelm methods NAME`, and are given here like any other:\n\n"
    "flowhelm restore photo.jpg --operator superres --factor 4\n\n"
    "A name that several have means the one below first, then the operator's, then the method's; --operator-NAME and "
    "--method-NAME always work.\n\nCtrl-C leaves the estimate so far and a file to go on from; a batch goes on by the same command.",
)
def restore(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="PHOTO [--OPTION VALUE]...", help="The photograph, and options of operator and method."),
    ] = None,
    operator: Annotated[str | None, typer.Option(help="What was done to it: see `flowhelm operators`.")] = None,
    method: Annotated[str | None, typer.Option(help="See `flowhelm methods`; default: the operator's preset.")] = None,
    std: Annotated[
        float,
        typer.Option(help="Standard deviation of its noise, with pixel values in [-1, 1] (8-bit levels / 127.5)."),
    ] = STD,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps; default: the operator's preset.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Result; default: PHOTO's name with .restored.png, beside it.")
    ] = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="PHOTO is clean: degrade it first, and report PSNR and SSIM.")
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Keep the current estimate in a .preview.png while running.")
    ] = False,
    prior: Annotated[
        str,
        typer.Option(
            help="A bundled prior by name, a .safetensors file, or a pipeline of diffusers: a folder or org/name."
        ),
    ] = "photos",
    prompt: Prompt = None,
    negative: Negative = None,
    scale: Scale = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    checkpointing: Checkpointing = False,
    tiling: Tiling = False,
    no_plan: NoPlan = False,
    tile: Annotated[
        str, typer.Option(help="Cut the network call into tiles of so many pixels: auto, 0 (never) or a number.")
    ] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Give back what was measured exactly as it was, noise and all; linear operators."),
    ] = False,
    warm: Annotated[
        float | None,
        typer.Option(
            metavar="TIME", help="Begin from the photograph at this time, 0.2 to 0.5 say, not from noise at 0."
        ),
    ] = None,
    codec_error: Annotated[
        bool, typer.Option("--codec-error", help="Add to --std what the prior's decoder cannot say.")
    ] = False,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the .resume.safetensors of a stopped run; all else is in it.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Of each picture, each by a seed of its own; in a batch.")] = 1,
    rows: Annotated[
        str, typer.Option(help="Pictures of a batch that go through the network together: a number, or auto.")
    ] = "1",
    span: Annotated[
        str | None,
        typer.Option("--range", metavar="BLACK,WHITE", help="What values of a stack (.npy, .npz, .h5) mean, 0,1 say."),
    ] = None,
    ray: Ray = None,
    workers: Workers = None,
    cores_per_worker: Cores = 1,
    retry: Retry = False,
    dry_run: DryRun = False,
) -> None:
    if resume is not None:
        beside = {name for name in context.params if typed(context, name)} - {"resume", "preview"}
        if beside:
            bad("--resume takes all settings from its file; give nothing beside it but --preview")
        from ...app.restore.run import resume as go_on

        go_on(resume, preview=preview, say=typer.echo)
        return
    from ...app.models.doctor import check_deepinv

    check_deepinv()
    from ... import operators
    from ...app.batch.items import is_glob
    from ...app.files import stacks as sources
    from ...app.models import opening as models
    from ...app.options.signature import pick
    from ...app.options.words import flags, sort_words
    from ...app.restore.presets import preset
    from ...app.restore.run import METHODS, settle, start

    names = ", ".join(f.__name__ for f in operators.ALL)
    if operator is None:
        bad(f"--operator is missing: what was done to the photograph; one of {names}")
    builder = pick("operator", str(operator), operators.ALL)
    usual = models.METHOD if models.is_pipeline(prior) else preset(builder.__name__, 1.0)[0]
    chosen = pick("method", method or usual, METHODS)
    mine = own(restore)
    photos, given = sort_words(words or [], flags({"operator": builder, "method": chosen}, mine), mine)
    if not photos:
        bad("expected one photograph, or a folder of them, got none")
    if tile != "auto" and not tile.isdecimal():
        bad(f"--tile: expected auto, 0 or a number of pixels, got {tile!r}")
    if rows != "auto" and (not rows.isdecimal() or not int(rows)):
        bad(f"--rows: expected auto or a number of at least 1, got {rows!r}")
    many = len(photos) > 1 or Path(photos[0]).is_dir() or sources.is_many(photos[0]) or is_glob(photos[0])
    if many or samples > 1 or retry or dry_run or ray is not None:
        if preview:
            bad("--preview is for one photograph; a batch writes each result as soon as it is there")
        from ...app.batch.request import of_words

        described = of_words(context.params, photos, given, builder, chosen)
        _batch(described, retry, dry_run, ray, workers, cores_per_worker)
        return
    settings = settle(
        Path(photos[0]),
        builder.__name__,
        given=given,
        method=method,
        steps=steps,
        std=std,
        seed=seed,
        prior=prior,
        simulate=simulate,
        out=out,
        threads=threads,
        device=device,
        tile=None if tile == "auto" else int(tile),
        model={
            "prompt": prompt, "negative": negative, "scale": scale, "dtype": dtype, "quantize": quantize,
            "checkpointing": checkpointing, "tiling": tiling, "no_plan": no_plan,
        },
        keep=keep,
        warm=warm,
        codec_error=codec_error,
    )  # fmt: skip
    start(settings, preview=preview, say=typer.echo)


@app.command("batch")
def batch_(
    job: Annotated[
        Path | None,
        typer.Argument(
            metavar="JOB.json", help="The description, JSON or YAML; paths in it are relative to its folder."
        ),
    ] = None,
    retry: Retry = False,
    dry_run: DryRun = False,
    ray: Ray = None,
    workers: Workers = None,
    cores_per_worker: Cores = 1,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of descriptions, and stop.")] = False,
) -> None:
    """Restore many pictures as a JSON or YAML file describes; killed at any moment, the same command goes on (status 1: some have failed).

    flowhelm batch job.json --ray auto
    """
    from ...app.batch import request as description

    if schema:
        import json

        typer.echo(json.dumps(description.schema(), indent=2, ensure_ascii=False))
        return
    if job is None:
        bad("name a description: flowhelm batch JOB.json; flowhelm restore FOLDER --operator ... --dry-run prints one")
    _batch(description.read(cast("Path", job)), retry, dry_run, ray, workers, cores_per_worker)


def _batch(
    described: dict[str, Any], retry: bool, dry_run: bool, ray: str | None, workers: int | None, cores: int
) -> None:
    from ...app.batch.ray import Where
    from ...app.batch.run import batch, outlook

    if ray is None and workers is not None:
        bad("--workers is for --ray; give --ray auto beside it")

    if dry_run:
        import json

        typer.echo(json.dumps(described, indent=2, sort_keys=True, ensure_ascii=False))
        typer.echo(outlook(described), err=True)
    elif not batch(described, retry=retry, ray=Where(ray, workers, cores) if ray else None, say=typer.echo):
        raise typer.Exit(1)


@app.command()
def rerun(
    run: Annotated[
        Path, typer.Argument(metavar="RUN.json", help="The .run.json that a run wrote, or a batch's manifest.jsonl.")
    ],
    item: Annotated[str | None, typer.Option(help="Of a manifest: name of a picture, or of its result.")] = None,
) -> None:
    """Run again what a JSON file describes, and say whether the result is identical."""
    if item is not None or run.suffix == ".jsonl":
        from ...app.batch.run import rerun as item_again

        if not item_again(run, item or "", say=typer.echo):
            raise typer.Exit(1)
        return
    from ...app.files.atomic import get_run

    old = get_run(run)
    if "photo" in old["settings"]:
        from ...app.restore.run import rerun as again

        same = again(run, say=typer.echo)
    else:
        from ...app.steer.run import rerun as steered_again

        same = steered_again(run, old, say=typer.echo)
    if not same:
        raise typer.Exit(1)
