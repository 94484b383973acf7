"""Every family against its own pipeline of diffusers: the same latents, pictures and number of calls."""

import torch
from families import EACH, flow, pipe

from flowhelm.bench.pipelines import tiny
from flowhelm.priors import pipelines
from flowhelm.priors.pipelines.parity import compare


@EACH
def test_parity(name):
    torch.manual_seed(0)
    p = compare(pipe(name), **tiny.CASES[name][1])
    assert p.good, p
    assert p.latents <= 1e-5
    assert p.pixels <= 1e-5


def test_every_family_has_a_case():
    assert {type(flow(name)) for name in tiny.CASES} == set(pipelines.FAMILIES)
    assert len({(name, each.fits) for each in pipelines.FAMILIES for name in each.classes}) >= len(pipelines.FAMILIES)
