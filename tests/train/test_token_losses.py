"""The losses of a prior over tokens, against laws of which every state is known."""

import math

import pytest
import torch
from torch import nn

from flowhelm.masked import LinearTokens, Masked, Table
from flowhelm.train import Alone, Batch, filler_loss, fit, tokenizer_loss

CODES, PLACES = 3, 4
LAW = torch.rand(*[CODES] * PLACES, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 2


def prior(net):
    return Masked(net, (PLACES,), LinearTokens(torch.eye(PLACES * CODES), torch.eye(CODES)))


def test_it_is_the_entropy_of_the_tokens_where_the_conditionals_are_known():
    """L times its mean is -sum p log p: the chain rule, in whatever order."""
    exact = prior(Table(LAW))
    law, states = exact.net.law, exact.net.states
    rows = states[torch.multinomial(law, 20_000, True, generator=torch.Generator().manual_seed(1))]
    loss = filler_loss(exact, Batch(rows), torch.Generator().manual_seed(2)).double()
    entropy = float(-(law * law.log()).sum())
    assert abs(PLACES * float(loss.mean()) - entropy) < 4 * PLACES * float(loss.std()) / math.sqrt(len(rows))


def test_it_is_the_log_of_the_codes_where_nothing_is_known():
    flat = prior(Table(torch.ones(*[CODES] * PLACES)))
    loss = filler_loss(flat, Batch(torch.zeros(50, PLACES, dtype=torch.int16)), torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, torch.full_like(loss, math.log(CODES)))


class Seen(nn.Module):
    """Records what it is shown."""

    def forward(self, tokens):
        self.shown = tokens
        return torch.zeros(*tokens.shape, CODES)


def test_every_number_of_places_is_masked_as_often_and_what_is_shown_is_true():
    net, tokens = Seen(), torch.randint(CODES, (8000, PLACES), generator=torch.Generator().manual_seed(0))
    filler_loss(prior(net), Batch(tokens), torch.Generator().manual_seed(3))
    hidden = net.shown == CODES
    assert (net.shown[~hidden] == tokens[~hidden]).all()
    share = torch.bincount(hidden.sum(1), minlength=PLACES + 1) / len(tokens)
    assert share[0] == 0
    torch.testing.assert_close(share[1:], torch.full((PLACES,), 1 / PLACES), rtol=0, atol=0.03)
    torch.testing.assert_close(
        hidden.float().mean(0), torch.full((PLACES,), (PLACES + 1) / 2 / PLACES), rtol=0, atol=0.03
    )


def test_the_loss_of_a_tokenizer_is_what_does_not_come_back():
    clean = torch.randn(3, 1, 4, 4)
    loss = tokenizer_loss(Alone(nn.Identity()), Batch(clean), torch.Generator())
    assert loss.tolist() == [0, 0, 0]
    half = nn.Conv2d(1, 1, 1, bias=False)
    half.weight.data.fill_(0.5)
    loss = tokenizer_loss(Alone(half), Batch(clean), torch.Generator())
    torch.testing.assert_close(loss, clean.square().flatten(1).mean(1) / 4)


def test_fit_trains_a_network_that_is_no_flow():
    net = nn.Conv2d(1, 1, 1, bias=False)
    net.weight.data.fill_(0.2)
    data = lambda index: Batch(torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(index)))  # noqa: E731
    *_, last = fit(Alone(net), tokenizer_loss, data, steps=60, rate=0.05, warmup=1)
    assert last.index == 60
    assert float(net.weight) == pytest.approx(1, abs=0.1)
