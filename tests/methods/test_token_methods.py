"""Methods for priors over tokens, on laws of which every state and every posterior is known."""

import math
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch

from flowhelm import Linear, Measurement, Noise, cards, load, restore, run
from flowhelm.guide import counted
from flowhelm.masked import LinearTokens, Masked, Table

CODES, PLACES, ROWS = 3, 3, 2000
EVERY = pytest.mark.parametrize("method", restore.TOKENS, ids=lambda method: method.__name__)
LAW = torch.rand(*[CODES] * PLACES, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 3


def prior_of(law, matrix):
    return Masked(Table(law), (PLACES,), LinearTokens(matrix, torch.eye(CODES, dtype=torch.float64)))


@pytest.fixture(scope="module")
def prior():
    generator = torch.Generator().manual_seed(3)
    return prior_of(LAW, torch.randn(4, PLACES * CODES, generator=generator, dtype=torch.float64))


@pytest.fixture(scope="module")
def product():
    """A law of independent places, each of which makes a pixel of its own: then the posterior is one of independent places, too."""
    alone = torch.rand(PLACES, CODES, generator=torch.Generator().manual_seed(5), dtype=torch.float64) + 0.1
    alone = alone / alone.sum(1, keepdim=True)
    matrix = torch.block_diag(*[torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64)] * PLACES)
    return prior_of(torch.einsum("a,b,c->abc", *alone), matrix)


def seen(prior, tokens, std):
    """All pixels of a picture, with noise of that std in them; none is added."""
    picture = prior.decode(torch.tensor([tokens]))
    return Measurement(picture, Linear(lambda x: x, tuple(picture.shape[1:])), std)


def restored(method, prior, y, rows=1, steps=PLACES, seed=0, x=None, start=0.0, **options):
    noise = Noise(seed, rows)
    times = torch.linspace(start, 1, steps + 1, dtype=torch.float64)
    return run(method(prior, y, prior.source(noise) if x is None else x, times, noise=noise, **options)).x


def total_variation(tokens, law):
    place = (tokens * torch.tensor([CODES**2, CODES, 1])).sum(1)
    return float((torch.bincount(place, minlength=len(law)) / len(tokens) - law).abs().sum() / 2)


def error(law):
    """Of the total variation of so many exact draws: well above its mean."""
    return float((law * (1 - law) / ROWS).sqrt().sum()) / 2 * (math.sqrt(2 / math.pi) + 0.5)


@pytest.mark.parametrize(
    "method",
    [
        partial(restore.aps, inner=60),
        partial(restore.g2d2, inner=60),
        partial(restore.sgdd, proposals=150),
        restore.tag,
    ],
    ids=["aps", "g2d2", "sgdd", "tag"],
)
@pytest.mark.parametrize("tokens", [(0, 2, 2), (2, 0, 0)])
def test_what_is_measured_well_is_found(product, method, tokens):
    """The prior must not decide what the measurement does."""
    found = restored(method, product, seen(product, tokens, 0.15), rows=20)
    assert float((found == torch.tensor(tokens)).all(1).double().mean()) > 0.85


def test_a_wrong_token_is_repaired_if_it_may_be_masked_again(product):
    """The second of the two ideas of APS: what is unmasked is no anchor unless the measurement holds it."""
    truth, wrong = (0, 1, 2), torch.tensor([[2, CODES, CODES]])
    y = seen(product, truth, 0.1)
    found = {
        remask: restored(restore.aps, product, y, steps=2, x=wrong, start=1 / 3, inner=60, remask=remask)
        for remask in ("anchored", "never")
    }
    assert found["anchored"].tolist() == [list(truth)]
    assert found["never"].tolist() == [[2, 1, 2]]


def test_a_token_that_is_never_doubted_is_not_repaired(product):
    wrong = torch.tensor([[2, CODES, CODES]])
    y = seen(product, (0, 1, 2), 0.1)
    found = restored(restore.aps, product, y, steps=2, x=wrong, start=1 / 3, inner=60, doubt=0.0, rate=0.01)
    assert found[0, 0] == 2


@pytest.mark.parametrize("remask", ["anchored", "network", "never"])
def test_the_surest_place_is_kept(product, remask):
    """Of three masked places one is kept: that whose best code is the most probable, where the measurement says nothing."""
    y, noise = seen(product, (0, 0, 0), 1e9), Noise(0, 1)
    step = next(
        restore.aps(
            product, y, product.source(noise), product.times(PLACES), noise=noise, temperature=0.0, inner=1,
            remask=remask,
        )
    )  # fmt: skip
    best, code = product.logits(product.source(noise))[0].max(-1)
    assert step.x[0].ne(CODES).nonzero().flatten().tolist() == [int(best.argmax())]
    assert step.x[0, best.argmax()] == code[best.argmax()]


def test_the_quantised_expectation_is_a_code_and_has_the_gradient_of_the_mean(prior):
    """What APS gives the decoder is that of tokens; what comes back is as if it had been the mean."""
    probabilities = torch.rand(2, PLACES, CODES, dtype=torch.float64, requires_grad=True)
    mean = prior.expected(probabilities / probabilities.sum(-1, keepdim=True))
    code = mean + (prior.embed(prior.nearest(mean)) - mean).detach()
    assert (
        (code - 0).abs().isclose(torch.tensor(0.0, dtype=torch.float64)) | code.isclose(torch.tensor(1.0).double())
    ).all()
    weight = torch.randn(mean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (quantised,) = torch.autograd.grad((code * weight).sum(), probabilities, retain_graph=True)
    (plain,) = torch.autograd.grad((mean * weight).sum(), probabilities)
    torch.testing.assert_close(quantised, plain)


def test_aps_without_information_draws_the_prior(prior):
    """Nothing measured, no doubt, an order at random, one place at a time: the law of the prior."""
    y = seen(prior, (0, 0, 0), 1e9)
    found = restored(restore.aps, prior, y, rows=ROWS, inner=2, choice="draw", temperature=1e6, doubt=0.0)
    assert total_variation(found, prior.net.law) < error(prior.net.law)


def test_trust_is_the_price_of_leaving_the_prior(prior):
    """The same measurement: the dearer it is, the nearer the law of what is drawn is to that of the prior."""
    y, law = seen(prior, (2, 0, 1), 0.7), prior.net.law
    options = {"rows": 800, "inner": 30, "choice": "draw", "doubt": 0.0, "temperature": 1e6}
    far, near = (total_variation(restored(restore.aps, prior, y, trust=t, **options), law) for t in (0.02, 100.0))
    assert near < 0.15 < far - 0.1


@dataclass
class Slope:
    """A log-likelihood that is linear in the picture, so that its first order is all of it."""

    weight: torch.Tensor

    def __call__(self, picture):
        return (picture.flatten(1) * self.weight).sum(1)

    def misfit(self, picture):
        return -self(picture)


def test_tag_is_exact_where_the_likelihood_is_linear_and_places_are_independent(product):
    reward = Slope(torch.tensor([1.5, -1.0, 0.7], dtype=torch.float64))
    exact = product.net.posterior(product, reward)
    found = restored(restore.tag, product, reward, rows=ROWS)
    assert total_variation(found, exact) < error(exact)
    assert total_variation(found, product.net.law) > 0.15


def test_tag_of_no_strength_draws_the_prior(prior):
    found = restored(restore.tag, prior, seen(prior, (0, 1, 2), 0.1), rows=ROWS, strength=0.0)
    assert total_variation(found, prior.net.law) < error(prior.net.law)


@pytest.mark.parametrize("level", [0.5])
def test_sgdd_draws_its_law_of_each_level(prior, level):
    """At one level the chain of x, z and what is masked leaves p(y | x) sum_z p(z) prod_l (s [x_l is z_l] + (1 - s) / K) as it is."""
    y, states, law = seen(prior, (1, 0, 2), 1.0), prior.net.states, prior.net.law
    coupled = (level * (states[:, None] == states).double() + (1 - level) / CODES).prod(-1)
    exact = (y(prior.decode(states)) + (coupled @ law).log()).softmax(0)
    noise, times = Noise(0, 1200), level + 1e-9 * torch.arange(13, dtype=torch.float64)
    *_, last = restore.sgdd(prior, y, prior.source(noise), times, proposals=8, fill=3, noise=noise)
    assert total_variation(last.clean, exact) < 0.07
    assert total_variation(last.clean, prior.net.posterior(prior, y)) > 0.1  # from which that law is far


@pytest.mark.slow
def test_sgdd_comes_nearer_to_the_posterior_than_its_first_levels(prior):
    """It is annealed, and what it has not reached at the end it does not reach."""
    y = seen(prior, (1, 0, 2), 1.0)
    exact = prior.net.posterior(prior, y)
    found = restored(restore.sgdd, prior, y, rows=1000, steps=16, proposals=8, fill=3)
    assert (
        total_variation(found, exact)
        < 0.25
        < total_variation(prior.net.states[torch.multinomial(prior.net.law, 1000, True)], exact)
    )


@EVERY
def test_the_network_is_asked_forward_only_and_as_often_as_the_card_says(prior, method):
    tally, options = counted(prior), {"sgdd": {"fill": 2, "proposals": 3}, "tag": {}}.get(method.__name__, {"inner": 3})
    restored(method, tally, seen(prior, (0, 1, 2), 0.3), rows=4, steps=5, **options)
    calls = 5 * options.get("fill", 1)
    assert (tally.count.calls, tally.count.rows, tally.count.backward) == (calls, 4 * calls, 0)


@EVERY
def test_a_row_is_what_it_is_alone_and_what_it_was_before(prior, method):
    options = {"sgdd": {"fill": 2, "proposals": 3}, "tag": {}}.get(method.__name__, {"inner": 3})
    y, times = seen(prior, (0, 1, 2), 0.5), prior.times(4)

    def runs(keys):
        noise = Noise(7, keys)
        return run(method(prior, y, prior.source(noise), times, noise=noise, **options)).x

    whole = runs(range(4))
    assert (whole == runs(range(4))).all()
    assert (whole[[1, 3]] == runs([1, 3])).all()


@EVERY
def test_steps_hold_tokens_with_masks_and_whole_estimates(prior, method):
    noise, options = Noise(0, 2), {"sgdd": {"fill": 2, "proposals": 3}, "tag": {}}.get(method.__name__, {"inner": 2})
    steps = list(
        method(prior, seen(prior, (0, 1, 2), 0.5), prior.source(noise), prior.times(3), noise=noise, **options)
    )
    assert [step.index for step in steps] == [1, 2, 3]
    for step in steps:
        assert not step.clean.eq(prior.mask).any()
        assert step.info["misfit"].shape == (2,)
        assert not step.x.is_floating_point()
    assert not steps[-1].x.eq(prior.mask).any()
    assert (steps[-1].x == steps[-1].clean).all()


@EVERY
def test_a_run_goes_on_from_any_step(prior, method):
    options = {"sgdd": {"fill": 2, "proposals": 3}, "tag": {}}.get(method.__name__, {"inner": 3})
    y, times, noise = seen(prior, (0, 1, 2), 0.5), prior.times(4), Noise(2, 3)
    states, steps = [], []
    for step in method(prior, y, prior.source(noise), times, noise=noise, **options):
        states.append(noise.state())
        steps.append(step)
    again = Noise(2, 3).restore(states[1])
    options |= cards.resumed(method, cards.carried(method, steps[1].info))
    assert (run(method(prior, y, steps[1].x, times[2:], noise=again, **options)).x == steps[-1].x).all()


@EVERY
def test_a_flow_is_refused_and_tokens_are_refused_by_a_method_for_flows(prior, method):
    flow = load("fashion")
    y = Measurement(torch.zeros(1, 1, 32, 32), Linear(lambda x: x, (1, 32, 32)), 0.1)
    with pytest.raises((ValueError, AttributeError)):
        next(method(flow, y, flow.source(Noise(0, 1)), flow.times(2), noise=Noise(0, 1)))
    with pytest.raises(ValueError, match="is over tokens and has no velocity; take a method for tokens, such as aps"):
        next(restore.dps(replace(prior, name="x"), y, torch.zeros(1, 3), prior.times(2), noise=Noise(0, 1)))
