"""The commands that draw pictures: as the prior does, steered, or from another picture."""

from collections.abc import Callable

from ...app.draw.request import DrawRequest
from ...app.edit.request import EditRequest
from ...app.models.request import check_prior
from ...app.steer.request import SteerRequest
from .progress import carried_out
from .shell import app
from .words import FREE, asks, first, sorted_out, with_options

_DRAW = (
    "Draw pictures from a prior.\n\n"
    "flowhelm sample fashion --class coat --class bag -n 8\n\n"
    "flowhelm sample aerial --prompt 'bright forest, river' --number detail=0.06 --scale 5\n\n"
    "flowhelm sample stabilityai/stable-diffusion-3.5-medium --prompt 'a lighthouse' --size 768x1024 --device cuda\n\n"
    "A sheet by default; without --class, --prompt or --number a row for each class. Picture number i of a seed is the "
    "same whatever else is drawn."
)


@app.command("generate", help=_DRAW)
@app.command(help=_DRAW)
@asks(DrawRequest, arguments=("prior",), without=("checkpointing",))
def sample(read: Callable[..., DrawRequest]) -> None:
    request = read()
    check_prior(request.prior)
    from ...app.draw.run import draw

    carried_out(draw(request))


@app.command(
    "steer",
    context_settings=FREE,
    help="Draw pictures that score high on a reward.\n\n"
    "flowhelm steer fashion --class bag --reward brightness --method fk --strength 50 --transition glass --budget 400\n\n"
    "flowhelm steer stabilityai/stable-diffusion-3.5-medium --prompt 'two cups' --reward clip:model=openai/clip-vit-large-patch14 "
    "--held-out aesthetic:model=openai/clip-vit-large-patch14,head=head.safetensors --method svdd --budget 300 --device cuda\n\n"
    "PRIOR as for `flowhelm sample`; options of the method (`flowhelm methods NAME`) are given here like any other.\n\n"
    "A reward is [WEIGHT*]NAME[:option=value,...]; several are added up. NAME is brightness, colourfulness, compressibility, palette, "
    "clip, pickscore, hps, image_reward, aesthetic, vqa, style or classifier; FILE.safetensors of a classifier; or FILE.py:FUNCTION, which "
    "runs that code.\n\n"
    "The budget, evaluations of the network per picture, chooses steps and particles (draws, rounds, chains) where they are not given; "
    "what was chosen is printed. Writes OUT.best.png (the best so far at any moment), OUT.sheet.png, OUT.curve.png and OUT.run.json, "
    "for `flowhelm rerun`. Ctrl-C leaves the best so far.",
)
@asks(SteerRequest, without=("prior",), words=("PRIOR", "The prior, and options of the method."))
def steer_(read: Callable[..., SteerRequest], words: list[str]) -> None:
    prior, others = first(words, "prior", ": flowhelm steer fashion --class bag --reward brightness")
    request = read(prior=prior)
    from ...app.options import sources
    from ...app.options.words import check

    method = sources.pick("steering", request.method)
    options = sorted_out(steer_, others, {"method": method}, "one prior and options")["method"]
    check(method, options)
    check_prior(prior)
    from ...app.steer.run import settle
    from ...app.steer.run import steer as run

    carried_out(run(settle(request.changed(method_options=options))))


@app.command(
    context_settings=FREE,
    help="Edit a picture: draw it again as a prior that is asked to show something else.\n\n"
    "flowhelm edit scene.jpg --prior aerial --from-class field --class forest\n\n"
    "flowhelm edit photo.jpg --prior stabilityai/stable-diffusion-3.5-medium --from-prompt 'a cat on a sofa' --prompt 'a dog on a sofa' "
    "--device cuda\n\n"
    "No prior is trained for it. --keep says how much of the picture stays. Options of the method (--rate, --iterations of flow_opt_edit, "
    "--draws of flow_edit) are given here like any other.",
)
@asks(EditRequest, without=("photo",), words=("PHOTO", "The picture, and options of the method."))
def edit(read: Callable[..., EditRequest], words: list[str]) -> None:
    photo, others = first(words, "picture", ": flowhelm edit scene.jpg --prior aerial --class forest")
    request = read(photo=photo)
    check_prior(request.prior)
    from ... import edit as methods
    from ...app.edit.run import edit as run

    carried_out(run(with_options(edit, request, methods.ALL, others, "one picture and options")))
