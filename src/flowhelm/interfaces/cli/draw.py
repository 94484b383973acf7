"""The commands that draw pictures: as the prior does, or steered."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .shell import Checkpointing, Dtype, Negative, NoPlan, Prompt, Quantize, Scale, Tiling, app, bad, own

_DRAW = (
    "Draw pictures from a prior.\n\n"
    "flowhelm sample fashion --class coat --class bag -n 8\n\n"
    "flowhelm sample aerial --prompt 'bright forest, river' --number detail=0.06 --scale 5\n\n"
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
    negative: Negative = None,
    scale: Annotated[
        float | None, typer.Option(help="Of guidance: 1 is none; for cfg, 1.5 to 4; default: the prior's own.")
    ] = None,
    guidance: Annotated[
        str | None,
        typer.Option(help="cfg, raag or cfg_zero; default: cfg, or the pipeline's own rule."),
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
    dtype: Dtype = None,
    quantize: Quantize = None,
    tiling: Tiling = False,
    no_plan: NoPlan = False,
) -> None:
    from ...app.draw.sample import numbers_of
    from ...app.draw.sample import sample as run
    from ...app.models import opening as models

    only: dict[str, Any] = {
        "negative": negative,
        "dtype": dtype,
        "quantize": quantize,
        "tiling": tiling,
        "no_plan": no_plan,
    }
    if models.is_pipeline(prior):
        if classes or number:
            bad(f"--{'class' if classes else 'number'} is for bundled priors; say it in the --prompt")
        from ...app.draw.pipelines import generate

        generate(
            prior, size=size, guidance=guidance, steps=steps, solver=solver, seed=seed, count=count, out=out, folder=each,
            device=device, threads=threads, model=only | {"prompt": prompt, "scale": scale}, say=typer.echo,
        )  # fmt: skip
        return
    models.settled(prior, device=device, **only)  # says which of these it does not take
    if size is not None:
        bad(f"--size is for pipelines of diffusers; the prior {prior!r} has its own")
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
    prompt: Prompt = None,
    number: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A number; may be given several times.")
    ] = None,
    negative: Negative = None,
    scale: Scale = None,
    guidance: Annotated[
        str | None,
        typer.Option(help="cfg, raag or cfg_zero; default: none, or cfg with --scale; of a pipeline, its own rule."),
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
    dtype: Dtype = None,
    quantize: Quantize = None,
    checkpointing: Checkpointing = False,
    tiling: Tiling = False,
    no_plan: NoPlan = False,
) -> None:
    from ... import steer
    from ...app.options.signature import pick
    from ...app.options.words import flags, sort_words
    from ...app.steer.run import settle, start

    if not words or words[0].startswith("-"):
        bad("name a prior first: flowhelm steer fashion --class bag --reward brightness")
    prior, *others = words or []
    mine = own(steer_, "class", "n")
    rest, given = sort_words(others, flags({"method": pick("method", method, steer.ALL)}, mine), mine)
    if rest:
        bad(f"expected one prior and options, got also {' '.join(rest)}")
    settings = settle(
        prior, method=method, given=given.get("method", {}), reward=reward or (), held_out=held_out or (), budget=budget, steps=steps,
        chains=chains, classes=classes or (), prompt=prompt, numbers=number or (), scale=scale, guidance=guidance, size=size,
        count=count, seed=seed, batch=batch, out=out, device=device, reward_device=reward_device, threads=threads,
        model={
            "negative": negative, "dtype": dtype, "quantize": quantize, "checkpointing": checkpointing, "tiling": tiling,
            "no_plan": no_plan,
        },
    )  # fmt: skip
    start(settings, say=typer.echo)
