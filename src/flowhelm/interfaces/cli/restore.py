"""The commands that restore: one photograph, a batch, and what was made before again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from pydantic import Field

from ...app.batch.request import BatchRequest, Many, Spread
from ...app.options.own import word as own_word
from ...app.options.request import Request
from ...app.restore.request import RestoreRequest, Underway
from ...known import kind, prior_of
from .progress import carried_out
from .shell import app, bad, typed
from .words import FREE, asks, own

if TYPE_CHECKING:
    from ...app.restore.look import Seen


class RestoreWords(Underway, Spread, Many, RestoreRequest):
    """What `flowhelm restore` takes: one photograph, or a batch."""

    operator: str | None = Field(  # type: ignore[assignment]
        None,
        description="The kind of damage: see `flowhelm operators`. Without it, flowhelm looks at the photograph and decides.",
    )


@app.command(
    context_settings=FREE,
    help="Restore a photograph, a folder or several files.\n\n"
    "flowhelm restore photo.jpg                 looks at it, and repairs what it is sure of\n\n"
    "`flowhelm operators NAME` and `flowhelm methods NAME` list the options of a kind of damage and of a method. "
    "Type them here like any other:\n\n"
    "flowhelm restore photo.jpg --operator superres --factor 4\n\n"
    "If several have an option of the same name, the one below is meant, then the operator's, then the method's; --operator-NAME and "
    "--method-NAME are never ambiguous.\n\n"
    "Ctrl-C saves the estimate so far and a file for --resume. To go on with a batch, type the same command.",
)
@asks(RestoreWords, without=("photo",), words=("PHOTO", "The photograph, and options of operator and method."))
def restore(read: Callable[..., RestoreWords], context: typer.Context, words: list[str]) -> None:
    if context.params["resume"] is not None:
        beside = {name for name in context.params if typed(context, name)} - {"resume", "preview", "out", "trust"}
        if beside:
            bad("--resume takes all settings from its file; give nothing beside it but --preview, --out and --trust")
        from ...app.restore.run import resume as go_on

        kept, out, preview, trust = (context.params[name] for name in ("resume", "out", "preview", "trust"))
        carried_out(go_on(kept, out, preview=preview, trust=trust))
        return
    if context.params["trust"]:
        bad("--trust goes with --resume; code that you type yourself runs without it")
    from ...app.models.request import check_prior
    from ...app.options import sources
    from ...app.options.words import check, flags, sort_words
    from ...app.restore.presets import usual_method

    operator, method, prior, look = (context.params[name] for name in ("operator", "method", "prior", "look"))
    drawn = context.params["samples"] > 1
    believed: dict[str, Any] = {}
    guessed: dict[str, Any] = {}
    if not typed(context, "prior") and (its := prior_of(method)):
        prior = believed["prior"] = its
    if operator is None and (
        context.params["unfade"] or kind(prior) == "paired"
    ):  # a trained restorer looks for itself
        operator = believed["operator"] = "denoise"
    if operator is None and words and len(words) == 1 and Path(words[0]).is_file():
        seen = look_at(words[0])
        if seen.operator is None:
            return
        operator = seen.operator
        believed |= {"operator": operator, "operator_options": dict(seen.options)}
        guessed = seen.method_options if method in (None, "hqs") and look == "faithful" and not drawn else {}
        if context.params["std"] == "auto" and seen.sure is not None:
            believed["std"] = seen.sure
    if operator is None:
        names = ", ".join(sources.names("operator"))
        bad(f"--operator is missing: what was done to the photograph; one of {names}")
    parts = {
        "operator": sources.pick("operator", operator),
        "method": sources.pick("method", method or usual_method(operator, prior, look, drawn=drawn)),
    }
    mine = own(restore)
    photos, chosen = sort_words(words or [], flags(parts, mine), mine)
    chosen["method"] = guessed | chosen.get("method", {})
    if not photos:
        bad("expected one photograph, or a folder of them, got none")
    given = read(**{"photo": photos[0], **{f"{part}_options": chosen.get(part, {}) for part in parts}, **believed})
    # what is wrong is said before torch and the rest are imported, which takes seconds
    for part, function in parts.items():
        check(function, chosen.get(part, {}))
    check_prior(given.prior)
    if len(photos) == 1 and not set("*?[:") & set(photos[0]) and not Path(photos[0]).exists():
        bad(f"{photos[0]!r} does not exist; check the path")
    from ...app.batch.listing import is_glob
    from ...app.files import stacks
    from ...app.models.doctor import check_operator
    from ...app.restore.run import restore as run
    from ...app.restore.settle import settle

    check_operator(given.operator)
    many = len(photos) > 1 or Path(photos[0]).is_dir() or stacks.is_many(photos[0]) or is_glob(photos[0])
    if many or given.samples > 1 or given.retry or given.dry_run or given.ray is not None:
        if given.adapter is not None:
            bad("--adapter is for one photograph; restore those of a batch one after another")
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
    """Say what is wrong with a photograph, and the line to type; `flowhelm restore PHOTO` repairs it."""
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
        typer.Argument(metavar="JOB.json", help="The description, JSON or YAML; its paths are relative to its folder."),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of descriptions, and stop.")] = False,
) -> None:
    """Restore many pictures as a JSON or YAML file describes; after a crash the same command goes on (status 1 if some failed).

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

    if how.ray is not None and (
        code := [w for w in (request.operator, request.method, request.prior) if own_word(w or "")]
    ):
        bad(f"--ray: {code[0]} is code of your own, which runs in this process only; leave out --ray")
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
        Path, typer.Argument(metavar="RUN.json", help="The .run.json of a run, or the manifest.jsonl of a batch.")
    ],
    item: Annotated[
        str | None, typer.Option(metavar="NAME", help="With a manifest: the name of the picture or of its result.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write here, not beside the file.")] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the Python code that the file names, FILE.py:NAME. Read it first.")
    ] = False,
) -> None:
    """Make a result again from its JSON file, and say whether it is identical.

    Python code that the file names runs only with --trust. Results go beside the file, or to --out.
    """
    if not run.exists() and run.suffix != ".jsonl":
        bad(f"{str(run)!r} does not exist; `rerun` takes the .run.json file of a run")
    if item is not None or run.suffix == ".jsonl":
        from ...app.batch.run import rerun as item_again

        same = carried_out(item_again(run, item or "", out, trust=trust))
    else:
        from ...app.files.atomic import raw_run

        if "photo" in raw_run(run)["settings"]:
            from ...app.restore.run import rerun as again

            same = carried_out(again(run, out, trust=trust))
        else:
            from ...app.steer.run import rerun as steered_again

            same = carried_out(steered_again(run, out, trust=trust))
    if not same:
        raise typer.Exit(1)
