"""The commands that train: a prior by a recipe, an adapter towards a reward, a student."""

from collections.abc import Callable

from ...app.distil.request import DistilRequest
from ...app.train.request import TrainRequest
from ...app.tune.request import AlignRequest
from .progress import carried_out
from .shell import app
from .words import FREE, asks, first, sorted_out, with_options


@app.command(
    context_settings=FREE,
    help="Train a prior by a recipe, or go on training.\n\n"
    "flowhelm train fashion --data fashion_mnist.npz --steps 4000 --out runs/fashion\n\n"
    "Ctrl-C saves everything, and the same command goes on, to the same weights. The folder holds the weights (for "
    "`flowhelm sample`, --prior and --start), the log, its curve and samples.\n\n"
    "Recipes and what they read: photos (--data: zip of photographs; --patch), fashion (--data: fashion_mnist.npz), aerial "
    "(--data: zip of CLASS/*.jpg; --split: JSON that names the test pictures), animals (--data: zip of train/CLASS/*.JPEG and "
    "val/CLASS/*.JPEG), digits (--data: mnist_t10k.npz; minutes on a laptop), fashion-tarflow (--data: fashion_mnist.npz; a normalising "
    "flow), moving-digits (--data: mnist_t10k.npz; one over videos), fashion_codes (--data: fashion_mnist.npz; a tokenizer), then "
    "fashion_tokens (--data the same; --codes: what fashion_codes wrote), blind (--data: zip of photographs; a restorer for "
    "`flowhelm restore --method pmrf`), codec (--data: zip of photographs; --price; a compressor for --method vble). All take --batch "
    "and --seed.",
)
@asks(TrainRequest, without=("recipe",), words=("RECIPE --data FILE", "The recipe, and its own options."))
def train(read: Callable[..., TrainRequest], words: list[str]) -> None:
    from ...app.options import sources
    from ...app.options.words import check

    names = ", ".join(sources.names("recipe"))
    name, others = first(words, "recipe", f", one of {names}: flowhelm train fashion --data fashion_mnist.npz")
    name = name.replace("-", "_")
    recipe = sources.pick("recipe", name)
    options = sorted_out(train, others, {"recipe": recipe}, "one recipe and its options")["recipe"]
    request = read(recipe=name, recipe_options=options)
    check(recipe, options)
    from ...app.train.run import train as run

    carried_out(run(request))


@app.command(
    context_settings=FREE,
    help="Fine-tune a prior towards a reward: train an adapter (LoRA) for it.\n\n"
    "flowhelm align fashion --class bag --reward brightness --method vgg_flow --beta 200 --updates 100 --out runs/bright\n\n"
    "flowhelm sample fashion --class bag --adapter runs/bright/adapter.safetensors\n\n"
    "PRIOR as for `flowhelm sample`; options of the method (`flowhelm methods NAME`) are given here like any other. Rewards as for "
    "`flowhelm steer`; without a gradient (compressibility, FILE.py:FUNCTION) take --method flow_grpo or diffusion_nft.\n\n"
    "The folder holds the adapter, which diffusers loads, too; curves, sheets of the same pictures at each check, and a card. Ctrl-C saves "
    "everything, and the same command goes on, to the same adapter. It ends early when a held-out reward falls or the pictures become "
    "alike: the reward is then being fooled.",
)
@asks(AlignRequest, without=("prior", "adapter", "student"), words=("PRIOR", "The prior, and options of the method."))
def align(read: Callable[..., AlignRequest], words: list[str]) -> None:
    prior, others = first(words, "prior", ": flowhelm align fashion --class bag --reward brightness")
    request = read(prior=prior)
    from ... import tune
    from ...app.tune.run import align as run

    carried_out(run(with_options(align, request, tune.ALL, others, "one prior and options")))


@app.command(
    context_settings=FREE,
    help="Distil a prior into a student that draws in one to four calls of the network.\n\n"
    "flowhelm distil fashion --method arc_flow --steps 2 --updates 500 --out runs/two\n\n"
    "flowhelm sample fashion --student runs/two/student.safetensors\n\n"
    "Methods: arc_flow, pi_flow, free_flow (one call), straighten read no pictures; reflow draws pairs, makes paths straight and distils, "
    "in one command; mean_flow, mdt_dist, consistency and flow_turbo (a refiner beside the prior) read pictures: --data, or the teacher's. "
    "Options of the loss are given here like any other; docs/distillation.md says which method pays.\n\n"
    "The folder holds the student, the log, its curve, the teacher beside the student from the same noise, and a card. Ctrl-C saves "
    "everything, and the same command goes on, to the same student.",
)
@asks(DistilRequest, without=("prior",), words=("PRIOR", "The teacher, and options of the method's loss."))
def distil(read: Callable[..., DistilRequest], words: list[str]) -> None:
    prior, others = first(words, "prior", ": flowhelm distil fashion --method arc_flow --steps 2")
    request = read(prior=prior)
    from ... import distil as losses
    from ...app.distil.run import distil as run

    carried_out(run(with_options(distil, request, losses.ALL, others, "one prior and options")))
