"""The commands that serve: over HTTP."""

from typing import Annotated

import typer

from .shell import Checkpointing, Dtype, Negative, NoPlan, Prompt, Quantize, Scale, Tiling, app


@app.command(
    help="Restore pictures over HTTP, with one prior that is loaded once.\n\n"
    "flowhelm serve --prior photos --port 8000\n\n"
    "curl -F picture=@photo.jpg -F operator=deblur -F sigma=1.6 -F std=0.03 http://127.0.0.1:8000/restore -o restored.png\n\n"
    "For this machine only, unless --host names another and a token is given, which each request must bear then "
    "(Authorization: Bearer TOKEN). A page that describes every request is at /docs."
)
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen at; one beyond this machine needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 8000,
    prior: Annotated[str, typer.Option(help="As for `flowhelm restore`.")] = "photos",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's.")] = None,
    token: Annotated[
        str | None, typer.Option(envvar="FLOWHELM_TOKEN", help="That requests must bear; better in the environment.")
    ] = None,
    megabytes: Annotated[float, typer.Option(min=0.001, help="Of the largest upload.")] = 64.0,
    megapixels: Annotated[float, typer.Option(min=0.001, help="Of the largest picture, given or made.")] = 16.0,
    seconds: Annotated[float, typer.Option(min=0, help="That a run may take.")] = 600.0,
    waiting: Annotated[int, typer.Option(min=0, help="Requests that may wait for the device; more are refused.")] = 8,
    prompt: Prompt = None,
    negative: Negative = None,
    scale: Scale = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    checkpointing: Checkpointing = False,
    tiling: Tiling = False,
    no_plan: NoPlan = False,
) -> None:
    from ..serve import Limits
    from ..serve import serve as run

    run(
        host, port, prior=prior, device=device, threads=threads, token=token,
        limits=Limits(megabytes, megapixels, seconds, waiting),
        model={
            "prompt": prompt, "negative": negative, "scale": scale, "dtype": dtype, "quantize": quantize,
            "checkpointing": checkpointing, "tiling": tiling, "no_plan": no_plan,
        },
        say=typer.echo,
    )  # fmt: skip
