"""The tab that restores: what is shown and what runs is `job.start`."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from ... import operators
from ...app.files import atomic as files
from ...app.files.pictures import FORMATS, to_pil
from ...app.options.signature import options, pick
from ...app.restore import run as job
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
    methods_of,
    offered,
    progress_html,
    status_html,
    values_of,
)
from .work import Desk, Work, sentence


def restore_(demo: gr.Blocks, given: Wanted, desk: Desk) -> tuple[list[Any], Callable[[folder.Run], list[Any]]]:
    """The tab; its components, and what fills them in from a run of the history."""
    upload, told, written = gr.State(None), gr.State({}), gr.State({})
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=400):
            # a file, which is handed on as it is: gr.Image would open it before its size is looked at
            photo = gr.File(label="Photograph: drop it here", file_types=sorted(FORMATS), elem_id="photo")
            view = gr.Image(
                label="Photograph",
                height=360,
                format="png",
                interactive=False,
                visible=False,
                buttons=["fullscreen"],
                elem_id="view",
            )
            editor = gr.ImageEditor(
                label="Paint over what is missing", type="pil", image_mode="RGBA", sources=[], transforms=None, layers=False,
                brush=gr.Brush(default_size=5, colors=["#ff2d55"], color_mode="fixed"), height=470, format="png", visible=False,
                interactive=True, buttons=[], elem_id="editor",
            )  # fmt: skip
            with gr.Row():
                task = gr.Dropdown(
                    [f.__name__ for f in operators.ALL], value="inpaint", label="Task", info="What was done to the picture",
                    interactive=True, elem_id="task", min_width=150,
                )  # fmt: skip
                std = gr.Number(
                    0.02,
                    label="Noise",
                    info="Std, black -1, white 1",
                    minimum=1e-6,
                    step=0.005,
                    interactive=True,
                    elem_id="std",
                    min_width=130,
                )
            about_task = gr.Markdown(elem_classes="card")
            with gr.Row():
                prior = gr.Dropdown(
                    list(given.priors),
                    value=given.priors[0],
                    label="Prior",
                    interactive=True,
                    elem_id="prior",
                    min_width=150,
                )
                method = gr.Dropdown(
                    methods_of(job.METHODS), value="", label="Method", interactive=True, elem_id="method", min_width=150
                )
            with gr.Row():
                steps = gr.Textbox(label="Steps", max_lines=1, interactive=True, elem_id="steps", min_width=90)
                seed = gr.Textbox("0", label="Seed", max_lines=1, interactive=True, elem_id="seed", min_width=90)
                samples = gr.Number(
                    1,
                    label="Samples",
                    precision=0,
                    minimum=1,
                    maximum=wanted.SAMPLES,
                    interactive=True,
                    elem_id="samples",
                    min_width=90,
                )
            simulate = gr.Checkbox(
                label="Simulate",
                info="The picture is clean: degrade it first, and report PSNR and SSIM",
                interactive=True,
                elem_id="simulate",
            )
            own = gr.Column()
        with gr.Column(scale=5, min_width=440):
            with gr.Row():
                run = gr.Button("Restore", variant="primary", elem_id="run")
                cancel = gr.Button("Cancel", variant="stop", elem_id="cancel", interactive=False)
            status = gr.HTML(
                status_html("Drop a picture, say what was done to it, and press Restore."), elem_id="status"
            )
            estimate = gr.Image(
                label="Estimate",
                height=520,
                format="png",
                interactive=False,
                buttons=["fullscreen"],
                elem_id="estimate",
            )
            slider = gr.ImageSlider(
                label="Before and after", format="png", max_height=620, visible=False, interactive=False, buttons=["fullscreen"],
                elem_id="slider",
            )  # fmt: skip
            gallery = gr.Gallery(
                label="Samples", columns=4, visible=False, format="png", interactive=False, object_fit="contain", height="auto",
                buttons=["fullscreen"], elem_id="gallery",
            )  # fmt: skip
            with gr.Row():
                take = gr.DownloadButton("Picture", interactive=False, elem_id="take")
                story = gr.DownloadButton("Its .run.json", interactive=False, elem_id="story")

    taken = photo.upload(_taken(given), [photo], [upload, view, editor], **QUICK)
    cleared = photo.clear(lambda: (None, None, None), None, [upload, view, editor], **QUICK)
    for listen in (taken.then, cleared.then, task.change, demo.load):
        listen(_masked, [task, upload], [view, editor, about_task], **QUICK)
    cancel.click(cancelling(desk), None, [cancel], **QUICK)
    outputs = [status, estimate, slider, gallery, take, story, run, cancel]

    with own:

        @gr.render(
            [task, method, prior, std, told, written], [demo.load, task.change, method.change, prior.change, std.blur, told.change],
            queue=False, show_progress="hidden",
        )  # fmt: skip
        def _options(
            task_: str, method_: str, prior_: str, std_: float | None, told_: Mapping[str, Any], written_: Written
        ) -> None:
            try:
                default = wanted.usual(task_, method_, prior_, std_, given.device)
            except ValueError as error:
                gr.Markdown(html.escape(sentence(error)))
                return
            builder, chosen = pick("operator", task_, operators.ALL), pick("method", default.name, job.METHODS)
            with gr.Group():
                fields_of(builder, default.task, values_of(written_, told_, "operator", task_))
            with gr.Accordion(f"Options of {default.name}", open=False, elem_id="options"):
                gr.Markdown(wanted.about(chosen), elem_classes="card")
                values = values_of(written_, told_, "method", task_, default.name)
                fields_of(chosen, default.method, values)

    said = {
        "photo": upload, "task": task, "painted": editor, "prior": prior, "method": method, "std": std, "steps": steps, "seed": seed,
        "samples": samples, "simulate": simulate,
    }  # fmt: skip

    def go(request: gr.Request, *now: Any) -> Iterator[Any]:
        *values, told_, written_ = now
        asked = wanted.Restoration(**dict(zip(said, values, strict=True)))
        name = wanted.chosen(asked)
        asked = asked._replace(
            task_options=dict(values_of(written_, told_, "operator", asked.task)),
            method_options=dict(values_of(written_, told_, "method", asked.task, name)),
        )
        for update in restoring(asked, given, desk, str(request.session_hash)):
            yield [update.get(part, gr.skip()) for part in _NAMES]

    run.click(asking(desk), None, [status, cancel], **QUICK).success(
        go, [*said.values(), told, written], outputs, concurrency_id="device", concurrency_limit=1, trigger_mode="once",
        show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    gr.on(
        [task.change, method.change, prior.change, std.blur, demo.load],
        lambda *now: gr.update(placeholder=_steps(now, given.device)), [task, method, prior, std], [steps], **QUICK,
    )  # fmt: skip
    parts = [photo, upload, view, editor, task, std, prior, method, steps, seed, samples, simulate, told]

    def fill(old: folder.Run) -> list[Any]:
        settings = old.settings
        path = folder.inside(given.runs, old.photo.relative_to(given.runs).as_posix())
        picture = folder.shown(path)
        fields = {**wanted.reopened(old, given.runs), "mark": old.name}
        painted = "mask" in fields["operator"]
        before = {**settings, "out": str(old.picture), "photo": str(path)}
        return [
            str(path), str(path), gr.update(value=picture, visible=not painted), gr.update(value=_canvas(picture), visible=painted),
            settings["operator"], settings["std"], offered(settings["prior"], given), settings["method"],
            str(len(settings["times"]) - 1), str(settings["seed"]), 1, settings["simulate"], fields, status_html(f"From {old.when}."),
            gr.update(visible=False), gr.update(value=wanted.pair(before), visible=True), gr.update(visible=False),
            gr.update(value=str(old.picture), interactive=True), gr.update(value=str(old.path), interactive=True),
        ]  # fmt: skip

    return [*parts, *outputs[:6]], fill


_NAMES = ("status", "estimate", "slider", "gallery", "take", "story", "run", "cancel")


def restoring(
    asked: wanted.Restoration, given: Wanted, desk: Desk, who: str, every: float = EVERY
) -> Iterator[dict[str, Any]]:
    """Runs it; what the page is to show, by the names of its parts, again and again."""
    try:
        if not desk.turn(who):
            yield ended("Stopped before the first step.")
            return
        where, runs = wanted.restoration(asked, given)
        yield {
            "status": status_html("Opening the prior ..."),
            "estimate": gr.update(value=None, visible=True), "slider": gr.update(visible=False),
            "gallery": gr.update(visible=False), "take": gr.update(value=None, interactive=False),
            "story": gr.update(value=None, interactive=False), "run": gr.update(interactive=False), "cancel": gr.update(interactive=True),
        }  # fmt: skip
        made, lines = [], list[str]()
        for i, settings in enumerate(runs):
            which = f"Sample {i + 1} of {len(runs)}, " if len(runs) > 1 else ""
            lines.clear()
            work = desk.begin(who, lambda watch, s=settings: job.start(s, say=lines.append, watch=watch))  # type: ignore[misc]
            for seen in work.follow(every):
                yield {
                    "status": progress_html(which, seen, f"misfit {seen.said:.2f} of the noise"),
                    "estimate": to_pil(seen.picture),
                }
            if work.error is not None:
                yield from _ended(work, work.error, Path(settings["out"]), where)
                return
            made.append(work.made)
        yield _restored(made, lines)
    except Exception as error:
        yield ended(sentence(error), "wrong")
        raise error_of(error) from None


def _ended(work: Work, error: BaseException, out: Path, where: Path) -> Iterator[dict[str, Any]]:
    """A run that was stopped, or that diverged: the last estimate stays; anything else raises."""
    partial = files.outputs(out)["partial"]
    buttons = {"run": gr.update(interactive=True), "cancel": gr.update(interactive=False)}
    if not partial.is_file():
        if not any(where.glob("*.run.json")):
            folder.give_up(where)
        if not work.stopped:
            raise error
        yield ended("Stopped before the first step.")
        return
    seen = work.seen
    assert seen is not None
    said = (
        f"Stopped after step {seen.step} of {seen.total}; this is the last estimate"
        if work.stopped
        else sentence(error)
    )
    yield {
        **buttons,
        "status": status_html(said + "."),
        "estimate": str(partial),
        "take": gr.update(value=str(partial), interactive=True),
    }


def _restored(made: list[dict[str, Any]], lines: list[str]) -> dict[str, Any]:
    first = made[0]
    out = Path(first["settings"]["out"])
    found = {
        "run": gr.update(interactive=True), "cancel": gr.update(interactive=False), "estimate": gr.update(visible=False),
        "slider": gr.update(value=wanted.pair(first["settings"]), visible=True), "take": gr.update(value=str(out), interactive=True),
        "story": gr.update(value=str(files.outputs(out)["run"]), interactive=True), "status": status_html("\n".join(wanted.words(lines))),
    }  # fmt: skip
    if len(made) == 1:
        return found
    outs = [Path(each["settings"]["out"]) for each in made]
    mean, deviation, top = wanted.spread(outs)
    stem = Path(first["settings"]["photo"]).stem
    for name, picture in (("mean", mean), ("spread", deviation)):
        files.put_picture(out.with_name(f"{stem}.{name}.png"), picture)
    shown = [
        (str(out.with_name(f"{stem}.mean.png")), "mean"),
        (str(out.with_name(f"{stem}.spread.png")), "std"),
        *((str(path), f"sample {i}") for i, path in enumerate(outs)),
    ]
    evaluations, seconds = (sum(each["result"][kind] for each in made) for kind in ("evaluations", "seconds"))
    said = (
        f"{len(made)} samples, {evaluations} evaluations in {seconds:.1f} s; std: brightest is {top:.1f} of 255 levels"
    )
    return {
        **found,
        "gallery": gr.update(value=shown, visible=True),
        "status": status_html(said + "\n" + "\n".join(wanted.words(lines))),
    }


def _taken(given: Wanted) -> Callable[[str | None], tuple[Any, Any, Any]]:
    def take(path: str | None) -> tuple[Any, Any, Any]:
        try:
            if path is None:
                return None, None, None
            folder.checked(path, given.megapixels)
            picture = folder.shown(path)
        except Exception as error:
            raise error_of(error) from None
        return path, picture, _canvas(picture)

    return take


def _canvas(picture: Any) -> dict[str, Any]:
    return {"background": picture, "layers": [], "composite": None}


def _masked(name: str, photo: str | None) -> tuple[Any, Any, str]:
    """The photograph is shown in the editor where that is of use."""
    builder = pick("operator", name, operators.ALL)
    painted = photo is not None and "mask" in options(builder)
    return gr.update(visible=photo is not None and not painted), gr.update(visible=painted), wanted.about(builder)


def _steps(now: tuple[str, str, str, float | None], device: str) -> str:
    try:
        return str(wanted.usual(*now, device=device).steps)
    except ValueError:
        return ""
