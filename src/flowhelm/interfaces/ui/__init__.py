"""The local page, `flowhelm ui`: what the command line does, in a browser of this machine.

    request   what may be set for the page
    page      the tabs, made of gradio's components; nothing is computed there
    fields    components that are made from the options of requests, operators and methods
    requests  what the components say -> requests and settings, the command line's own
    running   one run: watched, stopped, one at a time
    work      what the process does in which runs are carried out
    folder    the run folder: names, uploads, history
    results   what came of runs, as pictures and tables

Everything goes through `settle`, `restore` and `steer` of the application, so that a run of the page is that of the command line with
the same settings, to the bit.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ...app.errors import BadInput
from ...known import PHOTOS
from ..guard import loopback, refusal
from ..worker import HEAVY, Worker, allowance
from .request import PageRequest

KEEPING = 10.0
"""Seconds in which a run that was cancelled may keep its last estimate."""
USUAL = (PHOTOS, "photos", "fashion", "aerial", "animals", "fashion-tokens", "blind", "codec")
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "  # gradio's page is made of inline scripts
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
"""Nothing is fetched from elsewhere, whatever the page is made of."""
HEADERS = {
    "content-security-policy": _POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}  # fmt: skip


def checked(request: PageRequest) -> PageRequest:
    """Says what cannot be, before anything listens, makes the run folder, and fills in what was left open.

    Raises:
        BadInput: an address beyond this machine without a password; a run folder that holds more than runs; a device or a prior that is
            not there.
    """
    import torch

    from ...app.files.atomic import check_writable
    from ...app.models import opening
    from ...app.models.device import to_device
    from ...app.models.request import ModelRequest
    from ...priors import bundled

    if not loopback(request.host) and not request.password:
        raise BadInput(
            f"--host {request.host} lets other machines in: give a --password, or set FLOWHELM_PASSWORD; 127.0.0.1 needs none"
        )
    where = request.runs.expanduser().resolve()
    for other, what in ((Path.home(), "your home"), (Path.cwd(), "this folder")):
        if other.resolve().is_relative_to(where):
            raise BadInput(
                f"--runs {str(request.runs)!r} holds {what}, and the page shows all that is in the run folder; name a folder of its own"
            )
    to_device(request.device)
    for prior in request.priors:
        opening.settled(ModelRequest.of({"prior": prior, "device": request.device}, "ui"))
        if not opening.is_pipeline(prior):
            bundled.load(prior)
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"--runs {str(request.runs)!r} cannot be made ({error.strerror}); choose another folder"
        ) from error
    check_writable(where)
    named = list(dict.fromkeys([*request.priors, *USUAL]))
    return request.changed(
        runs=where, password=request.password or None, priors=named, threads=request.threads or torch.get_num_threads()
    )


def page_refusal(path: str, headers: Mapping[str, str], local: bool) -> str | None:
    """`refusal`, and of addresses that gradio would fetch for the caller."""
    asked = unquote(path).lower()
    if "/proxy=" in asked or "/file=http:" in asked or "/file=https:" in asked:
        return refusal(path, headers, local) or "this page fetches nothing from elsewhere"
    return refusal(path, headers, local)


@contextmanager
def opened(request: PageRequest, *, browser: bool = False) -> Iterator[str]:
    """The page while it is open: its address."""
    with tempfile.TemporaryDirectory(prefix="flowhelm-ui-") as uploads:
        # gradio reads these when it is imported, and the last whenever it takes a file
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", GRADIO_TEMP_DIR=uploads)
        try:
            import gradio as gr
            from PIL import Image
            from starlette.middleware import Middleware
            from starlette.responses import PlainTextResponse
        except ImportError as error:
            raise BadInput(f"the page needs {error.name}: pip install 'flowhelm[ui]'") from error
        from ..guard import Guard
        from .page import CSS, page
        from .running import EVERY, Desk
        from .work import opened as at_work

        memory = allowance(request.budget)
        worker = Worker(at_work, memory, memory=memory, every=EVERY, grace=KEEPING, imports=HEAVY)
        worker.begin()  # which takes some seconds, so that the first run need not wait for it
        desk = Desk(request.waiting, worker.run)
        guard = Middleware(
            Guard, local=loopback(request.host), answer=PlainTextResponse, refuses=page_refusal, headers=HEADERS
        )
        # gradio decodes what a forged request calls a painted picture; Pillow refuses twice as many pixels as this
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, int(request.max_megapixels * 1e6)
        demo = page(request, desk)
        # runs wait in it once the desk has let them; the other events are gone in no time
        demo.queue(max_size=request.waiting + 30, default_concurrency_limit=1)
        system = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # of the machine: nothing is fetched
        theme = gr.themes.Soft(primary_hue="indigo", neutral_hue="slate", font=system[0], font_mono=system[1])
        theme.set(
            block_title_background_fill="none", block_title_padding="0", block_title_text_color="*neutral_700",
            block_label_text_color="*neutral_600", block_label_background_fill="*neutral_100", checkbox_border_color="*neutral_400",
            block_border_width="1px", block_shadow="none",
            # a contrast of at least 4.5 : 1 in the light and in the dark
            body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300",
            input_placeholder_color="*neutral_500", input_placeholder_color_dark="*neutral_300",
            color_accent="*primary_600", link_text_color="*primary_700", link_text_color_dark="*primary_300",
            button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700",
            button_primary_background_fill_dark="*primary_600",
            button_secondary_background_fill_dark="*neutral_700", button_cancel_background_fill_dark="*neutral_700",
        )  # fmt: skip
        try:
            try:
                _, address, _ = demo.launch(
                    server_name=f"[{request.host}]" if ":" in request.host.strip("[]") else request.host,
                    server_port=request.port,
                    auth=None if request.password is None else _asks(request.password),
                    auth_message="The password was set where the page was started; any name will do.",
                    allowed_paths=[str(request.runs)],
                    max_file_size=request.max_upload * 1_000_000,
                    app_kwargs={"middleware": [guard]},
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
                    f"--port {request.port} of {request.host} cannot be listened on (in use?); choose another --port"
                ) from error
            yield address
        finally:
            Image.MAX_IMAGE_PIXELS = before
            desk.stop()
            worker.close()
            demo.close(verbose=False)


def serve(request: PageRequest, *, browser: bool, say: Callable[[str], None]) -> None:
    """Opens the page and waits for Ctrl-C."""
    from ...app.run import signals

    with signals(), opened(request, browser=browser) as address:
        say(f"flowhelm is at {address} (Ctrl-C ends it); runs are kept in {request.runs}")
        if request.password is not None:
            say("it asks for the password; the connection is not encrypted, so use it in a network that you trust")
        threading.Event().wait()


def _asks(password: str) -> Any:
    return lambda name, given: secrets.compare_digest(given.encode(), password.encode())
