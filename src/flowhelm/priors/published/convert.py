"""Converts a published checkpoint into weights that flowhelm opens.

    python -m flowhelm.priors.published.convert pnp-flow-celeba model_final.pt celeba.safetensors
    python -m flowhelm.priors.published.convert adm my.pt my.safetensors --size 64 --heads 4 --schedule cosine

Only tensors are read of a pickle, in a process of its own: code in it is not run. `--list` shows which checkpoints are known by name and
where they are published; one that you trained with the same code is named by its layout: pnp_flow, torchcfm, adm, sit or edm.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from ...known import nearest
from . import KIND, LAYOUTS, edm
from .checkpoint import tensors
from .models import MODELS
from .names import fitted


def convert(name: str, checkpoint: Path, to: Path, **options: Any) -> Path:
    """Writes a published checkpoint as safetensors that `flowhelm.load` opens, beside and then renamed.

    Args:
        name: of `models.MODELS`, or of a layout, for one's own training of that code.
        checkpoint: what was fetched; a pickle is read in a process of its own, tensors only.
        to: a .safetensors file that is not there yet.
        options: of the layout's `config`, over those of the published model: size, heads, head_width, order, schedule.

    Raises:
        ValueError: an unknown name or option, a file that is there, and all that is wrong with a checkpoint.
    """
    if name not in MODELS and name not in LAYOUTS:
        raise ValueError(
            f"convert: expected a published model or one of {', '.join(LAYOUTS)}, got {name!r}; {nearest(name, MODELS)}"
        )
    layout = MODELS[name].layout if name in MODELS else name
    module: Any = LAYOUTS[layout]
    if to.suffix != ".safetensors" or to.exists():
        raise ValueError(f"convert: expected the name of a new .safetensors file, got '{to}'; name another")
    if layout == "edm" and checkpoint.suffix == ".pkl":
        raise ValueError(f"convert: '{checkpoint}' is not read; {edm.REMEDY}")
    known = list(inspect.signature(module.config).parameters)[1:]
    given = {**(MODELS[name].options if name in MODELS else {}), **options}
    for option in given:
        if option not in known or option == "layout":
            raise ValueError(
                f"convert: {layout} takes no {option}; it takes {', '.join(k for k in known if k != 'layout') or 'none'}"
            )
    weights = tensors(checkpoint, module.ENTRIES)
    try:
        config = module.config(weights, **given)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        what = ".".join(map(str, wrong["loc"]))
        raise ValueError(
            f"convert: these tensors make no {module.LAYOUT} ({what}{': ' * bool(what)}{wrong['msg']}); give the options that fit them"
        ) from None
    with torch.device("meta"):
        net = module.network(config)
    made = fitted(weights, module.table(config), net, module.LAYOUT)
    about: dict[str, Any] = {"size": config.size}
    if config.classes:
        about["classes"] = [str(each) for each in range(config.classes)]
    if name in MODELS:
        about |= {"model": name, "source": MODELS[name].where, "draws": MODELS[name].what}
    part = to.with_name(to.name + ".part")
    header = {"kind": KIND, "layout": layout, "config": config.model_dump_json(), "about": json.dumps(about)}
    try:
        save_file(made, part, header)
        part.replace(to)
    finally:
        part.unlink(missing_ok=True)
    return to


def main() -> int:
    """Returns the exit status: 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m flowhelm.priors.published.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="show the published checkpoints and leave")
    parser.add_argument("model", nargs="?", help="name of a published checkpoint, or of a layout")
    parser.add_argument("checkpoint", nargs="?", type=Path, help="the file that was fetched")
    parser.add_argument("to", nargs="?", type=Path, help="the .safetensors file to write")
    parser.add_argument("--size", type=int, help="side of the pictures that it was trained on, in pixels")
    parser.add_argument("--heads", type=int, help="heads of every attention")
    parser.add_argument("--head-width", type=int, help="channels of a head (64 unless said)")
    parser.add_argument(
        "--order", choices=["head", "part"], help="how query, key and value are stacked: by head, or all queries first"
    )
    parser.add_argument("--schedule", choices=["linear", "cosine"], help="of a network that predicts noise")
    given = parser.parse_args()
    if given.list:
        for name, model in MODELS.items():
            print(f"{name:24} {model.what}\n{'':24} {model.file}: {model.where}")
        return 0
    if given.to is None:
        parser.error("expected a model, its checkpoint and a file to write; --list shows the models")
    options = ("size", "heads", "head_width", "order", "schedule")
    try:
        convert(
            given.model,
            given.checkpoint,
            given.to,
            **{k: getattr(given, k) for k in options if getattr(given, k) is not None},
        )
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{given.to} is written; use it where a prior is named: flowhelm restore PHOTO --prior {given.to}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
