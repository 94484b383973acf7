"""A control branch beside a frozen transformer: nothing at first, exactly; then what diffusers' two networks do together."""

import pytest
import torch
from toys import randomised

from flowhelm import NetFlow
from flowhelm.priors.controlled import Controlled
from flowhelm.priors.mmdit import MMDiT
from flowhelm.train import Batch, fit, flow_matching

SHAPE = (3, 8, 8)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return randomised(MMDiT(SHAPE, words=6, places=2, patch=2, width=12, layers=3, heads=3).double())


def given(rows=2):
    torch.manual_seed(1)
    words, past_words = torch.tensor([[1, 4], [2, 5]])[:rows], torch.tensor([[1, 6], [2, 0]])[:rows]
    x, past = torch.randn(2, rows, *SHAPE, dtype=torch.float64)
    return x, torch.tensor([0.25, 0.75]).double()[:rows], words, past, past_words


def test_at_first_it_changes_nothing_at_all(net):
    """What is added is 0, to the bit; the same sums may differ in the last bit from call to call, by where memory lies."""
    x, t, words, past, past_words = given()
    both, added = Controlled(net), []
    both.control.register_forward_hook(lambda module, args, out: added.extend(out[0]))
    torch.testing.assert_close(both(x, t, words, past, past_words), net(x, t, words), atol=1e-13, rtol=0)
    assert len(added) == 2
    assert not any(each.any() for each in added)


def test_the_configuration_of_the_frozen_network_stays(net):
    before = dict(net.transformer.config)
    Controlled(net, layers=1)
    assert dict(net.transformer.config) == before


def test_it_is_the_two_networks_of_diffusers(net):
    """The branch reads the past text and the noisy picture, and what it gives is added after the layers of the frozen network."""
    x, t, words, past, past_words = given()
    both = Controlled(net, layers=2)
    randomised(both.control)
    read = lambda w: {  # noqa: E731
        "encoder_hidden_states": net.word(w) + net.place, "pooled_projections": net.pooled(net.word(w).mean(1)),
    }  # fmt: skip
    clock = 1000 * (1 - t)
    samples = both.control(x, past, timestep=clock, **read(past_words)).controlnet_block_samples
    expected = net.transformer(x, timestep=clock, block_controlnet_hidden_states=samples, **read(words)).sample
    torch.testing.assert_close(both(x, t, words, past, past_words), expected)
    assert (expected - net(x, t, words)).abs().max() > 1e-3
    both.strength = 0.0
    torch.testing.assert_close(both(x, t, words, past, past_words), net(x, t, words))


def test_only_the_branch_learns(net):
    x, _, words, past, past_words = given()
    frozen = {name: each.clone() for name, each in net.named_parameters()}
    both = Controlled(net)
    null = (torch.zeros(2, dtype=torch.int64), torch.zeros(SHAPE).double(), torch.zeros(2, dtype=torch.int64))
    batch = Batch(x, (words, past, past_words))
    for update in fit(NetFlow(both, SHAPE, null=null), flow_matching, lambda index: batch, steps=3, warmup=1):
        assert update.loss.isfinite()
    assert all(torch.equal(each, frozen[name]) for name, each in net.named_parameters())
    assert max(float(each.weight.detach().abs().max()) for each in both.control.controlnet_blocks) > 0


def test_a_row_sees_its_own_past_only(net):
    x, t, words, past, past_words = given()
    both = Controlled(net)
    randomised(both.control)
    together = both(x, t, words, past, past_words)
    alone = both(x[:1], t[:1], words[:1], past[:1], past_words[:1])
    torch.testing.assert_close(together[:1], alone)


def test_what_does_not_fit_is_refused(net):
    x, t, words, past, past_words = given()
    with pytest.raises(ValueError, match="past picture of the same size"):
        Controlled(net)(x, t, words, past[..., :4], past_words)
    with pytest.raises(ValueError, match="1 to 2 layers"):
        Controlled(net, layers=3)
