"""The tab that steers: what runs is the command line's own steering."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ... import steer as methods
from ...app.models import opening
from ...app.options.request import Option, fields
from ...app.options.signature import options, pick
from ...app.show.contact_sheet import Line, plot
from ...known import kind
from ...priors import bundled
from . import folder
from .fields import QUICK, Written, about, field, functions_of, offered, options_of, priors_of, text_of, values_of
from .request import PageRequest
from .requests import reopened, steer_request, steering
from .results import large
from .running import EVERY, Desk, Work
from .tab import WHOLE, Looks, Outputs, buttons, downloads, looks, saved, summary_html, wire


def steer_tab(demo: gr.Blocks, page: PageRequest, desk: Desk) -> tuple[list[Any], Callable[[folder.Run], list[Any]]]:
    """The tab; its components, and what fills them in from a run of the history."""
    from ...app.steer.request import SteerRequest

    told, written = gr.State({}), gr.State({})
    known: Mapping[str, Option] = fields(SteerRequest)
    flows = [name for name in page.priors if kind(name) == "flow"]
    first = "fashion" if "fashion" in flows else flows[0]
    with gr.Row(equal_height=False, elem_classes="both"):
        with gr.Column(elem_classes="first"):
            with gr.Row():
                prior = priors_of(flows, first, "steer-prior")
                label = gr.Dropdown(
                    _classes(first), value="", label="Class", info="What the picture shows", interactive=True, elem_id="steer-class",
                    min_width=150,
                )  # fmt: skip
            prompt = field(known["prompt"], "steer-prompt")
            reward = field(
                known["reward"], "steer-reward", value="brightness",
                info="What the picture is steered by: brightness, colourfulness, palette:colours=1d3557+e63946, clip:model=ORG/NAME, ... "
                "Join several by ' + '; a number and * before a name is its weight.",
            )  # fmt: skip
        with gr.Column(elem_classes="outcome"):
            hint = "Choose what the picture should be like, and press Steer."
            run, cancel, status = buttons("Steer", "steer-", hint)
            with gr.Row():
                best = gr.Image(label="Best so far", height=320, elem_id="best", min_width=200, **WHOLE)
                curve = gr.Image(label="Reward", height=320, elem_id="curve", min_width=300, **WHOLE)
            take, story = downloads("steer-")
            sheet = gr.Image(label="All particles", visible=False, elem_id="sheet", **WHOLE)
        with gr.Column(elem_classes="fields"):
            with gr.Row():
                method = functions_of("Method", methods.ALL, "fk", "steer-method", info="How the picture is steered")
                budget = field(known["budget"], "steer-budget", info="Evaluations of the network", placeholder="200")
            with gr.Row():
                steps = field(
                    known["steps"], "steer-steps", info="More take longer", placeholder="by budget", min_width=90
                )
                scale = field(
                    known["scale"], "steer-scale", label="Guidance", info="1 is none, 1.5 to 4 is usual", placeholder="none",
                    min_width=90,
                )  # fmt: skip
                again = "Same seed, same result"
                seed = field(known["seed"], "steer-seed", value="0", placeholder="0", info=again, min_width=90)
            own = gr.Column()
    prior.input(lambda name: gr.update(choices=_classes(name), value=""), [prior], [label], **QUICK)
    with own:

        @gr.render(
            [method, told, written], [demo.load, method.change, told.change], queue=False, show_progress="hidden"
        )
        def _options(method_: str, told_: Mapping[str, Any], written_: Written) -> None:
            chosen = pick("method", method_, methods.ALL)
            with gr.Accordion(f"Options of {method_}", open=False, elem_id="steer-options"):
                gr.Markdown(about(chosen), elem_classes="card")
                defaults = {name: option.default for name, option in options(chosen).items()}
                options_of(chosen, defaults, values_of(written_, told_, "method", method_))

    def work(values: dict[str, Any], told_: Mapping[str, Any], written_: Written, who: str) -> Iterator[Looks]:
        chosen = {"method_options": dict(values_of(written_, told_, "method", values["method"]))}
        yield from steering_looks({**values, **chosen}, page, desk, who)

    inputs = {
        "prior": prior, "label": label, "prompt": prompt, "reward": reward, "method": method, "budget": budget, "steps": steps,
        "scale": scale, "seed": seed,
    }  # fmt: skip
    pictures = {"best": best, "curve": curve, "sheet": sheet}
    wire(desk, Outputs(status, run, cancel, take, story), pictures, inputs, [told, written], work)

    def fill(old: folder.Run) -> list[Any]:
        settings = old.settings
        name = offered(settings.prior, page)
        shown = [settings.budget, len(settings.times) - 1 if settings.times else settings.steps, settings.scale]
        return [
            name, gr.update(choices=_classes(name), value=next(iter(settings.classes), "")), settings.prompt or "",
            " + ".join(settings.reward), settings.method, *map(text_of, shown), str(settings.seed),
            {**reopened(old, page.runs), "mark": old.name},
        ]  # fmt: skip

    return [*inputs.values(), told], fill


def steering_looks(
    fields_: Mapping[str, Any], page: PageRequest, desk: Desk, who: str, every: float = EVERY
) -> Iterator[Looks]:
    """Steers as the fields say; what the page is to show, by the names of its components, again and again."""
    from ...app.steer import record

    paths: dict[str, Path] = {}

    def begin() -> Any:
        where, settings = steering(steer_request(fields_), page)
        paths.update(record.outputs(settings.out))
        return where, settings.stored()

    def shows(work: Work) -> Looks:
        return {"best": None if work.picture is None else large(work.picture), "curve": _curve(work, fields_["reward"])}

    def ends(work: Work) -> Looks | None:
        if not paths["run"].is_file() or not paths["best"].is_file():
            return None
        return {
            "status": summary_html(work), "best": None if work.picture is None else large(work.picture), "curve": str(paths["curve"]),
            "sheet": gr.update(value=str(paths["sheet"]), visible=True), **saved(paths["best"], paths["run"]),
        }  # fmt: skip

    opening_ = {"best": None, "curve": None, "sheet": gr.update(visible=False)}
    yield from looks(desk, who, begin, shows, ends, opening=opening_, every=every)


def _classes(prior: str) -> list[tuple[str, str]]:
    """The classes of pictures that a bundled prior knows."""
    known = [] if opening.is_pipeline(prior) else bundled.load(prior).about.get("classes") or ()
    return [("any", ""), *((each, each) for each in known)]


def _curve(work: Work, reward: str) -> Any:
    """Reward against evaluations, so far: of the best, and the mean of the particles."""
    trace = list(work.figures)
    shown = [(each.evaluations, each.shown) for each in trace if each.shown is not None]
    mean = [(each.evaluations, each.mean) for each in trace if each.mean is not None]
    lines = [Line("best", shown)] * bool(shown) + [Line("mean of the particles", mean, part=True)] * bool(mean)
    drawn: Any = BytesIO()
    plot(lines, reward, drawn)
    return Image.open(drawn)
