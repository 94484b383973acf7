"""What the tabs have in common: the buttons, what is shown of a run, and how a click becomes one."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from ...app.run import Stepped
from . import folder
from .fields import QUICK
from .running import EVERY, Desk, Work, sentence

Looks = dict[str, Any]
"""What the components of a tab show next, by their names."""
UNBEGUN = "Stopped before the first step."
WHOLE: dict[str, Any] = {"format": "png", "interactive": False, "buttons": ["fullscreen"]}
"""Pictures that are looked at."""


class Outputs(NamedTuple):
    """What both tabs show of a run; a tab has pictures beside them."""

    status: gr.HTML
    run: gr.Button
    cancel: gr.Button
    take: gr.DownloadButton
    story: gr.DownloadButton


def buttons(verb: str, mark: str, hint: str) -> tuple[gr.Button, gr.Button, gr.HTML]:
    """Those that begin and end a run, and the line that says how it goes; `mark` begins their ids."""
    with gr.Row():
        run = gr.Button(verb, variant="primary", elem_id=f"{mark}run")
        cancel = gr.Button("Cancel", variant="stop", elem_id=f"{mark}cancel", interactive=False)
    return run, cancel, gr.HTML(status_html(hint), elem_id=f"{mark}status")


def downloads(mark: str) -> tuple[gr.DownloadButton, gr.DownloadButton]:
    with gr.Row():
        take = gr.DownloadButton("Save the picture", interactive=False, elem_id=f"{mark}take")
        story = gr.DownloadButton("Save its settings (.run.json)", interactive=False, elem_id=f"{mark}story")
    return take, story


def wire(
    desk: Desk,
    outputs: Outputs,
    pictures: Mapping[str, Any],
    inputs: Mapping[str, Any],
    states: list[gr.State],
    work: Callable[..., Iterator[Looks]],
) -> None:
    """A click becomes a run. `work(values by the names of inputs, *states, who)` yields what is shown, by the names of components."""
    parts = {**outputs._asdict(), **pictures}

    def ask(request: gr.Request) -> tuple[Any, Any]:
        try:
            before = desk.ask(str(request.session_hash))
        except Exception as error:
            raise error_of(error) from None
        text = f"Waiting for the device. Runs before this one: {before}." if before else "Starting ..."
        return status_html(text), gr.update(interactive=True)

    def go(request: gr.Request, *now: Any) -> Iterator[Any]:
        values = dict(zip(inputs, now, strict=False))
        for looks in work(values, *now[len(inputs) :], str(request.session_hash)):
            yield [looks.get(name, gr.skip()) for name in parts]

    def cancel(request: gr.Request) -> Any:
        desk.cancel(str(request.session_hash))
        return gr.update(interactive=False)  # not the status: that may come after the run's own last word

    # not gradio's `cancels`: it drops a run without a last look at what the run leaves
    outputs.cancel.click(cancel, None, [outputs.cancel], **QUICK)
    outputs.run.click(ask, None, [outputs.status, outputs.cancel], **QUICK).success(
        go, [*inputs.values(), *states], list(parts.values()), concurrency_id="device", concurrency_limit=1, trigger_mode="once",
        show_progress="hidden", api_visibility="private",
    )  # fmt: skip


def looks(
    desk: Desk,
    who: str,
    begin: Callable[[], tuple[Path, Any]],
    shows: Callable[[Work], Looks],
    ends: Callable[[Work], Looks | None],
    *,
    opening: Looks,
    several: int = 1,
    every: float = EVERY,
) -> Iterator[Looks]:
    """Carries out a run; what the page is to show, by the names of its components, again and again.

    Args:
        begin: the run's folder, and the job. shows: what is shown of a run that goes on.
        ends: of one that has ended, finished or not; None if it left nothing that can be shown.
        opening: what is shown first. several: results, of which one is made after another.
    """
    at_rest = {"run": gr.update(interactive=True), "cancel": gr.update(interactive=False)}
    nothing = gr.update(value=None, interactive=False)
    try:
        if not desk.turn(who):
            yield {**at_rest, "status": status_html(UNBEGUN)}
            return
        where, job = begin()
        yield {
            "status": status_html("Opening the prior ..."), "take": nothing, "story": nothing,
            "run": gr.update(interactive=False), "cancel": gr.update(interactive=True), **opening,
        }  # fmt: skip
        work = desk.begin(who, job, every)
        for step in work.follow():
            which = f"Sample {work.done + 1} of {several}, " if several > 1 else ""
            yield {"status": progress_html(which, step, work.left, work.outlook), **shows(work)}
        found = ends(work)
        if found is None:
            if not any(where.glob("*.run.json")):
                folder.give_up(where)
            if not work.stopped and work.error is not None:
                raise work.error
            yield {**at_rest, "status": status_html(UNBEGUN)}
            return
        if work.error is not None and work.step is not None:
            reason = (
                f"Stopped after step {work.step.index} of {work.step.total}" if work.stopped else sentence(work.error)
            )
            found["status"] = status_html(f"{reason}; this is the last estimate.")
        yield {**at_rest, **found}
    except Exception as error:
        yield {**at_rest, "status": status_html(sentence(error), "wrong")}
        raise error_of(error) from None


def saved(take: Path, story: Path | None) -> Looks:
    """The files that can be had."""
    known = {"take": take, "story": story}
    return {name: gr.update(value=str(path), interactive=True) for name, path in known.items() if path is not None}


# --- words ---


def error_of(error: BaseException) -> gr.Error:
    """For the page: one sentence, and no markup that a name might bring."""
    return gr.Error(html.escape(spoken(sentence(error)), quote=False), print_exception=False)


def spoken(text: str) -> str:
    """Without the command line, which a page does not have: the names of fields for its flags, and none of its commands."""
    text = re.sub(r"[,;:]? *(?:or )?see (?:what )?`flowhelm[^`]*`(?: says)?", "", text)
    flags = {"std": "Noise"}
    return re.sub(r"--([a-z][a-z-]*)", lambda flag: flags.get(flag[1], flag[1].replace("-", " ").capitalize()), text)


def status_html(text: str, kind: str = "") -> str:
    lines = "".join(f"<p>{html.escape(spoken(line))}</p>" for line in text.splitlines() if line)
    return f'<div class="status {kind}">{lines}</div>'


def summary_html(work: Work) -> str:
    """The lines that a run printed of its result, without how to go on at the command line."""
    return status_html("\n".join(line for line in work.lines if not line.startswith("go on with")))


def progress_html(which: str, step: Stepped, left: str, outlook: str = "") -> str:
    """A bar with the step and the time left; above it, how long the run was expected to take."""
    head = f"{which}step {step.index} of {step.total}"
    text = ", ".join(filter(None, (head, " ".join(step.text.split()), f"{left} left" * (step.index > 0))))
    share = 100 * step.index / max(step.total, 1)
    bar = f'<div class="bar" role="progressbar" aria-valuenow="{share:.0f}"><i style="width: {share:.1f}%"></i></div>'
    first, then = (f"<p>{html.escape(line[0].upper() + line[1:])}</p>" * bool(line) for line in (outlook or " ", text))
    return f'<div class="status">{first if outlook else ""}{bar}{then}</div>'
