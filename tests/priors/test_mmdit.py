"""SD3's transformer with words: what it hands to diffusers' network, what a missing word is, what is refused."""

import pytest
import torch
from toys import randomised

from flowhelm.flow import NetFlow
from flowhelm.priors.mmdit import MMDiT, numbered
from flowhelm.train import Batch, flow_matching

WORDS = ("dark", "bright", "coat", "ankle", "boot")


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = randomised(MMDiT((1, 8, 8), words=len(WORDS), patch=2, width=12, layers=2, heads=3))
    torch.nn.init.zeros_(made.word.weight[0])
    return made.double()


def test_it_is_the_network_of_diffusers_at_the_level_of_the_noise(net):
    """x, the words' vectors with their places, their mean through a small network, and 1000 (1 - t)."""
    x, t = torch.randn(2, 1, 8, 8).double(), torch.tensor([0.25, 0.75]).double()  # whole numbers of the clock
    words = numbered(["bright ankle boot", "coat"], WORDS)
    read = torch.stack(
        [torch.stack([net.word.weight[i] if i else torch.zeros(12).double() for i in row]) for row in words]
    )
    by_hand = net.transformer(
        x, read + net.place, net.pooled(read.mean(1)), torch.tensor([750.0, 250.0]).double()
    ).sample
    torch.testing.assert_close(net(x, t, words), by_hand, atol=1e-10, rtol=0)


def test_a_text_of_nothing_is_the_null_condition(net):
    flow = NetFlow(net, (1, 8, 8), null=(torch.zeros(4, dtype=torch.int64),))
    x, t = torch.randn(3, 1, 8, 8).double(), torch.tensor(0.4).double()
    nothing = flow.bind(numbered(["", "", ""], WORDS))
    torch.testing.assert_close(flow.velocity(x, t), nothing.velocity(x, t), atol=1e-12, rtol=0)
    dark, bright = (flow.bind(numbered([text] * 3, WORDS)).velocity(x, t) for text in ("dark coat", "bright coat"))
    assert (dark - bright).abs().max() > 1e-6
    turned = flow.bind(numbered(["coat dark"] * 3, WORDS)).velocity(x, t)
    assert (dark - turned).abs().max() > 1e-8  # words have places


def test_a_row_does_not_see_its_neighbours(net):
    x, t = torch.randn(3, 1, 8, 8).double(), torch.tensor([0.2, 0.5, 0.9]).double()
    words = numbered(["dark", "coat", "ankle boot"], WORDS)
    one = torch.cat([net(x[i : i + 1], t[i : i + 1], words[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(net(x, t, words), one, atol=1e-10, rtol=0)


def test_it_learns_by_the_one_loss(net):
    flow = NetFlow(net, (1, 8, 8), null=(torch.zeros(4, dtype=torch.int64),))
    batch = Batch(torch.randn(4, 1, 8, 8).double(), (numbered(["dark coat"] * 4, WORDS),))
    loss = flow_matching(flow, batch, torch.Generator().manual_seed(0))
    assert loss.shape == (4,)
    loss.mean().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in (net.word.weight, net.place))


@pytest.mark.parametrize(
    ("text", "message"), [("red coat", "'red'"), ("dark dark dark dark coat", "at most 4 words, got 5; shorten it")]
)
def test_words_that_are_not_there_and_sides_that_do_not_fit(text, message):
    with pytest.raises(ValueError, match=message):
        numbered([text], WORDS)
    with pytest.raises(ValueError, match="multiples of patch = 2"):
        MMDiT((1, 9, 8), words=2)
