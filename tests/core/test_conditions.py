"""What is bound to a row stays with it: through particles, micro-batches and wrappers."""

from functools import partial

import pytest
import torch
from torch import nn

from flowhelm.flow import NetFlow
from flowhelm.guide import chunked, counted

T = torch.tensor(0.3, dtype=torch.float64)


class Shift(nn.Module):
    """v = x + label + t * number: whatever row is confused shows."""

    def forward(self, x, t, label=None, number=None):
        if label is None:
            return x
        return x + label.view(-1, 1).to(x) + (t.view(-1) * number).view(-1, 1)


NULL = (torch.tensor([7]), torch.tensor([0.5]))


@pytest.fixture
def flow():
    return NetFlow(Shift(), (2,), null=NULL).bind(torch.tensor([1, 2, 3]), torch.tensor([0.1, 0.2, 0.3]))


def expected(x, particles):
    labels = torch.tensor([1.0, 2.0, 3.0]).repeat_interleave(particles)
    return x + (labels + 0.3 * labels / 10)[:, None]


@pytest.mark.parametrize("particles", [1, 4])
def test_every_particle_is_told_what_its_row_is_told(flow, particles):
    x = torch.randn(3 * particles, 2)
    torch.testing.assert_close(flow.velocity(x, T), expected(x, particles))


@pytest.mark.parametrize("size", [1, 2, 5, 12, 13])
@pytest.mark.parametrize("wrap", [lambda f: f, counted], ids=["bare", "wrapped"])
def test_chunks_know_their_rows(flow, size, wrap):
    x = torch.randn(12, 2)
    torch.testing.assert_close(chunked(wrap(flow), size).velocity(x, T), expected(x, 4))
    times = torch.linspace(0.1, 0.9, 12, dtype=torch.float64)
    torch.testing.assert_close(chunked(wrap(flow), size).velocity(x, times), flow.velocity(x, times))


def test_a_wrapper_that_holds_no_conditions_is_not_copied():
    flow = counted(NetFlow(Shift(), (2,)))
    assert flow.rows(torch.arange(2), 4) is flow


def test_guidance_compares_with_the_null_in_one_call(flow):
    seen = []

    class Spy(Shift):
        def forward(self, x, t, label=None, number=None):
            seen.append((label, number))
            return super().forward(x, t, label, number)

    guided = NetFlow(Spy(), (2,), null=NULL).bind(
        torch.tensor([1, 2]), torch.tensor([0.1, 0.2]), guidance=lambda given, without, t: 3 * given - 2 * without
    )
    x = torch.randn(2, 2)
    v = guided.velocity(x, T)
    assert len(seen) == 1
    assert seen[0][0].tolist() == [1, 2, 7, 7]
    torch.testing.assert_close(seen[0][1], torch.tensor([0.1, 0.2, 0.5, 0.5]))
    given, without = x + torch.tensor([[1.03], [2.06]]), x + 7.15
    torch.testing.assert_close(v, 3 * given - 2 * without)


def test_what_cannot_be_bound(flow):
    with pytest.raises(ValueError, match="multiple of the 3 bound rows, got a batch of 4"):
        flow.velocity(torch.zeros(4, 2), T)
    with pytest.raises(ValueError, match="as many rows"):
        flow.bind(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="null"):
        NetFlow(Shift(), (2,)).bind(torch.zeros(2), torch.zeros(2), guidance=partial(max))
