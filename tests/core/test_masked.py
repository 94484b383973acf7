"""Masked diffusion over tokens, on laws of which every state is known."""

import itertools
import math

import pytest
import torch

from flowhelm import Noise, run, sample
from flowhelm.guide import counted
from flowhelm.masked import LinearTokens, Masked, Table, bound, gumbel, kept, unmask

CODES, PLACES, ROWS = 3, 3, 4000


@pytest.fixture(scope="module")
def prior():
    """A law of three places with three codes in which no place is independent of another."""
    generator = torch.Generator().manual_seed(1)
    law = torch.rand(*[CODES] * PLACES, generator=generator, dtype=torch.float64) ** 3
    matrix = torch.randn(2, PLACES * CODES, generator=generator, dtype=torch.float64)
    return Masked(Table(law), (PLACES,), LinearTokens(matrix, torch.eye(CODES, dtype=torch.float64)))


def total_variation(tokens, law):
    place = (tokens * torch.tensor([CODES**2, CODES, 1])).sum(1)
    return float((torch.bincount(place, minlength=len(law)) / len(tokens) - law).abs().sum() / 2)


def sampled(prior, steps, seed=0, **options):
    noise = Noise(seed, ROWS)
    return run(sample.unmasking(prior, prior.source(noise), prior.times(steps), noise=noise, **options)).x


def error(law):
    """What a total variation is of so many exact draws, at most: three standard deviations above its mean."""
    return float((law * (1 - law) / ROWS).sqrt().sum()) / 2 * (math.sqrt(2 / math.pi) + 0.5)


def test_the_table_knows_the_conditional_of_every_mask(prior):
    law = prior.net.law.view(*[CODES] * PLACES)
    x = torch.tensor([[1, CODES, CODES], [CODES, 2, 0], [CODES] * 3])
    found = prior.logits(x).exp()
    torch.testing.assert_close(found[0, 1].double(), law[1].sum(1) / law[1].sum(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found[1, 0].double(), law[:, 2, 0] / law[:, 2, 0].sum(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found[2, 2].double(), law.sum((0, 1)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("steps", "order", "more"), [(PLACES, "random", 0.0), (24, "chance", 0.04)])
def test_one_place_at_a_time_and_small_steps_by_chance_draw_the_joint_law(prior, steps, order, more):
    law = prior.net.law
    assert total_variation(sampled(prior, steps, order=order), law) < error(law) + more


def test_all_places_at_once_draw_the_product_of_the_marginals(prior):
    law = prior.net.law.view(*[CODES] * PLACES)
    alone = [law.sum([j for j in range(PLACES) if j != i]) for i in range(PLACES)]
    product = torch.einsum("a,b,c->abc", *alone).flatten()
    found = sampled(prior, 1, order="chance")
    assert total_variation(found, product) < error(product)
    assert total_variation(found, law.flatten()) > 0.1  # and that is another law


@pytest.mark.parametrize("order", ["random", "confidence"])
def test_so_many_places_are_unmasked_as_the_time_says(prior, order):
    noise = Noise(0, 20)
    x = prior.source(noise)
    for s, t in itertools.pairwise(prior.times(6)):
        new, drawn = unmask(prior, x, s, t, noise, order=order)
        assert ((new != prior.mask).sum(1) == max(kept(t, PLACES), 0)).all()
        assert (new[x != prior.mask] == x[x != prior.mask]).all()  # what stands, stays
        assert (new[new != prior.mask] == drawn[new != prior.mask]).all()
        x = new


def test_the_share_that_chance_unmasks_is_the_step_over_what_is_left(prior):
    noise = Noise(0, ROWS)
    s, t = torch.tensor(0.25, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    x, _ = unmask(prior, prior.source(noise), s, t, noise)
    share, std = 1 / 3, math.sqrt(1 / 3 * 2 / 3 / (ROWS * PLACES))
    assert abs(float((x != prior.mask).double().mean()) - share) < 4 * std


def test_confidence_unmasks_the_surest_first(prior):
    noise = Noise(0, 50)
    x, drawn = unmask(prior, prior.source(noise), *prior.times(3)[:2], noise, order="confidence")
    log_p = prior.logits(prior.source(noise)).gather(-1, drawn[..., None])[..., 0]
    assert (log_p.argmax(1) == (x != prior.mask).double().argmax(1)).all()


def test_the_bound_is_the_entropy_where_the_conditionals_are_known(prior):
    """L times the mean surprise of n masked places, n uniform, over all orders: the chain rule."""
    law, states = prior.net.law, prior.net.states
    total = torch.zeros(len(states), dtype=torch.float64)
    for count in range(1, PLACES + 1):
        hidden = list(itertools.combinations(range(PLACES), count))
        for each in hidden:
            masked = states.clone()
            masked[:, each] = prior.mask
            surprise = -prior.logits(masked).double().gather(-1, states[..., None])[..., 0]
            total += surprise[:, each].mean(1) / len(hidden)  # PLACES * mean over n of the mean over what is masked
    exact = -law.log()
    assert float((law * (total - exact)).sum()) == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(total, exact, rtol=1e-4, atol=1e-4)  # of every state, not on average alone


def test_the_bound_that_is_drawn_is_that_bound_on_average(prior):
    state = prior.net.states[[5]].expand(4000, -1)
    found = bound(prior, state, Noise(0, 4000)).double()
    exact = float(-prior.net.law[5].log())
    assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / math.sqrt(4000)


def test_a_wrong_network_is_bounded_above(prior):
    flat = Masked(Table(torch.ones(*[CODES] * PLACES)), (PLACES,), prior.tokenizer)
    assert float(bound(flat, prior.net.states, Noise(0, len(prior.net.states))).mean()) == pytest.approx(
        PLACES * math.log(CODES), rel=1e-5
    )


def test_gumbel_draws_have_its_mean_and_its_spread():
    draws = gumbel(Noise(0, 4), torch.empty(4, 20_000, dtype=torch.float64))
    assert float(draws.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(draws.var()) == pytest.approx(math.pi**2 / 6, rel=0.03)


def test_a_row_does_not_depend_on_its_neighbours(prior):
    whole, part = Noise(3, range(5)), Noise(3, [1, 3])
    times = prior.times(3)
    alone = run(sample.unmasking(prior, prior.source(part), times, noise=part)).x
    assert (run(sample.unmasking(prior, prior.source(whole), times, noise=whole)).x[[1, 3]] == alone).all()


def test_evaluations_are_counted(prior):
    tally, noise = counted(prior), Noise(0, 5)
    run(sample.unmasking(tally, tally.source(noise), tally.times(4), noise=noise))
    assert (tally.count.calls, tally.count.rows, tally.count.backward) == (4, 20, 0)


def test_what_is_no_token_is_refused_in_one_sentence(prior):
    with pytest.raises(ValueError, match=r"tokens: expected 0\.\.2, or 3 where masked, got 0\.\.4"):
        prior.logits(torch.tensor([[0, 1, 4]]))
    with pytest.raises(ValueError, match=r"tokens: expected 0\.\.2, got 0\.\.3"):
        prior.decode(torch.tensor([[0, 1, 3]]))
    with pytest.raises(ValueError, match=r"tokens: expected whole numbers \(b, 3\), got torch.int64 \(1, 4\)"):
        prior.logits(torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="is over tokens and has no velocity"):
        prior.ends(torch.zeros(1, 3), torch.tensor(0.5))


def test_tokens_go_to_a_picture_and_come_back(prior):
    states = prior.net.states
    assert (prior.encode(prior.decode(states)) == states).all()
    assert (prior.nearest(prior.embed(states)) == states).all()
    p = torch.nn.functional.one_hot(states, CODES).double()
    torch.testing.assert_close(prior.expected(p), prior.embed(states))


def test_the_posterior_of_the_table_is_bayes_rule(prior):
    y = torch.tensor([0.3, -0.2], dtype=torch.float64)
    found = prior.net.posterior(prior, lambda picture: -((picture.flatten(1) - y) ** 2).sum(1))
    weight = prior.net.law * (-((prior.decode(prior.net.states).flatten(1) - y) ** 2).sum(1)).exp()
    torch.testing.assert_close(found, weight / weight.sum())


def test_a_place_that_is_shown_is_believed_but_for_the_doubt(prior):
    found = prior.believed(torch.tensor([[1, CODES, CODES]]), doubt=0.3).exp().float()
    torch.testing.assert_close(found[0, 0], torch.tensor([0.1, 0.8, 0.1]), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        found[0, 1], prior.logits(torch.tensor([[1, CODES, CODES]])).exp().float()[0, 1], rtol=1e-4, atol=1e-6
    )
