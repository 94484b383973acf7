"""The tab that restores: what runs is the command line's own restoration."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ... import operators
from ...app.files.atomic import READ, put_picture
from ...app.files.pictures import read, to_pil
from ...app.options.request import fields
from ...app.options.signature import options
from ...app.restore import record
from ...app.restore.look import look
from ...app.restore.presets import Look, usual_method
from ...app.restore.request import Restoration, RestoreSettings, function_of
from ...cards import RESTORE_OR_STEER
from ...flaws import flaws
from . import folder
from .fields import QUICK, Written, about, field, functions_of, offered, options_of, priors_of, text_of, values_of
from .request import PageRequest
from .requests import RestoreFields, reopened, restoration, restore_fields, usual
from .results import pair, spread
from .running import EVERY, Desk, Work, sentence
from .tab import WHOLE, Looks, Outputs, buttons, downloads, error_of, looks, saved, status_html, summary_html, wire

NOISE = {"automatic": "auto", "none": "0.005", "slight": "0.03", "medium": "0.08", "strong": "0.2"}
"""What the page calls levels of noise, and what a request does."""
FIRST, OTHER = "automatic", "a number"
PAINT = "#ff2d55"
HIDDEN = gr.update(visible=False)
TILES: dict[str, Any] = {"object_fit": "contain", "height": "auto"}
SEED = "Same seed, same result"
SHOWN = ("operator", "method", "std", "steps", "simulate")
"""Fields of a restoration that have a place of their own; the others are below them."""


def restore_tab(demo: gr.Blocks, page: PageRequest, desk: Desk) -> tuple[list[Any], Callable[[folder.Run], list[Any]]]:
    """The tab; its components, and what fills them in from a run of the history."""
    upload, told, written = gr.State(None), gr.State({}), gr.State({})
    known = fields(RestoreFields)
    with gr.Row(equal_height=False, elem_classes="both"):
        with gr.Column(elem_classes="first"):
            # a file, which is handed on as it is: gr.Image would open it before its size is looked at
            photo = gr.File(label="Picture: drop it here", file_types=sorted(READ), elem_id="photo")
            look_ = gr.Button("Look at it", elem_id="look", interactive=False)
            view = gr.Image(label="Picture", height=360, visible=False, elem_id="view", **WHOLE)
            editor = gr.ImageEditor(
                label="Paint over what is missing", type="pil", image_mode="RGBA", sources=[], transforms=None, layers=False,
                brush=gr.Brush(default_size=5, colors=[PAINT], color_mode="fixed"), height=470, format="png", visible=False,
                interactive=True, buttons=[], elem_id="editor",
            )  # fmt: skip
        with gr.Column(elem_classes="outcome"):
            hint = "Drop a picture and press Look at it, or choose yourself what was done to it; then press Restore."
            run, cancel, status = buttons("Restore", "", hint)
            estimate = gr.Image(label="Estimate", height=520, elem_id="estimate", **WHOLE)
            slider = gr.ImageSlider(label="Before and after", max_height=620, visible=False, elem_id="slider", **WHOLE)
            gallery = gr.Gallery(label="Samples", columns=4, visible=False, elem_id="gallery", **TILES, **WHOLE)
            take, story = downloads("")
        with gr.Column(elem_classes="fields"):
            with gr.Row():
                operator = functions_of("Task", operators.ALL, "inpaint", "task", info="What was done to the picture")
                noise = gr.Dropdown(
                    [*NOISE, OTHER], value=FIRST, label="Noise", info="How grainy the picture is", interactive=True, elem_id="noise",
                    min_width=150,
                )  # fmt: skip
                std = field(
                    known["std"], "std", label="Noise as a number", value=NOISE[FIRST], visible=False,
                    info="Standard deviation, where black is -1 and white is 1",
                )  # fmt: skip
            about_operator = gr.Markdown(elem_classes="card")
            with gr.Row():
                prior = priors_of(page.priors, page.priors[0], "prior")
                how = {"first": "default of the task", "info": "How the picture is restored"}
                method = functions_of("Method", RESTORE_OR_STEER, "", "method", **how)
            with gr.Row():
                steps = field(known["steps"], "steps", info="More take longer", min_width=90)
                seed = field(known["seed"], "seed", value="0", placeholder="0", info=SEED, min_width=90)
                samples = field(known["samples"], "samples", info="Different results", min_width=90)
            simulate = field(known["simulate"], "simulate")
            own = gr.Column()
            with gr.Accordion("More settings", open=False, elem_id="more"):
                more = {
                    name: field(known[name], f"more-{name}")
                    for name in Restoration.model_fields
                    if name not in SHOWN and not name.endswith("_options")
                }
    taken = photo.upload(_taken(page), [photo], [upload, view, editor], **QUICK)
    taken.then(lambda path: gr.update(interactive=path is not None), [upload], [look_], **QUICK)
    photo.clear(lambda: gr.update(interactive=False), None, [look_], **QUICK)
    look_.click(_looked, [upload], [status, operator, noise, std, editor, more["unfade"], told], **QUICK)
    cleared = photo.clear(lambda: (None, None, None), None, [upload, view, editor], **QUICK)
    for listen in (taken.then, cleared.then, operator.change, demo.load):
        listen(_masked, [operator, upload], [view, editor, about_operator], **QUICK)

    # in the browser, so that a click that follows at once finds it
    number = f"(word, now) => ({json.dumps(NOISE)}[word] ?? (word === '{OTHER}' ? now : null))"
    noise.input(None, [noise, std], [std], js=number, **QUICK)
    noise.input(lambda word: gr.update(visible=word == OTHER), [noise], [std], **QUICK)
    with own:

        @gr.render(
            [operator, method, prior, std, told, written],
            [demo.load, operator.change, method.change, prior.change, std.change, told.change], queue=False, show_progress="hidden",
        )  # fmt: skip
        def _options(
            operator_: str, method_: str, prior_: str, std_: str | None, told_: Mapping[str, Any], written_: Written
        ) -> None:
            try:
                default = usual(operator_, method_, prior_, std_, page.device)
            except ValueError as error:
                gr.Markdown(html.escape(sentence(error)))
                return
            builder, chosen = function_of("operator", operator_), function_of("method", default.method)
            with gr.Group():
                defaults = {name: value for name, value in default.operator_options if value != "needed"}
                options_of(builder, defaults, values_of(written_, told_, "operator", operator_))
            with gr.Accordion(f"Options of {default.method}", open=False, elem_id="options"):
                gr.Markdown(about(chosen), elem_classes="card")
                values = values_of(written_, told_, "method", operator_, default.method)
                options_of(chosen, dict(default.method_options), values)

    def work(values: dict[str, Any], told_: Mapping[str, Any], written_: Written, who: str) -> Iterator[Looks]:
        name, prior_ = values["operator"], values["prior"]
        look: Look = values.get("look") or "faithful"
        usual_ = usual_method(name, prior_, look, drawn=int(values.get("samples") or 1) > 1)
        values.pop("noise")
        chosen = {
            "operator_options": dict(values_of(written_, told_, "operator", name)),
            "method_options": dict(values_of(written_, told_, "method", name, values["method"] or usual_)),
        }
        yield from restoring({**values, **chosen}, page, desk, who)

    inputs = {
        "photo": upload, "operator": operator, "painted": editor, "prior": prior, "method": method, "noise": noise, "std": std,
        "steps": steps, "seed": seed, "samples": samples, "simulate": simulate, **more,
    }  # fmt: skip
    pictures = {"estimate": estimate, "slider": slider, "gallery": gallery}
    wire(desk, Outputs(status, run, cancel, take, story), pictures, inputs, [told, written], work)
    gr.on(
        [operator.change, method.change, prior.change, std.change, demo.load],
        lambda *now: gr.update(placeholder=_steps(now, page.device)), [operator, method, prior, std], [steps], **QUICK,
    )  # fmt: skip

    def fill(old: folder.Run) -> list[Any]:
        settings: RestoreSettings = old.settings
        path = folder.inside(page.runs, old.photo.relative_to(page.runs).as_posix())
        picture, again = folder.shown(path), {**reopened(old, page.runs), "mark": old.name}
        painted, word = "mask" in again["operator"], _word(settings.std)
        others = {name: getattr(settings, name) for name in more}
        values: dict[str, Any] = {n: each if isinstance(each, bool) else text_of(each) for n, each in others.items()} | {
            "photo": str(path), "operator": settings.operator, "painted": gr.update(value=_canvas(picture), visible=painted),
            "prior": offered(settings.prior, page), "method": settings.method, "noise": word,
            "std": gr.update(value=f"{settings.std:g}", visible=word == OTHER), "steps": str(settings.step_count),
            "seed": str(settings.seed), "samples": 1, "simulate": settings.simulate,
            "tile": "auto" if settings.tile is None else str(settings.tile),
        }  # fmt: skip
        return [
            str(path), gr.update(value=picture, visible=not painted), *(values[name] for name in inputs), again,
            status_html(f"From the run of {old.when}."), HIDDEN,
            gr.update(value=pair(settings.changed(out=str(old.picture), photo=str(path))), visible=True), HIDDEN,
            *saved(old.picture, old.path).values(),
        ]  # fmt: skip

    return [photo, view, *inputs.values(), told, status, *pictures.values(), take, story], fill


def restoring(
    fields_: Mapping[str, Any], page: PageRequest, desk: Desk, who: str, every: float = EVERY
) -> Iterator[Looks]:
    """Restores what the fields say; what the page is to show, by the names of its components, again and again."""
    settings: list[RestoreSettings] = []

    def begin() -> Any:
        where, found = restoration(restore_fields(fields_), page)
        settings.extend(found)
        return where, [each.stored() for each in found]

    def shows(work: Work) -> Looks:
        return {} if work.picture is None else {"estimate": to_pil(work.picture)}

    def ends(work: Work) -> Looks | None:
        if work.error is None:
            return _result(work, settings)
        partial = record.outputs(Path(settings[work.done].out or ""))["partial"]
        return {"estimate": str(partial), **saved(partial, None)} if partial.is_file() else None

    opening = {"estimate": gr.update(value=None, visible=True), "slider": HIDDEN, "gallery": HIDDEN}
    several = int(fields_.get("samples") or 1)
    yield from looks(desk, who, begin, shows, ends, opening=opening, several=several, every=every)


def _result(work: Work, settings: Sequence[RestoreSettings]) -> Looks:
    first, outs = settings[0], [Path(each.out or "") for each in settings]
    made = [record.get_run(record.outputs(out)["run"]) for out in outs]
    found = {
        "estimate": HIDDEN, "slider": gr.update(value=pair(first), visible=True), "status": summary_html(work),
        **saved(outs[0], record.outputs(outs[0])["run"]),
    }  # fmt: skip
    if len(made) == 1:
        return found
    mean, deviation, top = spread(outs)
    stem = Path(first.photo or "").stem
    maps = {name: outs[0].with_name(f"{stem}.{name}.png") for name in ("mean", "spread")}
    for path, picture in zip(maps.values(), (mean, deviation), strict=True):
        put_picture(path, picture)
    listed = [(str(maps["mean"]), "mean"), (str(maps["spread"]), "std")]
    listed += [(str(path), f"sample {i}") for i, path in enumerate(outs)]
    evaluations = sum(each.result.evaluations for each in made)
    spent = f"{evaluations} evaluations in {sum(each.result.seconds for each in made):.1f} s"
    bright = f"in the picture std, the brightest colour is a deviation of {top:.1f} of 255 levels"
    work.lines.insert(0, f"{len(made)} samples, {spent}; {bright}")
    return {**found, "gallery": gr.update(value=listed, visible=True), "status": summary_html(work)}


def _taken(page: PageRequest) -> Callable[[str | None], tuple[Any, Any, Any]]:
    def take(path: str | None) -> tuple[Any, Any, Any]:
        try:
            if path is None:
                return None, None, None
            folder.checked(path, page.max_megapixels)
            picture = folder.shown(path)
        except Exception as error:
            raise error_of(error) from None
        return path, picture, _canvas(picture)

    return take


def _looked(path: str | None) -> Iterator[tuple[Any, ...]]:
    """What is believed of the picture, in words and in the fields: status, task, noise, its number, paint, fading, options."""
    same = (gr.skip(),) * 6
    if path is None:
        yield status_html("Drop a picture first."), *same
        return
    yield status_html("Looking ..."), *same
    try:
        seen = look(Path(path))
        found: list[Any] = [*same[:4], seen.faded, gr.skip()]
        tell = [f"It has {seen.text}."]
        if seen.scratched:
            picture = folder.shown(path)
            found[0], found[3] = "inpaint", {**_canvas(picture), "layers": [_painted(path, picture.size)]}
            tell.append(
                "What looks like scratches or dust is painted over: rub out or add what you like, then press Restore."
            )
        elif seen.operator is not None or seen.faded:
            found[0], found[1] = seen.operator or "denoise", FIRST if seen.packed else OTHER
            found[2] = gr.update(value=f"{max(seen.std, 0.005):g}", visible=not seen.packed)
            if seen.options:
                found[5] = {
                    "mark": f"seen in {path}",
                    "operator": _typed(seen.options),
                    "method": _typed(seen.method_options),
                }
            aim = "take the blur back" if seen.options else "take the noise away"
            tell.append(f"Press Restore to {aim}." if seen.operator else "Press Restore.")
        else:
            tell.append(
                "Nothing is surely wrong with it. If it is blurred, small or without colour, choose that as Task, then press Restore."
            )
        if seen.faded:
            tell.append("Its fading will be undone first; More settings, Unfade, turns that off.")
    except Exception as error:
        yield status_html(sentence(error), "wrong"), *same
        raise error_of(error) from None
    yield status_html("\n".join(tell)), *found


def _painted(path: str, size: tuple[int, int]) -> Image.Image:
    """What `flowhelm mask` would mark, as paint."""
    known = flaws(read(path).pixels, grow=1)
    alpha = to_pil(1 - 2 * known).resize(size, Image.Resampling.NEAREST)
    paint = Image.new("RGBA", size, PAINT)
    paint.putalpha(alpha)
    return paint


def _typed(options: Mapping[str, Any]) -> dict[str, str]:
    return {name: text_of(value) for name, value in options.items()}


def _word(std: float) -> str:
    """What the page calls a level of noise."""
    return next((word for word, value in NOISE.items() if value == f"{std:g}"), OTHER)


def _canvas(picture: Any) -> dict[str, Any]:
    return {"background": picture, "layers": [], "composite": None}


def _masked(name: str, photo: str | None) -> tuple[Any, Any, str]:
    """The picture is shown in the editor where that is of use."""
    builder = function_of("operator", name)
    painted = photo is not None and "mask" in options(builder)
    return gr.update(visible=photo is not None and not painted), gr.update(visible=painted), about(builder)


def _steps(now: tuple[str, str, str, str | None], device: str) -> str:
    try:
        return str(usual(*now, device=device).step_count)
    except ValueError:
        return ""
