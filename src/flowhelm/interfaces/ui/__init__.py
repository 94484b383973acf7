"""The local page, `flowhelm ui`: what the command line does, in a browser of this machine.

    serve     checks what was asked for, opens the page and waits                    (this file)
    page      the tabs, made of gradio's components; nothing is computed there
    wanted    what the components say -> settings of `job` and `steer`, the command line's own
    work      one run in a thread: watched, stopped, one at a time
    folder    the run folder: names, uploads, history
    guard     what a browser may ask for at all

Everything goes through `job.settle`, `job.start`, `steer.settle` and `steer.start`, so that a run of the page is that of the command
line with the same settings, to the bit.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ...app.errors import BadInput
from ...app.files.pictures import check_writable

MEGAPIXELS = 16.0
UPLOAD = 64  # MB
WAITING = 2
"""Runs that may wait for the device, beside the one that has it."""
USUAL = ("photos", "fashion", "aerial", "animals")


class Wanted(NamedTuple):
    """What the page is to be, checked by `checked`."""

    host: str
    port: int
    password: str | None
    runs: Path
    device: str
    threads: int
    priors: Sequence[str]
    megapixels: float
    upload: int
    waiting: int


def checked(
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    password: str | None = None,
    runs: Path = Path("flowhelm-runs"),
    device: str = "cpu",
    threads: int | None = None,
    priors: Sequence[str] = (),
    megapixels: float = MEGAPIXELS,
    upload: int = UPLOAD,
    waiting: int = WAITING,
) -> Wanted:
    """Says what cannot be, before anything listens, and makes the run folder.

    Raises:
        BadInput: an address beyond this machine without a password; a run folder that holds more than runs; a device or a prior that is
            not there.
    """
    import torch

    from ...app.models import opening as models
    from ...app.models.device import to_device
    from ...priors import bundled

    if not loopback(host) and not password:
        raise BadInput(
            f"--host {host} lets other machines in: give a --password, or set FLOWHELM_PASSWORD; 127.0.0.1 needs none"
        )
    if not 0 < port < 65536:
        raise BadInput(f"--port: expected 1 to 65535, got {port}")
    if megapixels <= 0 or upload <= 0:
        raise BadInput("--max-megapixels and --max-upload: expected numbers above 0")
    where = runs.expanduser().resolve()
    for other, what in ((Path.home(), "your home"), (Path.cwd(), "this folder")):
        if other.resolve().is_relative_to(where):
            raise BadInput(
                f"--runs {str(runs)!r} holds {what}: all in the run folder can be had through the page; name a folder of its own"
            )
    to_device(device)
    for prior in priors:
        models.settled(prior, device=device)
        if not models.is_pipeline(prior):
            bundled.load(prior)
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--runs {str(runs)!r} cannot be made ({error.strerror}); choose another folder") from error
    check_writable(where)
    named = list(dict.fromkeys([*priors, *USUAL]))
    return Wanted(
        host,
        port,
        password or None,
        where,
        device,
        threads or torch.get_num_threads(),
        named,
        megapixels,
        upload,
        waiting,
    )


def loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@contextmanager
def opened(wanted: Wanted, *, browser: bool = False) -> Iterator[str]:
    """The page while it is open: its address."""
    with tempfile.TemporaryDirectory(prefix="flowhelm-ui-") as uploads:
        # gradio reads these when it is imported, and the last whenever it takes a file
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", GRADIO_TEMP_DIR=uploads)
        try:
            import gradio as gr
            from PIL import Image
            from starlette.middleware import Middleware
        except ImportError as error:
            raise BadInput(f"the page needs {error.name}: pip install 'flowhelm[ui]'") from error
        from .guard import Guard
        from .page import CSS, page
        from .work import Desk

        desk = Desk(wanted.waiting)
        # gradio decodes what a forged request calls a painted picture; Pillow refuses twice as many pixels as this
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, int(wanted.megapixels * 1e6)
        demo = page(wanted, desk)
        # runs wait in it once the desk has let them; the other events are gone in no time
        demo.queue(max_size=wanted.waiting + 30, default_concurrency_limit=1)
        system = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # of the machine: nothing is fetched
        theme = gr.themes.Soft(primary_hue="indigo", neutral_hue="slate", font=system[0], font_mono=system[1])
        theme.set(
            block_title_background_fill="none", block_title_padding="0", block_title_text_color="*neutral_700",
            block_label_text_color="*neutral_600", block_label_background_fill="*neutral_100", checkbox_border_color="*neutral_400",
            block_border_width="1px", block_shadow="none",
        )  # fmt: skip
        try:
            try:
                _, address, _ = demo.launch(
                    server_name=f"[{wanted.host}]" if ":" in wanted.host.strip("[]") else wanted.host,
                    server_port=wanted.port,
                    auth=None if wanted.password is None else _asks(wanted.password),
                    auth_message="The password was set where the page was started; any name will do.",
                    allowed_paths=[str(wanted.runs)],
                    max_file_size=wanted.upload * 1_000_000,
                    app_kwargs={"middleware": [Middleware(Guard, local=loopback(wanted.host))]},
                    theme=theme,
                    css=CSS,
                    favicon_path=None,
                    inbrowser=browser,
                    footer_links=[],
                    # each of these has an environment variable that would win over the default
                    share=False, ssr_mode=False, mcp_server=False, run_history=False, num_workers=0, root_path="", pwa=False,
                    enable_monitoring=False, strict_cors=True, show_error=True, quiet=True, prevent_thread_lock=True,
                )  # fmt: skip
            except OSError as error:
                raise BadInput(
                    f"--port {wanted.port} of {wanted.host} cannot be listened on (in use?); choose another --port"
                ) from error
            yield address
        finally:
            Image.MAX_IMAGE_PIXELS = before
            desk.stop()
            demo.close(verbose=False)


def serve(wanted: Wanted, *, browser: bool, say: Callable[[str], None]) -> None:
    """Opens the page and waits for Ctrl-C."""
    from ...app.run import signals

    with signals(), opened(wanted, browser=browser) as address:
        say(f"flowhelm is at {address} (Ctrl-C ends it); runs are kept in {wanted.runs}")
        if wanted.password is not None:
            say("it asks for the password; the connection is not encrypted, so use it in a network that you trust")
        threading.Event().wait()


def _asks(password: str) -> Any:
    return lambda name, given: secrets.compare_digest(given.encode(), password.encode())
