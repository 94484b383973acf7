"""Gradients through the velocity of every family."""

import torch
from families import EACH, T, fresh, state

from flowhelm.bench.pipelines import tiny
from flowhelm.priors import pipelines


@EACH
def test_the_gradient_is_that_of_the_velocity(name):
    """A directional derivative in float64 against a central difference: no part of a network is left out."""
    own = fresh(name)
    for part in own.components.values():
        if isinstance(part, torch.nn.Module):
            part.double()
    told = tiny.CASES[name][1]
    mine = pipelines.wrap(own, size=told["size"]).bind(
        told["prompt"], negative=told.get("negative"), scale=told.get("scale")
    )
    x = state(name).double()
    way, cotangent = torch.randn_like(x), torch.randn_like(x)
    z = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad((mine.velocity(z, T) * cotangent).sum(), z)
    h = 2e-4
    with torch.no_grad():
        ahead, behind = (mine.velocity(x + sign * h * way, T) for sign in (1, -1))
    numeric = ((ahead - behind) / (2 * h) * cotangent).sum()
    torch.testing.assert_close((slope * way).sum(), numeric, rtol=1e-2, atol=1e-3)
