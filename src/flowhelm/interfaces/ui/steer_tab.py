"""The tab that steers: what runs is `steer.start`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ... import steer
from ...app.files.pictures import to_pil
from ...app.options.signature import options, pick
from ...app.options.signature import shown as typed
from ...app.show.contact_sheet import Line, plot
from ...app.steer import run as steered
from . import Wanted, folder, wanted
from .parts import (
    EVERY,
    QUICK,
    Written,
    asking,
    cancelling,
    ended,
    error_of,
    fields_of,
    offered,
    progress_html,
    status_html,
    text_of,
    values_of,
)
from .work import Desk, sentence


def steer_(demo: gr.Blocks, given: Wanted, desk: Desk) -> tuple[list[Any], Callable[[folder.Run], list[Any]]]:
    told, written = gr.State({}), gr.State({})
    first = next((name for name in given.priors if name == "fashion"), given.priors[0])
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=400):
            with gr.Row():
                prior = gr.Dropdown(
                    list(given.priors),
                    value=first,
                    label="Prior",
                    interactive=True,
                    elem_id="steer-prior",
                    min_width=150,
                )
                label = gr.Dropdown(
                    [("any", ""), *wanted.classes(first)],
                    value="",
                    label="Class",
                    interactive=True,
                    elem_id="steer-class",
                    min_width=150,
                )
            prompt = gr.Textbox(
                label="Prompt", placeholder="for priors that take words", interactive=True, elem_id="steer-prompt"
            )
            reward = gr.Textbox(
                "brightness", label="Reward", interactive=True, elem_id="steer-reward",
                info="[WEIGHT*]NAME[:option=value,...], several joined by ' + ': brightness, colourfulness, palette:colours=1d3557+e63946, "
                "clip:model=ORG/NAME, ...",
            )  # fmt: skip
            with gr.Row():
                method = gr.Dropdown(
                    [(f.__name__, f.__name__) for f in steer.ALL],
                    value="fk",
                    label="Method",
                    interactive=True,
                    elem_id="steer-method",
                    min_width=150,
                )
                budget = gr.Textbox(
                    label="Budget",
                    info="Evaluations",
                    max_lines=1,
                    placeholder="200",
                    interactive=True,
                    elem_id="steer-budget",
                    min_width=130,
                )
            with gr.Row():
                steps = gr.Textbox(
                    label="Steps",
                    max_lines=1,
                    placeholder="by the budget",
                    interactive=True,
                    elem_id="steer-steps",
                    min_width=90,
                )
                scale = gr.Textbox(
                    label="Guidance",
                    max_lines=1,
                    placeholder="none",
                    interactive=True,
                    elem_id="steer-scale",
                    min_width=90,
                )
                seed = gr.Textbox("0", label="Seed", max_lines=1, interactive=True, elem_id="steer-seed", min_width=90)
            own = gr.Column()
        with gr.Column(scale=5, min_width=440):
            with gr.Row():
                run = gr.Button("Steer", variant="primary", elem_id="steer-run")
                cancel = gr.Button("Cancel", variant="stop", elem_id="steer-cancel", interactive=False)
            status = gr.HTML(
                status_html("Say what the pictures should be like, and press Steer."), elem_id="steer-status"
            )
            with gr.Row():
                best = gr.Image(
                    label="Best so far",
                    height=320,
                    format="png",
                    interactive=False,
                    buttons=["fullscreen"],
                    elem_id="best",
                    min_width=200,
                )
                curve = gr.Image(
                    label="Reward",
                    height=320,
                    format="png",
                    interactive=False,
                    buttons=["fullscreen"],
                    elem_id="curve",
                    min_width=300,
                )
            with gr.Row():
                take = gr.DownloadButton("Picture", interactive=False, elem_id="steer-take")
                story = gr.DownloadButton("Its .run.json", interactive=False, elem_id="steer-story")
            sheet = gr.Image(
                label="All particles",
                format="png",
                interactive=False,
                visible=False,
                buttons=["fullscreen"],
                elem_id="sheet",
            )
    prior.input(
        lambda name: gr.update(choices=[("any", ""), *wanted.classes(name)], value=""), [prior], [label], **QUICK
    )
    cancel.click(cancelling(desk), None, [cancel], **QUICK)
    outputs = [status, best, curve, sheet, take, story, run, cancel]
    names = ("status", "best", "curve", "sheet", "take", "story", "run", "cancel")
    with own:

        @gr.render(
            [method, told, written], [demo.load, method.change, told.change], queue=False, show_progress="hidden"
        )
        def _options(method_: str, told_: Mapping[str, Any], written_: Written) -> None:
            chosen = pick("method", method_, steer.ALL)
            with gr.Accordion(f"Options of {method_}", open=False, elem_id="steer-options"):
                gr.Markdown(wanted.about(chosen), elem_classes="card")
                defaults = {o.name: typed(o.default) for o in options(chosen).values() if not o.needed}
                fields_of(chosen, defaults, values_of(written_, told_, "method", method_))

    said = {
        "prior": prior, "reward": reward, "method": method, "label": label, "prompt": prompt, "budget": budget, "steps": steps,
        "scale": scale, "seed": seed,
    }  # fmt: skip

    def go(request: gr.Request, *now: Any) -> Iterator[Any]:
        *values, told_, written_ = now
        asked = wanted.Steering(**dict(zip(said, values, strict=True)))
        asked = asked._replace(method_options=dict(values_of(written_, told_, "method", asked.method)))
        for update in steering(asked, given, desk, str(request.session_hash)):
            yield [update.get(part, gr.skip()) for part in names]

    run.click(asking(desk), None, [status, cancel], **QUICK).success(
        go, [*said.values(), told, written], outputs, concurrency_id="device", concurrency_limit=1, trigger_mode="once",
        show_progress="hidden", api_visibility="private",
    )  # fmt: skip

    parts = [prior, label, prompt, reward, method, budget, steps, scale, seed, told]

    def fill(old: folder.Run) -> list[Any]:
        settings = old.settings
        name = offered(settings["prior"], given)
        return [
            name, gr.update(choices=[("any", ""), *wanted.classes(name)], value=next(iter(settings["classes"]), "")),
            settings["prompt"] or "", " + ".join(settings["reward"]), settings["method"],
            *(text_of(settings[part]) for part in ("budget", "steps", "scale")),
            str(settings["seed"]),
            {"method": wanted.steered_again(old), "mark": old.name},
        ]  # fmt: skip

    return parts, fill


def steering(
    asked: wanted.Steering, given: Wanted, desk: Desk, who: str, every: float = EVERY
) -> Iterator[dict[str, Any]]:
    """Runs it; what the page is to show, by the names of its parts, again and again."""
    try:
        if not desk.turn(who):
            yield ended("Stopped before the first step.")
            return
        where, settings = wanted.steering(asked, given)
        yield {
            "status": status_html("Opening the prior and the rewards ..."), "best": None, "curve": None,
            "sheet": gr.update(visible=False),
            "take": gr.update(value=None, interactive=False), "story": gr.update(value=None, interactive=False),
            "run": gr.update(interactive=False), "cancel": gr.update(interactive=True),
        }  # fmt: skip
        lines, trace = list[str](), list[Mapping[str, Any]]()

        def do(watch: Callable[..., None]) -> dict[str, Any]:
            def each(step: int, total: int, picture: Any, line: Mapping[str, Any]) -> None:
                trace.append(line)
                watch(step, total, picture, line)

            return steered.start(settings, say=lines.append, watch=each)

        work = desk.begin(who, do)
        for seen in work.follow(every):
            line = seen.said
            said = f"best {line['shown']:.4g}, {line['evaluations']} evaluations" if line["shown"] is not None else ""
            yield {
                "status": progress_html("", seen, said),
                "best": _large(seen.picture),
                "curve": _curve(list(trace), asked.reward),
            }
        paths = steered.outputs(Path(settings["out"]))
        buttons = {"run": gr.update(interactive=True), "cancel": gr.update(interactive=False)}
        if work.error is not None and not (work.stopped and paths["best"].is_file()):
            if not paths["run"].is_file():
                folder.give_up(where)
            if not work.stopped:
                raise work.error
            yield ended("Stopped before the first step.")
            return
        yield {
            **buttons, "status": status_html("\n".join(wanted.words(lines))), "best": _large(work.seen.picture) if work.seen else None,
            "curve": str(paths["curve"]), "sheet": gr.update(value=str(paths["sheet"]), visible=True),
            "take": gr.update(value=str(paths["best"]), interactive=True), "story": gr.update(value=str(paths["run"]), interactive=True),
        }  # fmt: skip
    except Exception as error:
        yield ended(sentence(error), "wrong")
        raise error_of(error) from None


def _curve(trace: list[Mapping[str, Any]], reward: str) -> Any:
    """Reward against evaluations, so far: of the best, and the mean of the particles."""
    ways = (("best", "shown", False), ("mean of the particles", "mean", True))
    lines = [
        Line(name, points, part=part)
        for name, kind, part in ways
        if (points := [(each["evaluations"], each[kind]) for each in trace if each[kind] is not None])
    ]
    drawn: Any = BytesIO()
    plot(lines, reward, drawn)
    return Image.open(drawn)


def _large(picture: Any) -> Any:
    """Small pictures by repetition, so that their pixels show."""
    found = to_pil(picture)
    times = max(1, 256 // max(found.size))
    return found.resize((found.width * times, found.height * times), 0)
