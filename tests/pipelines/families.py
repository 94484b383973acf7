"""The tiny pipelines of all families, made once per session."""

from functools import cache

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from flowhelm.bench.pipelines import tiny
from flowhelm.priors import pipelines
from flowhelm.rng import Noise

READ = [name for name, (_, told) in tiny.CASES.items() if isinstance(told["prompt"], str)]
EACH = pytest.mark.parametrize("name", tiny.CASES)
READING = pytest.mark.parametrize("name", READ)
SAME = {"flux2-klein-distilled", "z-image-turbo", "sana-2c", "sd_v"}
"""Of the class and the network of another: other settings, which parity looks at."""
KINDS = [pytest.param(name, marks=[pytest.mark.slow] * (name in SAME)) for name in tiny.CASES]
EACH_KIND = pytest.mark.parametrize("name", KINDS)
T = torch.tensor(0.4, dtype=torch.float64)
TEXTS = ("a very black dog, asleep", "cat")


def fresh(name):
    torch.manual_seed(0)
    made = tiny.CASES[name][0]()
    made.set_progress_bar_config(disable=True)
    return made


@cache
def pipe(name):
    return fresh(name)


@cache
def flow(name):
    return pipelines.wrap(pipe(name), size=tiny.CASES[name][1]["size"])


@cache
def bound(name, *prompts):
    told = tiny.CASES[name][1]
    return flow(name).bind(list(prompts) or told["prompt"], negative=told.get("negative"), scale=told.get("scale"))


def state(name, rows=1):
    return flow(name).source(Noise(0, rows=list(range(rows))))
