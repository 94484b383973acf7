"""The command line. torch and all that needs it are imported inside the commands: `--help` must not wait for them."""

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from .. import __version__
from .presets import STD

app = typer.Typer(
    name="flowhelm",
    help="Restore photographs with pre-trained flow-matching models.\n\n"
    "Example:  flowhelm restore photo.jpg --operator deblur --sigma 1.6 --std 0.05",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


_Prompt = Annotated[str | None, typer.Option(help="What the picture shows; for pipelines.")]
_Negative = Annotated[str | None, typer.Option(help="What it does not show; for pipelines that are guided.")]
_Scale = Annotated[float | None, typer.Option(help="Of guidance, for pipelines; default: the pipeline's own.")]
_Dtype = Annotated[
    str | None, typer.Option(help="Of a pipeline's weights: float32, bfloat16 or float16; default: bfloat16 on a GPU.")
]
_Quantize = Annotated[
    str | None,
    typer.Option(help="A pipeline's network in fewer bits: nf4, int8, torchao-int8, quanto-int8 or a .gguf file."),
]
_Checkpointing = Annotated[
    bool, typer.Option("--checkpointing", help="Recompute a pipeline's activations in the backward pass: less memory.")
]
_Tiling = Annotated[
    bool, typer.Option("--tiling", help="Decode in tiles (pipelines): less memory, but not quite the same decoder.")
]
_Retry = Annotated[
    bool, typer.Option("--retry", help="Of a batch: try again what has failed, though nothing has changed.")
]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the description of the batch, and what is left of it; write nothing.")
]

_NoPlan = Annotated[
    bool, typer.Option("--no-plan", help="Do not refuse what will not fit into the GPU (see `flowhelm plan`); try it.")
]


@app.callback(invoke_without_command=True)
def top(
    show_version: Annotated[bool, typer.Option("--version", help="Show the version and leave.", is_eager=True)] = False,
) -> None:
    if show_version:
        typer.echo(f"flowhelm {__version__}")
        raise typer.Exit()


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
    prompt: _Prompt = None,
    negative: _Negative = None,
    scale: _Scale = None,
    dtype: _Dtype = None,
    quantize: _Quantize = None,
    checkpointing: _Checkpointing = False,
    tiling: _Tiling = False,
    no_plan: _NoPlan = False,
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
    retry: _Retry = False,
    dry_run: _DryRun = False,
) -> None:
    if resume is not None:
        typed = {name for name in context.params if _typed(context, name)} - {"resume", "preview"}
        if typed:
            _bad("--resume takes all settings from its file; give nothing beside it but --preview")
        from .job import resume as go_on

        go_on(resume, preview=preview, say=typer.echo)
        return
    from .doctor import check_deepinv

    check_deepinv()
    from .. import operators
    from . import models
    from .job import METHODS, settle, start
    from .options import flags, pick, sort_words
    from .presets import preset

    names = ", ".join(f.__name__ for f in operators.ALL)
    if operator is None:
        _bad(f"--operator is missing: what was done to the photograph; one of {names}")
    builder = pick("operator", str(operator), operators.ALL)
    usual = models.METHOD if models.is_pipeline(prior) else preset(builder.__name__, 1.0)[0]
    chosen = pick("method", method or usual, METHODS)
    own = _own()
    photos, given = sort_words(words or [], flags({"operator": builder, "method": chosen}, own), own)
    if not photos:
        _bad("expected one photograph, or a folder of them, got none")
    if tile != "auto" and not tile.isdecimal():
        _bad(f"--tile: expected auto, 0 or a number of pixels, got {tile!r}")
    if len(photos) > 1 or Path(photos[0]).is_dir() or samples > 1 or retry or dry_run:
        if preview:
            _bad("--preview is for one photograph; a batch writes each result as soon as it is there")
        from .description import of_words

        _batch(of_words(context.params, photos, given, builder, chosen), retry, dry_run)
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
        Path | None, typer.Argument(metavar="JOB.json", help="The description; paths in it are relative to its folder.")
    ] = None,
    retry: _Retry = False,
    dry_run: _DryRun = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of descriptions, and stop.")] = False,
) -> None:
    """Restore many pictures as a JSON file describes; killed at any moment, the same command goes on (status 1: some have failed)."""
    from . import description

    if schema:
        import json

        typer.echo(json.dumps(description.schema(), indent=2, ensure_ascii=False))
        return
    if job is None:
        _bad("name a description: flowhelm batch JOB.json; flowhelm restore FOLDER --operator ... --dry-run prints one")
    _batch(description.read(cast("Path", job)), retry, dry_run)


def _batch(described: dict[str, Any], retry: bool, dry_run: bool) -> None:
    from .batch import batch, outlook

    if dry_run:
        import json

        typer.echo(json.dumps(described, indent=2, sort_keys=True, ensure_ascii=False))
        typer.echo(outlook(described), err=True)
    elif not batch(described, retry=retry, say=typer.echo):
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
        from .batch import rerun as item_again

        if not item_again(run, item or "", say=typer.echo):
            raise typer.Exit(1)
        return
    from .files import get_run

    old = get_run(run)
    if "photo" in old["settings"]:
        from .job import rerun as again

        same = again(run, say=typer.echo)
    else:
        from .steer import rerun as steered_again

        same = steered_again(run, old, say=typer.echo)
    if not same:
        raise typer.Exit(1)


@app.command()
def methods(name: Annotated[str | None, typer.Argument(help="Show this one whole.")] = None) -> None:
    """List the methods, or show one with its options."""
    from .. import restore, steer

    _show("method", name, (*steer.ALL, *restore.ALL))


@app.command("operators")
def operators_(name: Annotated[str | None, typer.Argument(help="Show this one whole.")] = None) -> None:
    """List the operators, or show one with its options."""
    from .. import operators

    _show("operator", name, operators.ALL)


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
    prompt: _Prompt = None,
    dtype: _Dtype = None,
    quantize: _Quantize = None,
    device: Annotated[str, typer.Option(help="Of a pipeline: cpu or cuda.")] = "cpu",
) -> None:
    """Check that everything is in place; with MODEL, whether its sign, time, range and path are right (status 1: they are not)."""
    only: dict[str, Any] = {"prompt": prompt, "dtype": dtype, "quantize": quantize}
    if model is None:
        if pictures is not None or parity:
            word, how = ("parity", "") if parity else ("pictures", " FOLDER")
            _bad(f"--{word} goes with a MODEL: flowhelm doctor {'ORG/NAME' if parity else 'photos'} --{word}{how}")
        from .doctor import doctor as examine

        for what, how in examine(prior):
            typer.echo(f"{what:12} {how}")
        typer.echo("all well")
        return
    from . import models

    if not models.is_pipeline(model):
        models.settled(model, device="cpu", **only)
        if parity or size is not None:
            _bad(
                f"--{'parity' if parity else 'size'} is for pipelines of diffusers (a folder or org/name), not {model!r}"
            )
        _examine(model, pictures)
        return
    from .files import to_device

    sides, device = None if size is None else models.size_of(size), str(to_device(device))
    settings = models.settled(model, device=device, **only) | {"device": device}
    if not parity:
        flow = models.told(models.opened(model, settings, size=sides), settings)
        _examine(model, pictures, flow)
        return
    from .doctor import parity as compared

    lines, good = compared(model, settings, sides, steps)
    for line in lines:
        typer.echo(line)
    if not good:
        raise typer.Exit(1)


def _examine(model: str, pictures: Path | None, flow: Any = None) -> None:
    from .doctor import examine_model

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
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    help="Train a prior by a recipe, or go on training.\n\n"
    "flowhelm train fashion --data fashion_mnist.npz --steps 4000 --out runs/fashion\n\n"
    "Ctrl-C saves everything, and the same command goes on, to the same weights. The folder holds the weights (for "
    "`flowhelm sample`, --prior and --start), the log, its curve and samples.\n\n"
    "Recipes and what they read: photos (--data: zip of photographs; --patch), fashion (--data: fashion_mnist.npz), aerial "
    "(--data: zip of CLASS/*.jpg; --split: JSON that names the test pictures), animals (--data: zip of train/CLASS/*.JPEG and "
    "val/CLASS/*.JPEG). All take --batch and --seed.",
)
def train(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE --data FILE [--OPTION VALUE]...", help="The recipe, and its own options."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; default: runs/RECIPE.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the optimiser; default: the recipe's.")] = None,
    rate: Annotated[float | None, typer.Option(help="Highest learning rate; default: the recipe's.")] = None,
    minutes: Annotated[float, typer.Option(min=0, help="Between checkpoints.")] = 3.0,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16; for GPUs that have it.")] = False,
    compiled: Annotated[bool, typer.Option("--compiled", help="torch.compile the network.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log for TensorBoard, too.")] = False,
    start: Annotated[
        str | None, typer.Option(help="Begin from these weights: a bundled prior by name, or a .safetensors file.")
    ] = None,
) -> None:
    from .. import recipes
    from .options import flags, pick, sort_words
    from .train import train as run

    names = ", ".join(f.__name__ for f in recipes.ALL)
    if not words or words[0].startswith("-"):
        _bad(f"name a recipe first, one of {names}: flowhelm train fashion --data fashion_mnist.npz")
    name, *others = words or []
    own = [*(p for p in inspect.signature(train).parameters if p not in ("context", "words")), "help"]
    rest, given = sort_words(others, flags({"recipe": pick("recipe", name, recipes.ALL)}, own), own)
    if rest:
        _bad(f"expected one recipe and its options, got also {' '.join(rest)}")
    run(
        name,
        given["recipe"],
        out=out,
        steps=steps,
        rate=rate,
        minutes=minutes,
        bf16=bf16,
        compiled=compiled,
        device=device,
        threads=threads,
        tensorboard=tensorboard,
        start=start,
        say=typer.echo,
    )


_DRAW = (
    "Draw pictures from a prior.\n\n"
    "flowhelm sample fashion --class coat --class bag -n 8\n\n"
    "flowhelm sample aerial --prompt 'bright forest, river' --number detail=0.06 --scale 2\n\n"
    "flowhelm sample stabilityai/stable-diffusion-3.5-medium --prompt 'a lighthouse' --size 768x1024 --device cuda\n\n"
    "A sheet by default; without --class, --prompt or --number a row for each class. Picture number i of a seed is the "
    "same whatever else is drawn."
)


@app.command("generate", help=_DRAW)
@app.command(help=_DRAW)
def sample(
    prior: Annotated[
        str,
        typer.Argument(
            help="Bundled by name (see `flowhelm priors`), a .safetensors file, or a pipeline: folder or org/name."
        ),
    ],
    classes: Annotated[list[str] | None, typer.Option("--class", help="A class; may be given several times.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Words in any order; for pipelines, any text.")] = None,
    number: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A number; may be given several times.")
    ] = None,
    negative: _Negative = None,
    scale: Annotated[
        float | None, typer.Option(help="Of guidance: 1 is none; for cfg, 1.5 to 4; default of pipelines: their own.")
    ] = None,
    guidance: Annotated[
        str | None,
        typer.Option(help="cfg, raag or cfg_zero; default: cfg if --scale is given, or the pipeline's own rule."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the solver.")] = 25,
    size: Annotated[
        str | None, typer.Option(metavar="HEIGHTxWIDTH", help="Of a pipeline's pictures; default: its own.")
    ] = None,
    solver: Annotated[str, typer.Option(help="euler, midpoint or heun.")] = "euler",
    seed: Annotated[int, typer.Option(help="The same seed gives the same pictures.")] = 0,
    count: Annotated[
        int | None,
        typer.Option(
            "-n", min=1, help="Pictures (of each class); default: 16, of several classes 8 each, of a pipeline 1."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The sheet, a PNG; default: PRIOR.samples.png.")] = None,
    each: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write each picture here (and a sheet only with --out).")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's.")] = None,
    dtype: _Dtype = None,
    quantize: _Quantize = None,
    tiling: _Tiling = False,
    no_plan: _NoPlan = False,
) -> None:
    from . import models
    from .sample import numbers_of
    from .sample import sample as run

    only: dict[str, Any] = {
        "negative": negative,
        "dtype": dtype,
        "quantize": quantize,
        "tiling": tiling,
        "no_plan": no_plan,
    }
    if models.is_pipeline(prior):
        if classes or number:
            _bad(f"--{'class' if classes else 'number'} is for bundled priors; say it in the --prompt")
        from .generate import generate

        generate(
            prior, size=size, guidance=guidance, steps=steps, solver=solver, seed=seed, count=count, out=out, folder=each,
            device=device, threads=threads, model=only | {"prompt": prompt, "scale": scale}, say=typer.echo,
        )  # fmt: skip
        return
    models.settled(prior, device=device, **only)  # says which of these it does not take
    if size is not None:
        _bad(f"--size is for pipelines of diffusers; the prior {prior!r} has its own")
    run(
        prior,
        classes=classes or (),
        prompt=prompt,
        numbers=numbers_of(number or []),
        scale=scale,
        guidance=guidance,
        steps=steps,
        solver=solver,
        seed=seed,
        count=count,
        out=out,
        folder=each,
        device=device,
        threads=threads,
        say=typer.echo,
    )


@app.command(
    "steer",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    help="Draw pictures that a reward likes.\n\n"
    "flowhelm steer fashion --class bag --reward brightness --method fk --strength 50 --transition glass --budget 400\n\n"
    "flowhelm steer stabilityai/stable-diffusion-3.5-medium --prompt 'two cups' --reward clip:model=openai/clip-vit-large-patch14 "
    "--held-out aesthetic:model=openai/clip-vit-large-patch14,head=head.safetensors --method svdd --budget 300 --device cuda\n\n"
    "PRIOR as for `flowhelm sample`; options of the method (`flowhelm methods NAME`) are given here like any other.\n\n"
    "A reward is [WEIGHT*]NAME[:option=value,...], several are added up: brightness, colourfulness, compressibility, palette, clip, "
    "pickscore, hps, image_reward, aesthetic, vqa, style, classifier; FILE.safetensors of a classifier; or FILE.py:FUNCTION, which "
    "runs that code.\n\n"
    "The budget, evaluations of the network per picture, chooses steps and particles (draws, rounds, chains) where they are not given; "
    "what was chosen is printed. Writes OUT.best.png (the best so far at any moment), OUT.sheet.png, OUT.curve.png and OUT.run.json, "
    "for `flowhelm rerun`. Ctrl-C leaves the best so far.",
)
def steer_(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="PRIOR [--OPTION VALUE]...", help="The prior, and options of the method."),
    ] = None,
    reward: Annotated[
        list[str] | None, typer.Option(metavar="[WEIGHT*]NAME[:option=value,...]", help="Several may be given.")
    ] = None,
    held_out: Annotated[
        list[str] | None, typer.Option(metavar="[WEIGHT*]NAME[...]", help="Reported beside it, never optimised.")
    ] = None,
    method: Annotated[str, typer.Option(help="A method that needs a reward only: see `flowhelm methods`.")] = "fk",
    budget: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Evaluations of the network per picture; default: 200, or none if particles, draws ... are given.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the grid; default: by the budget.")] = None,
    chains: Annotated[
        int | None,
        typer.Option(min=1, help="Independent runs per picture, of which the best is kept; they share the budget."),
    ] = None,
    classes: Annotated[list[str] | None, typer.Option("--class", help="A class; may be given several times.")] = None,
    prompt: _Prompt = None,
    number: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A number; may be given several times.")
    ] = None,
    negative: _Negative = None,
    scale: _Scale = None,
    guidance: Annotated[
        str | None, typer.Option(help="cfg, raag or cfg_zero; default: as for `flowhelm sample`.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="HEIGHTxWIDTH", help="Of a pipeline's pictures; default: its own.")
    ] = None,
    count: Annotated[int, typer.Option("-n", min=1, help="Pictures (of each class), each steered by itself.")] = 1,
    seed: Annotated[int, typer.Option(help="The same seed gives the same pictures.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Beginning of the names of what is written; default: PRIOR.steered.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Rows that network, decoder and reward see at a time; default: 1 for pipelines."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    reward_device: Annotated[str | None, typer.Option(help="Of models that score; default: that of the prior.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's.")] = None,
    dtype: _Dtype = None,
    quantize: _Quantize = None,
    checkpointing: _Checkpointing = False,
    tiling: _Tiling = False,
) -> None:
    from .. import steer
    from .options import flags, pick, sort_words
    from .steer import settle, start

    if not words or words[0].startswith("-"):
        _bad("name a prior first: flowhelm steer fashion --class bag --reward brightness")
    prior, *others = words or []
    own = [*(p for p in inspect.signature(steer_).parameters if p not in ("context", "words")), "class", "n", "help"]
    rest, given = sort_words(others, flags({"method": pick("method", method, steer.ALL)}, own), own)
    if rest:
        _bad(f"expected one prior and options, got also {' '.join(rest)}")
    settings = settle(
        prior, method=method, given=given.get("method", {}), reward=reward or (), held_out=held_out or (), budget=budget, steps=steps,
        chains=chains, classes=classes or (), prompt=prompt, numbers=number or (), scale=scale, guidance=guidance, size=size,
        count=count, seed=seed, batch=batch, out=out, device=device, reward_device=reward_device, threads=threads,
        model={
            "negative": negative, "dtype": dtype, "quantize": quantize, "checkpointing": checkpointing, "tiling": tiling,
        },
    )  # fmt: skip
    start(settings, say=typer.echo)


@app.command(
    help="Compare methods: prior x task x method x picture x seed, one row each.\n\n"
    "flowhelm bench --data photos.zip --folder CBSD68 --images 20 --size 128 --prior photos --protocol pnp_flow "
    "--method pnp_flow --method 'mpc_flow:horizon=2,inner=adam:iterations=8,label=K=2' --evaluations 100 --out rows.csv\n\n"
    "Rows are appended to --out as they are finished, and the same command goes on where it was stopped. Protocols: pnp_flow, "
    "photographs, nonlinear; the exact one is `python -m flowhelm.bench.posterior`.\n\n"
    "A method is NAME or NAME:option=value,... with its own options (`flowhelm methods NAME`), steps=N and label=TEXT. Options that "
    "are not given are those of the nearest preset, or else the method's defaults.\n\n"
    "Cost is counted: evaluations of the network per picture, and those that were differentiated."
)
def bench(
    data: Annotated[Path, typer.Option(help="Zip archive or folder of pictures, or an .npz of arrays.")],
    folder: Annotated[str, typer.Option(help="Part of the archive; of an .npz, the array.")] = "",
    images: Annotated[int, typer.Option(min=1, help="How many, by name.")] = 20,
    size: Annotated[int | None, typer.Option(min=8, help="Side of the centre crops; default: the prior's.")] = None,
    skip: Annotated[int, typer.Option(help="Leave out so many first; below 0: begin so many before the end.")] = 0,
    spread: Annotated[bool, typer.Option("--spread", help="Evenly spaced by name, not the first ones.")] = False,
    prior: Annotated[list[str] | None, typer.Option(help="Bundled or a file; several may be given.")] = None,
    protocol: Annotated[str, typer.Option(help="pnp_flow, photographs or nonlinear.")] = "pnp_flow",
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="Of the protocol, or OPERATOR:option=value,std=S; default: all of it."),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(metavar="NAME[:option=value,...]", help="Several may be given; default: all.")
    ] = None,
    baselines: Annotated[bool, typer.Option(help="Also restore without a prior.")] = True,
    steps: Annotated[int | None, typer.Option(min=1, help="Of every method; default: its preset's, or 50.")] = None,
    evaluations: Annotated[
        float | None,
        typer.Option(min=1, help="As many steps as cost nearest to this: evaluations + 2 for each differentiated one."),
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="As many steps as take about so long per picture.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many, from 0.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 4,
    presets: Annotated[list[Path] | None, typer.Option(help="Preset files to look at before those that ship.")] = None,
    defaults: Annotated[bool, typer.Option("--defaults", help="No presets: the methods' own defaults.")] = False,
    reference: Annotated[str | None, typer.Option(help="Of the margins, a label; default: the best baseline.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report, too.")] = None,
    lpips: Annotated[
        Path | None, typer.Option(help="Weights (flowhelm.bench.perceptual says which) for LPIPS.")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Do again what has failed.")] = False,
    out: Annotated[Path, typer.Option(help="Rows: .csv, or .parquet (a folder).")] = Path("bench.csv"),
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    from .bench import Budget
    from .bench import bench as run

    run(
        prior=prior or ["photos"],
        protocol=protocol,
        task=task or [],
        method=method or [],
        data=data,
        folder=folder,
        images=images,
        size=size,
        skip=skip,
        spread=spread,
        seeds=seeds,
        budget=Budget(steps, evaluations, seconds),
        presets=presets or [],
        defaults=defaults,
        baselines=baselines,
        batch=batch,
        reference=reference,
        report=report,
        lpips=lpips,
        retry=retry,
        out=out,
        threads=threads,
        device=device,
        command=_command(),
        say=typer.echo,
    )


@app.command()
def table(
    rows: Annotated[Path, typer.Argument(help="What `flowhelm bench` wrote.")],
    reference: Annotated[str | None, typer.Option(help="Of the margins, a label; default: the best baseline.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report, too.")] = None,
) -> None:
    """Show the rows of a benchmark: means with 95 % intervals over pictures, and margins over a reference."""
    from .bench import show

    show(rows, reference=reference, report=report, command=_command(), say=typer.echo)


presets_app = typer.Typer(no_args_is_help=True, help="Settings of methods that were searched for.")
app.add_typer(presets_app, name="presets")


@presets_app.command(
    help="Search for the few strengths of methods, on pictures held apart from training and from tests.\n\n"
    "flowhelm presets search --method pnp_flow --operator deblur:border=circular --std 0.05 --data bsds400.zip --skip -24 --images 8 "
    "--size 64 --out presets.json\n\n"
    "Optuna's TPE, seeded; the default is the first trial, and the same command goes on where it was stopped. Options given in "
    "NAME:option=value,... stay. Without --vary every positive number is searched, from a tenth to ten times its default (a strength "
    "around 1 / std^2)."
)
def search(
    method: Annotated[list[str], typer.Option(metavar="NAME[:option=value,...]", help="Several may be given.")],
    data: Annotated[Path, typer.Option(help="Zip archive or folder of pictures, or an .npz of arrays.")],
    operator: Annotated[
        str | None, typer.Option(metavar="NAME[:option=value,...]", help="Default: all tasks of the protocol.")
    ] = None,
    std: Annotated[float | None, typer.Option(help="Of the noise, in [-1, 1], with --operator.")] = None,
    protocol: Annotated[str, typer.Option(help="pnp_flow, photographs or nonlinear.")] = "pnp_flow",
    task: Annotated[list[str] | None, typer.Option(metavar="TASK", help="Of the protocol.")] = None,
    folder: Annotated[str, typer.Option(help="Part of the archive; of an .npz, the array.")] = "",
    images: Annotated[int, typer.Option(min=1, help="How many, by name.")] = 8,
    size: Annotated[int | None, typer.Option(min=8, help="Side of the centre crops; default: the prior's.")] = None,
    skip: Annotated[int, typer.Option(help="Leave out so many first; below 0: begin so many before the end.")] = 0,
    spread: Annotated[bool, typer.Option("--spread", help="Evenly spaced by name, not the first ones.")] = False,
    prior: Annotated[str, typer.Option(help="Bundled or a file.")] = "photos",
    vary: Annotated[
        list[str] | None, typer.Option(metavar="NAME=LOW:HIGH[:log]|NAME=A|B", help="Search these options only.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="In all, those of an interrupted search among them.")] = 30,
    steps: Annotated[int | None, typer.Option(min=1, help="Default: 50.")] = None,
    evaluations: Annotated[
        float | None, typer.Option(min=1, help="Instead: as many steps as cost nearest to this, as in bench.")
    ] = None,
    score: Annotated[str, typer.Option(help="psnr or ssim, the mean over the pictures.")] = "psnr",
    seed: Annotated[int, typer.Option(help="Of the noise and of the search.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 4,
    out: Annotated[Path, typer.Option(help="Preset file; others that stand in it stay.")] = Path("presets.json"),
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    from .search import search as run

    if score not in ("psnr", "ssim"):
        _bad(f"--score: expected psnr or ssim, got {score!r}")
    run(
        method=method,
        operator=operator,
        std=std,
        protocol=protocol,
        task=task or [],
        prior=prior,
        data=data,
        folder=folder,
        images=images,
        size=size,
        skip=skip,
        spread=spread,
        vary=vary or [],
        trials=trials,
        steps=steps,
        evaluations=evaluations,
        score=cast("Literal['psnr', 'ssim']", score),
        seed=seed,
        batch=batch,
        out=out,
        threads=threads,
        device=device,
        command=_command(),
        say=typer.echo,
    )


@presets_app.command("list")
def list_presets(
    file: Annotated[Path | None, typer.Argument(help="A preset file; default: those that ship.")] = None,
) -> None:
    """Show presets, and what they were found on."""
    from .presets import lines

    for line in lines(file):
        typer.echo(line)


@app.command()
def calibrate(
    prior: Annotated[str, typer.Argument(help="A bundled prior by name, or a .safetensors file.")],
    data: Annotated[
        Path, typer.Option(help="Pictures that it was not trained on: a zip archive, a folder, or an .npz of arrays.")
    ],
    out: Annotated[Path, typer.Option(help="The table, a .json file.")],
    folder: Annotated[str, typer.Option(help="Only this part of the archive or folder (or this array).")] = "",
    images: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 16,
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the centre crops; default: the prior's, at most 128.")
    ] = None,
    points: Annotated[int, typer.Option(min=2, help="Times, from 0 to 1.")] = 50,
    draws: Annotated[int, typer.Option(min=1, help="Of the noise, at each time.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's.")] = None,
) -> None:
    """Measure the error of a prior's velocity at each time: the weights of the method flair, for use in Python."""
    from .calibrate import calibrate as run

    run(
        prior, data, out, folder=folder, images=images, size=size, points=points, draws=draws, seed=seed, device=device,
        threads=threads, say=typer.echo,
    )  # fmt: skip


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
    from .. import operators
    from .options import flags, pick, sort_words
    from .plan import METHODS, run

    own = [*(p for p in inspect.signature(plan_).parameters if p not in ("context", "words")), "json", "help"]
    positional = [word for word in (words or [])[:2] if not word.startswith("-")]
    if len(positional) != 2 or vram is None:
        _bad("expected a model, a method and --vram: flowhelm plan black-forest-labs/FLUX.2-dev mpc_flow --vram 24")
    assert vram is not None
    model, method = positional
    parts = {"operator": pick("operator", operator, operators.ALL), "method": pick("method", method, METHODS)}
    rest, given = sort_words((words or [])[2:], flags(parts, own), own)
    if rest:
        _bad(f"expected a model, a method and options, got also {' '.join(rest)}")
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
    from . import priors as shown

    if name is None:
        if terms:
            _bad("--terms goes with a name: flowhelm priors photos --terms")
        for line in shown.listing():
            typer.echo(line)
        return
    typer.echo(shown.terms(name) if terms else shown.card(name))


@app.command(
    help="Open a page of this machine in the browser: restore, steer, compare, and what was done before.\n\n"
    "flowhelm ui --runs my-runs\n\n"
    "Every run has a folder of its own below --runs, with all that the command line writes. Only this machine reaches the page; "
    "--host 0.0.0.0 --password ... lets others in. Needs the extra ui of flowhelm."
)
def ui(
    port: Annotated[int, typer.Option(help="Of the page.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs a password.")
    ] = "127.0.0.1",
    password: Annotated[
        str | None, typer.Option(envvar="FLOWHELM_PASSWORD", help="Asked for by the page.", show_envvar=True)
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder for the runs.")] = Path("flowhelm-runs"),
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    prior: Annotated[
        list[str] | None,
        typer.Option(help="Offer this one, too: a .safetensors file or a pipeline of diffusers; several may be given."),
    ] = None,
    max_megapixels: Annotated[float, typer.Option(help="Of an uploaded picture; held before it is decoded.")] = 16.0,
    max_upload: Annotated[int, typer.Option(metavar="MB", help="Of an uploaded file.")] = 64,
    waiting: Annotated[int, typer.Option(min=1, help="Runs that may wait for the device; one more is refused.")] = 2,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's.")] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    from . import ui as page

    wanted = page.checked(
        host=host, port=port, password=password, runs=runs, device=device, threads=threads, priors=prior or (),
        megapixels=max_megapixels, upload=max_upload, waiting=waiting,
    )  # fmt: skip
    page.serve(wanted, browser=browser, say=typer.echo)


def _command() -> str:
    """What was typed, to be kept: without the folders of this machine."""
    import shlex

    def short(word: str) -> str:
        name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        return name + equals + (Path(value).name if Path(value).is_absolute() else value)

    return shlex.join(["flowhelm", *map(short, sys.argv[1:])])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 2 for bad input, 130 for Ctrl-C, 1 for what else went wrong."""
    usage_error = cast(
        "type[typer.BadParameter]", typer.BadParameter.__mro__[1]
    )  # where Typer keeps it depends on its version
    try:
        status = app(args=None if arguments is None else list(arguments), prog_name="flowhelm", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except usage_error as error:
        return _fail(error.format_message(), 2)
    except ValueError as error:
        return _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except SystemExit as error:  # stopped by a signal, all saved
        return int(error.code or 0)
    except RuntimeError as error:
        return _failed(error)


def _failed(error: RuntimeError) -> int:
    """One sentence for the failures that have one; any other is a fault of the program and keeps its traceback."""
    from ..step import Diverged
    from .doctor import Broken

    if isinstance(error, Broken | Diverged):
        return _fail(str(error), 1)
    from torch import OutOfMemoryError

    if isinstance(error, OutOfMemoryError):
        return _fail(
            "the GPU ran out of memory; `flowhelm plan PRIOR METHOD --vram GIB` says what would fit, and of a bundled prior --tile 512 "
            "cuts the network",
            1,
        )
    if any(sign in str(error).lower() for sign in ("out of memory", "can't allocate memory", "not enough memory")):
        return _fail("there is not enough memory for this picture; use --tile 512, or scale it down", 1)
    raise error


def _own() -> list[str]:
    """Options of `restore` itself."""
    return [*(name for name in inspect.signature(restore).parameters if name not in ("context", "words")), "help"]


def _typed(context: typer.Context, name: str) -> bool:
    """Whether it was given, not left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _show(part: str, name: str | None, functions: Sequence[object]) -> None:
    from .cards import card, listing
    from .options import pick

    for line in listing(functions) if name is None else card(part, pick(part, name, functions), _own()):  # type: ignore[arg-type]
        typer.echo(line)


def _bad(message: str) -> None:
    raise ValueError(message)


def _fail(message: str, status: int) -> int:
    if message:  # none where Typer has printed its help instead
        print(f"flowhelm: {' '.join(message.split())}", file=sys.stderr)
    return status
