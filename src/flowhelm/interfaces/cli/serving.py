"""The commands that serve: a page of this machine, and programs over HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from .shell import Checkpointing, Dtype, Negative, NoPlan, Prompt, Quantize, Scale, Tiling, app


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
    from .. import ui as page

    wanted = page.checked(
        host=host, port=port, password=password, runs=runs, device=device, threads=threads, priors=prior or (),
        megapixels=max_megapixels, upload=max_upload, waiting=waiting,
    )  # fmt: skip
    page.serve(wanted, browser=browser, say=typer.echo)


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
    from ..http.serve import Limits
    from ..http.serve import serve as run

    run(
        host, port, prior=prior, device=device, threads=threads, token=token,
        limits=Limits(megabytes, megapixels, seconds, waiting),
        model={
            "prompt": prompt, "negative": negative, "scale": scale, "dtype": dtype, "quantize": quantize,
            "checkpointing": checkpointing, "tiling": tiling, "no_plan": no_plan,
        },
        say=typer.echo,
    )  # fmt: skip
