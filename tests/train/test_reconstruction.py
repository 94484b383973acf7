"""A flow in the latents of a reconstruction model: what it is without its parts, and what each adds."""

import pytest
import torch
from torch import nn

from flowhelm import NetFlow
from flowhelm.train import Alone, Batch, flow_matching, seeded
from flowhelm.train.reconstruction import by_place, occupied, reconstruction


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, x, t):
        return self.a * x + t.view(-1, 1, 1, 1)


def batch(rows=16):
    return Batch(torch.randn(rows, 6, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))


def test_without_its_parts_it_is_flow_matching():
    flow = NetFlow(Linear(), (6, 4, 4))
    expected = flow_matching(flow, batch(), seeded(0, 0))
    torch.testing.assert_close(reconstruction(flow, batch(), seeded(0, 0)), expected)
    ones = torch.ones(6, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(reconstruction(flow, batch(), seeded(0, 0), weight=ones), expected)
    look = lambda z: z.square()  # noqa: E731
    torch.testing.assert_close(reconstruction(flow, batch(), seeded(0, 0), look=look, price=0.0), expected)


def test_weights_are_of_a_place_and_have_mean_one():
    latents = torch.randn(400, 6, 4, 4, dtype=torch.float64)
    latents[:, :2, 1, 2] *= 3
    latents[:, 4:] *= 0.0
    w = by_place(latents, share=0.5)
    assert w.shape == (6, 4, 4)
    assert float(w.mean()) == pytest.approx(1)
    assert torch.equal(w[0], w[1])  # of a plane, whatever the channel
    assert float(w[4].max()) == pytest.approx(0.5)  # where nothing differs the share that is left
    ratio = (w[0, 1, 2] - 0.5) / (w[0, 0, 0] - 0.5)
    assert float(ratio) == pytest.approx(9, rel=0.4)
    torch.testing.assert_close(by_place(latents, share=0.0), torch.ones_like(w))
    with pytest.raises(ValueError, match="share"):
        by_place(latents, share=2.0)


def test_what_is_seen_is_compared_late_on_a_ramp():
    """look = identity: the estimate errs by (1 - t) times what the velocity does, so the price is known of every row."""
    flow = NetFlow(Linear(), (6, 4, 4))
    seen = {}

    def density(u):
        seen["t"] = u
        return u

    plain = reconstruction(flow, batch(), seeded(0, 0), density=density)
    t = seen["t"].double()
    loss = reconstruction(flow, batch(), seeded(0, 0), density=density, look=lambda z: z, price=2.0, late=0.6)
    ramp = ((t - 0.6) / 0.4).clamp(min=0)
    torch.testing.assert_close(loss, plain * (1 + 2 * ramp * (1 - t) ** 2), atol=1e-6, rtol=1e-6)
    assert 0 < int((ramp > 0).sum()) < 16


def test_the_goal_of_what_is_seen_has_no_gradient():
    flow = NetFlow(Linear(), (6, 4, 4))
    clean = batch().clean.requires_grad_()
    reconstruction(flow, Batch(clean), seeded(0, 0), look=lambda z: z, price=3.0).sum().backward()
    with_goal = clean.grad.clone()
    weights = clean.detach().requires_grad_()
    reconstruction(flow, Batch(weights), seeded(0, 0)).sum().backward()
    assert with_goal.isfinite().all()
    assert (with_goal - weights.grad).abs().max() > 0  # through x_t alone


def test_the_loss_of_a_codec_is_least_at_the_truth():
    class Codec(nn.Module):
        def __init__(self):
            super().__init__()
            self.logit = nn.Parameter(torch.zeros(()))

        def encode(self, views):
            return views

        def at(self, latent, points):
            return self.logit.expand(len(points), points.shape[1])

    codec, share = Codec(), torch.full((2, 5), 0.8)
    codec.logit.data = torch.tensor(0.8).logit()
    loss = occupied(Alone(codec), Batch(torch.zeros(2, 1), (torch.zeros(2, 5, 3), share)), seeded(0, 0))
    assert loss.shape == (2,)
    (slope,) = torch.autograd.grad(loss.sum(), codec.logit)
    assert abs(float(slope)) < 1e-6
