"""The whole picture: diffusers' own pipeline call with a scheduler of several steps, and our solver on the same noise and levels."""

from functools import partial

import pytest
import torch
from families import fresh, state
from torch import Tensor

from flowhelm import Flow, Wrapped, run, sample
from flowhelm.bench.pipelines import tiny
from flowhelm.guide import counted
from flowhelm.priors import pipelines

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
RIVAL = partial(sample.unipc, variable="snr", rule="bh2")
SCHEDULERS = {
    "UniPC-2": ("UniPCMultistepScheduler", {"solver_order": 2}, RIVAL),
    "UniPC-3": ("UniPCMultistepScheduler", {"solver_order": 3}, partial(RIVAL, order=3)),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {"solver_order": 2}, sample.dpm),
    "DPM++ 2M, heun": (
        "DPMSolverMultistepScheduler",
        {"solver_order": 2, "solver_type": "heun"},
        partial(sample.dpm, rule="exact"),
    ),
}


class Labelled(Wrapped):
    """Asked at the whole numbers that the scheduler made of its levels, as the pipeline asks."""

    def __init__(self, flow: Flow, times: Tensor, labels: Tensor):
        self.flow, self.visited, self.labels = flow, times, labels

    def velocity(self, x, t):
        return self.flow.velocity(x, self.labels[(self.visited - t).abs().argmin()])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_the_picture_is_that_of_the_pipeline(name, scheduler):
    import diffusers

    kind, options, ours = SCHEDULERS[scheduler]
    told, own, steps = tiny.CASES[name][1], fresh(name), 6
    flow = pipelines.wrap(own, size=told["size"]).bind(
        told["prompt"], negative=told.get("negative"), scale=told["scale"]
    )
    own.scheduler = getattr(diffusers, kind).from_config(own.scheduler.config, **FLOW | options)
    x = state(name)
    given = flow.arguments(told["prompt"], told.get("negative"), told["scale"])
    given |= {"height": told["size"][0], "width": told["size"][1], "num_inference_steps": steps, "output_type": "pt"}
    with torch.no_grad():
        theirs = own(**given, latents=flow.native(x)).images
        times = 1 - own.scheduler.sigmas.double()
        labels = 1 - own.scheduler.timesteps.double() / 1000
        asked = counted(Labelled(flow, times[:-1], labels))
        mine = flow.decode(run(ours(asked, x, times)).x)
        euler = flow.decode(run(sample.euler(Labelled(flow, times[:-1], labels), x, times)).x)
    assert asked.count.calls == steps
    assert times[-1] == 1
    assert ((mine / 2 + 0.5).clamp(0, 1) - theirs).abs().max() < 1e-5
    assert ((euler / 2 + 0.5).clamp(0, 1) - theirs).abs().max() > 1e-4  # another solver's picture is another
