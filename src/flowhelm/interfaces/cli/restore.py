"""The commands that restore: one photograph, a batch, and what was made before again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ...app.batch.request import BatchRequest, Many, Spread
from ...app.options.request import Request
from ...app.restore.request import RestoreRequest, Underway
from .progress import carried_out
from .shell import app, bad, typed
from .words import asks, own

if TYPE_CHECKING:
    from ...app.restore.look import Seen


class RestoreWords(Underway, Spread, Many, RestoreRequest):
    """What `flowhelm restore` takes: one photograph, or a batch."""

    operator: str | None = RestoreRequest.model_fields["operator"].merge_field_infos(default=None)  # type: ignore[assignment]


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    help="Restore a photograph, or a batch: a folder or several of them.\n\n"
    "Options of the operator and of the method are listed by `flowhelm operators NAME` and "
    "`flowhelm methods NAME`, and are given here like any other:\n\n"
    "flowhelm restore photo.jpg --operator superres --factor 4\n\n"
    "A name that several have means the one below first, then the operator's, then the method's; --operator-NAME and "
    "--method-NAME always work.\n\nCtrl-C leaves the estimate so far and a file to go on from; a batch goes on by the same command.",
)
@asks(RestoreWords, without=("photo",))
def restore(
    read: Callable[..., RestoreWords],
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="PHOTO [--OPTION VALUE]...", help="The photograph, and options of operator and method."),
    ] = None,
) -> None:
    if context.params["resume"] is not None:
        beside = {name for name in context.params if typed(context, name)} - {"resume", "preview", "out"}
        if beside:
            bad("--resume takes all settings from its file; give nothing beside it but --preview and --out")
        from ...app.restore.run import resume as go_on

        carried_out(go_on(context.params["resume"], context.params["out"], preview=context.params["preview"]))
        return
    from ... import operators
    from ...app.batch.listing import is_glob
    from ...app.files import stacks
    from ...app.models.doctor import check_deepinv
    from ...app.options.words import flags, sort_words
    from ...app.restore.request import function_of
    from ...app.restore.run import restore as run
    from ...app.restore.settle import settle, usual_method

    check_deepinv()
    operator, method, prior, look = (context.params[name] for name in ("operator", "method", "prior", "look"))
    drawn = context.params["samples"] > 1
    believed: dict[str, Any] = {}
    if operator is None and context.params["unfade"]:
        operator = "denoise"
        believed = {"operator": operator}
    if operator is None and words and len(words) == 1 and Path(words[0]).is_file():
        seen = look_at(words[0])
        if seen.operator is None:
            return
        operator = seen.operator
        believed = {"operator": operator} | (
            {"std": seen.std} if context.params["std"] == "auto" and not seen.faded else {}
        )
    if operator is None:
        names = ", ".join(f.__name__ for f in operators.ALL)
        bad(f"--operator is missing: what was done to the photograph; one of {names}")
    parts = {
        "operator": function_of("operator", operator),
        "method": function_of("method", method or usual_method(operator, prior, look, drawn=drawn)),
    }
    mine = own(restore)
    photos, chosen = sort_words(words or [], flags(parts, mine), mine)
    if not photos:
        bad("expected one photograph, or a folder of them, got none")
    given = read(**{"photo": photos[0], **{f"{part}_options": chosen.get(part, {}) for part in parts}, **believed})
    many = len(photos) > 1 or Path(photos[0]).is_dir() or stacks.is_many(photos[0]) or is_glob(photos[0])
    if many or given.samples > 1 or given.retry or given.dry_run or given.ray is not None:
        if given.preview:
            bad("--preview is for one photograph; a batch writes each result as soon as it is there")
        from ...app.batch.description import filled

        out = None if given.out is None else str(given.out)
        described = _part(given, BatchRequest) | {"inputs": photos, "seeds": [given.seed], "out": out}
        _batch(filled(BatchRequest.of(described, "restore", "--"), Path.cwd(), "restore"), given)
        return
    if given.names:
        bad("--names is for a batch; name the result of one photograph by --out")
    request = RestoreRequest.of(_part(given, RestoreRequest), "restore", "--")
    carried_out(run(settle(request), preview=given.preview))


@app.command("look")
def look_(photo: Annotated[str, typer.Argument(help="The photograph.")]) -> None:
    """Say what a photograph seems to have suffered, and the line that would restore it; `flowhelm restore PHOTO` does that."""
    look_at(photo)


def look_at(photo: str) -> "Seen":
    """Looks, and says what is seen."""
    from ...app.restore.look import look

    seen = look(Path(photo))
    typer.echo(f"{Path(photo).name}: {seen.text}")
    typer.echo(seen.line(photo))
    return seen


def _part(given: Request, model: type[Request]) -> dict[str, Any]:
    """Of what was given, the fields of another request."""
    return {name: getattr(given, name) for name in given.model_fields_set if name in model.model_fields}


@app.command("batch")
@asks(Spread)
def batch_(
    read: Callable[..., Spread],
    job: Annotated[
        Path | None,
        typer.Argument(
            metavar="JOB.json", help="The description, JSON or YAML; paths in it are relative to its folder."
        ),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of descriptions, and stop.")] = False,
) -> None:
    """Restore many pictures as a JSON or YAML file describes; killed at any moment, the same command goes on (status 1: some have failed).

    flowhelm batch job.json --ray auto
    """
    from ...app.batch import description

    if schema:
        typer.echo(json.dumps(description.schema(), indent=2, ensure_ascii=False))
        return
    if job is None:
        bad("name a description: flowhelm batch JOB.json; flowhelm restore FOLDER --operator ... --dry-run prints one")
    _batch(description.read_file(cast("Path", job)), read())


def _batch(request: BatchRequest, how: Spread) -> None:
    from ...app.batch.ray import Where
    from ...app.batch.run import batch, outlook

    if how.ray is None and how.workers is not None:
        bad("--workers is for --ray; give --ray auto beside it")
    if how.dry_run:
        typer.echo(json.dumps(request.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False))
        typer.echo(outlook(request), err=True)
        return
    ray = Where(how.ray, how.workers, how.cores_per_worker) if how.ray else None
    if not carried_out(batch(request, retry=how.retry, ray=ray)):
        raise typer.Exit(1)


@app.command()
def rerun(
    run: Annotated[
        Path, typer.Argument(metavar="RUN.json", help="The .run.json that a run wrote, or a batch's manifest.jsonl.")
    ],
    item: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a manifest: the picture's name, or that of its result.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write here, not beside the file.")] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run Python code that the file names: FILE.py:FUNCTION.")
    ] = False,
) -> None:
    """Run again what a JSON file describes, and say whether the result is identical.

    What the file says is data: code that it names is run with --trust only, and nothing is written but beside it or to --out.
    """
    if item is not None or run.suffix == ".jsonl":
        from ...app.batch.run import rerun as item_again

        same = carried_out(item_again(run, item or "", out))
    else:
        from ...app.files.atomic import raw_run

        if "photo" in raw_run(run)["settings"]:
            from ...app.restore.run import rerun as again

            same = carried_out(again(run, out))
        else:
            from ...app.steer.run import rerun as steered_again

            same = carried_out(steered_again(run, out, trust=trust))
    if not same:
        raise typer.Exit(1)
