"""The tabs, of gradio's components. What they say is read by `wanted`, and what runs is `job.start` and `steer.start`."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import gradio as gr
from PIL import Image

from ... import __version__, operators, steer
from .. import files, job
from .. import steer as steered
from ..contact import Line, plot
from ..images import FORMATS, BadInput, to_pil
from ..options import Option, named, options, pick
from ..options import shown as typed
from . import Wanted, folder, wanted
from .work import Desk, Seen, Work, sentence

CSS = """
.gradio-container, .gradio-container main {max-width: 1360px !important; width: 100% !important; margin: 0 auto !important}
.gradio-container main {padding: 12px 20px !important}
#title h1 {margin: 0; font-size: 1.35rem} #title p {margin: .1rem 0 0; opacity: .75}
.status {min-height: 2.6rem} .bar {height: .5rem; border-radius: .25rem; background: #e2e8f0; overflow: hidden}
.bar i {display: block; height: 100%; background: #6366f1}
.status p {margin: .2rem 0 0; font-variant-numeric: tabular-nums}
.card p {margin: 0; line-height: 1.35; font-size: .86rem; opacity: .85}
.grid-wrap {min-height: 0 !important; height: auto !important; max-height: none !important}
#costs table {width: 100%}
#estimate img, #view img, #best img, #old img {width: 100%; height: 100%; object-fit: contain}
#runs span {font-size: .76rem} #runs .selection-button {display: none}
footer {display: none !important}
"""
QUICK: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
"""Events beside the runs."""
Written = dict[tuple[str, ...], dict[str, Any]]
"""What was typed as options, by (mark of the reopened run, part, task, method)."""
EVERY = 1.0
"""Seconds between estimates that are shown."""


def page(given: Wanted, desk: Desk) -> gr.Blocks:
    """The page for one folder of runs; its runs are those of `desk`."""
    with gr.Blocks(title="flowhelm", analytics_enabled=False, fill_width=True) as demo:
        gr.Markdown(
            f"# flowhelm {__version__}\nRestore and steer pictures with pre-trained flow models, on this machine.",
            elem_id="title",
        )
        with gr.Tabs() as tabs:
            with gr.Tab("Restore", id="restore"):
                fill_restore = _restore(demo, given, desk)
            with gr.Tab("Steer", id="steer"):
                fill_steer = _steer(demo, given, desk)
            with gr.Tab("Compare", id="compare") as compare:
                _compare(given, compare)
            with gr.Tab("History", id="history") as history:
                _history(given, history, tabs, fill_restore, fill_steer)
        demo.unload(_leave(desk))
    return demo


# --- restore ---


def _restore(demo: gr.Blocks, given: Wanted, desk: Desk) -> tuple[list[Any], Callable[[folder.Run], list[Any]]]:
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
                    _methods(job.METHODS), value="", label="Method", interactive=True, elem_id="method", min_width=150
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
            status = gr.HTML(_status("Drop a picture, say what was done to it, and press Restore."), elem_id="status")
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
    cancel.click(_cancel(desk), None, [cancel], **QUICK)
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
                _fields(builder, default.task, _values(written_, told_, "operator", task_))
            with gr.Accordion(f"Options of {default.name}", open=False, elem_id="options"):
                gr.Markdown(wanted.about(chosen), elem_classes="card")
                values = _values(written_, told_, "method", task_, default.name)
                _fields(chosen, default.method, values)

    said = {
        "photo": upload, "task": task, "painted": editor, "prior": prior, "method": method, "std": std, "steps": steps, "seed": seed,
        "samples": samples, "simulate": simulate,
    }  # fmt: skip

    def go(request: gr.Request, *now: Any) -> Iterator[Any]:
        *values, told_, written_ = now
        asked = wanted.Restoration(**dict(zip(said, values, strict=True)))
        name = wanted.chosen(asked)
        asked = asked._replace(
            task_options=dict(_values(written_, told_, "operator", asked.task)),
            method_options=dict(_values(written_, told_, "method", asked.task, name)),
        )
        for update in restoring(asked, given, desk, str(request.session_hash)):
            yield [update.get(part, gr.skip()) for part in _NAMES]

    run.click(_ask(desk), None, [status, cancel], **QUICK).success(
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
            settings["operator"], settings["std"], _offered(settings["prior"], given), settings["method"],
            str(len(settings["times"]) - 1), str(settings["seed"]), 1, settings["simulate"], fields, _status(f"From {old.when}."),
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
            yield _STOPPED
            return
        where, runs = wanted.restoration(asked, given)
        yield {
            "status": _status("Opening the prior ..."), "estimate": gr.update(value=None, visible=True), "slider": gr.update(visible=False),
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
                    "status": _progress(which, seen, f"misfit {seen.said:.2f} of the noise"),
                    "estimate": to_pil(seen.picture),
                }
            if work.error is not None:
                yield from _ended(work, work.error, Path(settings["out"]), where)
                return
            made.append(work.made)
        yield _restored(made, lines)
    except Exception as error:
        yield {
            "run": gr.update(interactive=True),
            "cancel": gr.update(interactive=False),
            "status": _status(sentence(error), "wrong"),
        }
        raise _error(error) from None


def _ended(work: Work, error: BaseException, out: Path, where: Path) -> Iterator[dict[str, Any]]:
    """A run that was stopped, or that diverged: the last estimate stays; anything else raises."""
    partial = files.outputs(out)["partial"]
    buttons = {"run": gr.update(interactive=True), "cancel": gr.update(interactive=False)}
    if not partial.is_file():
        if not any(where.glob("*.run.json")):
            folder.give_up(where)
        if not work.stopped:
            raise error
        yield _STOPPED
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
        "status": _status(said + "."),
        "estimate": str(partial),
        "take": gr.update(value=str(partial), interactive=True),
    }


def _restored(made: list[dict[str, Any]], lines: list[str]) -> dict[str, Any]:
    first = made[0]
    out = Path(first["settings"]["out"])
    found = {
        "run": gr.update(interactive=True), "cancel": gr.update(interactive=False), "estimate": gr.update(visible=False),
        "slider": gr.update(value=wanted.pair(first["settings"]), visible=True), "take": gr.update(value=str(out), interactive=True),
        "story": gr.update(value=str(files.outputs(out)["run"]), interactive=True), "status": _status("\n".join(wanted.words(lines))),
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
        "status": _status(said + "\n" + "\n".join(wanted.words(lines))),
    }


def _taken(given: Wanted) -> Callable[[str | None], tuple[Any, Any, Any]]:
    def take(path: str | None) -> tuple[Any, Any, Any]:
        try:
            if path is None:
                return None, None, None
            folder.checked(path, given.megapixels)
            picture = folder.shown(path)
        except Exception as error:
            raise _error(error) from None
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


# --- steer ---


def _steer(demo: gr.Blocks, given: Wanted, desk: Desk) -> tuple[list[Any], Callable[[folder.Run], list[Any]]]:
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
            status = gr.HTML(_status("Say what the pictures should be like, and press Steer."), elem_id="steer-status")
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
    cancel.click(_cancel(desk), None, [cancel], **QUICK)
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
                _fields(chosen, defaults, _values(written_, told_, "method", method_))

    said = {
        "prior": prior, "reward": reward, "method": method, "label": label, "prompt": prompt, "budget": budget, "steps": steps,
        "scale": scale, "seed": seed,
    }  # fmt: skip

    def go(request: gr.Request, *now: Any) -> Iterator[Any]:
        *values, told_, written_ = now
        asked = wanted.Steering(**dict(zip(said, values, strict=True)))
        asked = asked._replace(method_options=dict(_values(written_, told_, "method", asked.method)))
        for update in steering(asked, given, desk, str(request.session_hash)):
            yield [update.get(part, gr.skip()) for part in names]

    run.click(_ask(desk), None, [status, cancel], **QUICK).success(
        go, [*said.values(), told, written], outputs, concurrency_id="device", concurrency_limit=1, trigger_mode="once",
        show_progress="hidden", api_visibility="private",
    )  # fmt: skip

    parts = [prior, label, prompt, reward, method, budget, steps, scale, seed, told]

    def fill(old: folder.Run) -> list[Any]:
        settings = old.settings
        name = _offered(settings["prior"], given)
        return [
            name, gr.update(choices=[("any", ""), *wanted.classes(name)], value=next(iter(settings["classes"]), "")),
            settings["prompt"] or "", " + ".join(settings["reward"]), settings["method"],
            *(_text(settings[part]) for part in ("budget", "steps", "scale")),
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
            yield _STOPPED
            return
        where, settings = wanted.steering(asked, given)
        yield {
            "status": _status("Opening the prior and the rewards ..."), "best": None, "curve": None,
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
                "status": _progress("", seen, said),
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
            yield _STOPPED
            return
        yield {
            **buttons, "status": _status("\n".join(wanted.words(lines))), "best": _large(work.seen.picture) if work.seen else None,
            "curve": str(paths["curve"]), "sheet": gr.update(value=str(paths["sheet"]), visible=True),
            "take": gr.update(value=str(paths["best"]), interactive=True), "story": gr.update(value=str(paths["run"]), interactive=True),
        }  # fmt: skip
    except Exception as error:
        yield {
            "run": gr.update(interactive=True),
            "cancel": gr.update(interactive=False),
            "status": _status(sentence(error), "wrong"),
        }
        raise _error(error) from None


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


# --- compare and history ---


def _compare(given: Wanted, tab: gr.Tab) -> None:
    chosen = gr.Dropdown(
        [],
        multiselect=True,
        label="Runs of one picture",
        info="Two or more restorations of the history",
        elem_id="chosen",
    )
    pictures = gr.Gallery(
        label="Side by side", columns=3, object_fit="contain", height="auto", format="png", interactive=False, buttons=["fullscreen"],
        elem_id="pictures",
    )  # fmt: skip
    table = gr.Markdown(elem_id="costs")

    def listed() -> Any:
        return gr.update(choices=[(wanted.line(r), r.name) for r in folder.history(given.runs) if not r.steered])

    def show(names: list[str] | None) -> tuple[Any, str]:
        try:
            runs = [folder.run(given.runs, name) for name in names or ()]
            folder.same_picture(runs)
        except Exception as error:
            raise _error(error) from None
        if len(runs) < 2:
            return None, "Choose two or more." if runs else ""
        head, lines = wanted.costs(runs)
        shown = []
        for letter, each in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", runs, strict=False):
            path = folder.inside(given.runs, each.picture.relative_to(given.runs).as_posix())
            shown.append((str(path), f"{letter}: {each.settings['operator']}, {each.settings['method']}"))
        return gr.update(value=shown, columns=min(len(shown), 3)), _table(head, lines)

    tab.select(listed, None, [chosen], **QUICK)
    chosen.change(show, [chosen], [pictures, table], **QUICK)


def _history(
    given: Wanted,
    tab: gr.Tab,
    tabs: gr.Tabs,
    restore: tuple[list[Any], Callable[[folder.Run], list[Any]]],
    steer_: tuple[list[Any], Callable[[folder.Run], list[Any]]],
) -> None:
    which = gr.State(None)
    gr.Markdown(
        f"Runs in `{_near(str(given.runs), Path.cwd())}`, of the page and of the command line. Choose one by a click."
    )
    table = gr.Dataframe(
        headers=wanted.ROW, interactive=False, wrap=False, max_height=330, elem_id="runs", show_label=False, buttons=[],
    )  # fmt: skip
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            picture = gr.Image(
                label="Result", format="png", interactive=False, height=360, buttons=["fullscreen"], elem_id="old"
            )
            again = gr.Button("Open these settings", interactive=False, elem_id="again")
            with gr.Row():
                take = gr.DownloadButton("Picture", interactive=False, elem_id="old-take")
                story = gr.DownloadButton(".run.json", interactive=False, elem_id="old-story")
        with gr.Column(scale=3, min_width=400):
            settings = gr.Code(
                label="Settings and result", language="json", interactive=False, elem_id="settings", max_lines=24
            )

    def listed() -> list[list[str]]:
        return [wanted.row(run) for run in folder.history(given.runs)]

    def show(event: gr.SelectData) -> tuple[Any, ...]:
        try:
            old = folder.run(
                given.runs, f"{event.row_value[-1]}{folder.END}"
            )  # not by its place: a table can be sorted
            result = folder.inside(given.runs, old.picture.relative_to(given.runs).as_posix())
        except Exception as error:
            raise _error(error) from None
        told = {
            "settings": old.settings,
            "result": {k: v for k, v in old.result.items() if k != "pictures"} | _brief(old),
        }
        ready = gr.update(interactive=True)
        return (
            str(result), _near(json.dumps(told, indent=1, ensure_ascii=False), given.runs), old.name,
            ready, gr.update(value=str(result), interactive=True),
            gr.update(value=str(old.path), interactive=True),
        )  # fmt: skip

    def reopen(name: str) -> list[Any]:
        try:
            old = folder.run(given.runs, name)
            if old.steered:
                return [gr.update(selected="steer"), *(gr.skip() for _ in restore[0]), *steer_[1](old)]
            return [gr.update(selected="restore"), *restore[1](old), *(gr.skip() for _ in steer_[0])]
        except Exception as error:
            raise _error(error) from None

    tab.select(listed, None, [table], **QUICK)
    table.select(show, None, [picture, settings, which, again, take, story], **QUICK)
    again.click(reopen, [which], [tabs, *restore[0], *steer_[0]], **QUICK)


def _near(text: str, base: Path) -> str:
    """Paths below `base` without it."""
    return text.replace(f"{base}/", "")


def _brief(old: folder.Run) -> dict[str, Any]:
    if not old.steered:
        return {}
    return {name: value for name, value in old.told.items() if name not in ("trace", "particles")}


# --- parts of all ---


def _values(written: Written, told: Mapping[str, Any], part: str, *names: str) -> dict[str, Any]:
    """What stands in the fields of an operator or a method: as reopened from the history, until something is typed.

    It is kept beside the fields, for these are made anew with every choice, and a click may come before they are.
    """
    return written.setdefault((str(told.get("mark", "")), part, *names), dict(told.get(part, {})))


def _fields(function: Callable[..., Any], defaults: Mapping[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A field for each option of `function`, by its name: empty means the default, which shows through.

    Args:
        values: of the fields; what is typed goes there.
    """
    found: dict[str, Any] = {}
    known = list(options(function).values())
    for i in range(0, len(known), 2):
        with gr.Row():
            for option in known[i : i + 2]:
                field = _field(function, option, defaults, values.get(option.name) or "")
                field.change(_keeps(values, option.name), [field], None, **QUICK)
                found[option.name] = field
    return found


def _keeps(values: dict[str, Any], name: str) -> Callable[[Any], None]:
    def keep(value: Any) -> None:
        values[name] = value

    return keep


def _field(function: Callable[..., Any], option: Option, defaults: Mapping[str, Any], value: str) -> Any:
    default = str(typed(defaults.get(option.name)))
    common: dict[str, Any] = {
        "label": option.name, "info": option.help, "min_width": 170, "elem_id": f"option-{function.__name__}-{option.name}",
    }  # fmt: skip
    if Path in option.kinds:
        said = "mask, instead of paint" if option.name == "mask" else option.name
        return gr.File(value or None, label=said, height=140, elem_id=common["elem_id"])
    choices = _choices(option)
    if choices:
        return gr.Dropdown(
            [(f"default ({default})", ""), *((c, c) for c in choices)], value=value, allow_custom_value=True, **common
        )
    return gr.Textbox(value, placeholder=default, max_lines=1, **common)


def _choices(option: Option) -> list[str]:
    """What may be chosen; a function of the library may be given options of its own, as text."""
    found: list[str] = []
    for kind in option.kinds:
        if kind is bool:
            found += ["true", "false"]
        elif get_origin(kind) is Literal:
            found += [str(each) for each in get_args(kind)]
        else:
            found += [f.__name__ for f in named(kind)]
    return found


def _methods(functions: Any) -> list[tuple[str, str]]:
    return [("default of the task", ""), *((f.__name__, f.__name__) for f in functions)]


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _offered(prior: str, given: Wanted) -> str:
    found = next((name for name in given.priors if prior in (name, str(Path(name).absolute()))), None)
    if found is None:
        raise BadInput(
            f"that run was made with the prior {Path(prior).name!r}; start the page with --prior to have it here"
        )
    return found


def _ask(desk: Desk) -> Callable[..., Any]:
    def ask(request: gr.Request) -> tuple[Any, Any]:
        try:
            before = desk.ask(str(request.session_hash))
        except Exception as error:
            raise _error(error) from None
        said = f"Waiting for the device; runs before this one: {before}." if before else "Starting ..."
        return _status(said), gr.update(interactive=True)

    return ask


def _leave(desk: Desk) -> Callable[..., None]:
    def leave(request: gr.Request) -> None:
        desk.leave(str(request.session_hash))

    return leave


def _cancel(desk: Desk) -> Callable[..., Any]:
    def cancel(request: gr.Request) -> Any:
        desk.cancel(str(request.session_hash))
        return gr.update(interactive=False)  # not the status: that may come after the run's own last word

    return cancel


def _error(error: BaseException) -> gr.Error:
    """For the page: one sentence, and no markup that a name might bring."""
    return gr.Error(html.escape(sentence(error), quote=False), print_exception=False)


def _status(text: str, kind: str = "") -> str:
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in text.splitlines() if line)
    return f'<div class="status {kind}">{lines}</div>'


def _progress(which: str, seen: Seen, said: str) -> str:
    text = f"{which}step {seen.step} of {seen.total}, {said}, {seen.left} left"
    text = text[0].upper() + text[1:]
    share = 100 * seen.step / max(seen.total, 1)
    bar = f'<div class="bar" role="progressbar" aria-valuenow="{share:.0f}"><i style="width: {share:.1f}%"></i></div>'
    return f'<div class="status">{bar}<p>{html.escape(text)}</p></div>'


def _table(head: list[str], lines: list[list[str]]) -> str:
    cells = [head, ["---"] * len(head), *([each.replace("|", "/") for each in line] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


_STOPPED = {
    "run": gr.update(interactive=True),
    "cancel": gr.update(interactive=False),
    "status": _status("Stopped before the first step."),
}
