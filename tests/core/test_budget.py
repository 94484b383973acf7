"""What is counted is what was used, prompt by prompt."""

import pytest
import torch

from flowhelm.budget import Budget
from flowhelm.flow import Pixels
from flowhelm.path import linear
from flowhelm.rng import Noise
from flowhelm.solve import look
from flowhelm.transition import ancestral


def scalar(t):
    return torch.tensor(t, dtype=torch.float64)


def told(budget):
    return {kind: amount.tolist() for kind, amount in budget.spent.items()}


def test_rows_of_a_prompt_share_its_ledger(mixture):
    budget = Budget()
    flow, reward = budget.watch(mixture, lambda image: image.sum(1), 2)
    x = torch.randn(6, 2).double()
    flow.velocity(x, scalar(0.3))
    flow.ends(x, scalar(0.3))
    torch.testing.assert_close(reward(flow.decode(x[:2])), x[:2].sum(1))
    assert told(budget) == {"evaluations": [6, 6], "rewards": [1, 1], "decodes": [1, 1]}
    assert (budget.count.calls, budget.count.rows) == (2, 12)
    assert look(flow, x, scalar(1.0)).clean is x  # no network is asked at the end
    assert told(budget)["evaluations"] == [6, 6]


def test_a_part_of_the_rows_is_charged_to_its_own_prompts(mixture):
    budget = Budget()
    flow, _ = budget.watch(mixture, lambda image: image.sum(1), 3)
    x = torch.randn(6, 2).double()
    some = flow.rows(torch.tensor([0, 4, 5]), 6)  # two rows per prompt
    some.velocity(x[:3], scalar(0.3))
    assert told(budget)["evaluations"] == [1, 0, 2]
    some.rows(torch.tensor([1]), 3).decode(x[:1])
    assert told(budget)["decodes"] == [0, 0, 1]


def test_what_is_bound_to_a_row_goes_with_it():
    class Bound(Pixels):
        path, shape = linear, (1,)

        def __init__(self, offset):
            self.offset = offset

        def velocity(self, x, t):
            return x + self.offset

        def rows(self, index, total):
            return Bound(self.offset[index])

    flow, _ = Budget().watch(Bound(torch.tensor([[1.0], [2.0], [3.0]])), lambda image: image[:, 0], 3)
    moved = flow.rows(torch.tensor([2, 0]), 3).velocity(torch.zeros(2, 1), scalar(0.5))
    assert moved.tolist() == [[3.0], [1.0]]


def test_limits(mixture):
    budget = Budget(evaluations=10, rewards=3)
    flow, reward = budget.watch(mixture, lambda image: image.sum(1), 2)
    x, before = torch.randn(2, 2).double(), budget.told()
    flow.velocity(x, scalar(0.3))
    reward(x)
    price = budget.since(before)
    assert {kind: amount.tolist() for kind, amount in price.items()} == told(budget)
    assert budget.left("evaluations").tolist() == [9, 9]
    assert budget.left("decodes").tolist() == [float("inf")] * 2
    assert budget.affords(price).tolist() == [True, True]
    assert budget.affords(price, 2).tolist() == [True, True]
    assert budget.affords(price, 3).tolist() == [False, False]  # of rewards
    budget.charge("rewards", torch.tensor([1, 1]))
    assert budget.affords(price).tolist() == [True, False]
    with pytest.raises(ValueError, match="expected the 2 prompts"):
        budget.watch(mixture, reward, 3)
    again, _ = budget.watch(mixture, reward, 2)
    again.velocity(x, scalar(0.3))
    assert told(budget)["evaluations"] == [2, 2]


def test_some_rows_of_a_noise_are_its_own_streams(mixture):
    whole, x = Noise(0, 4), torch.randn(4, 2).double()
    expected = Noise(0, 4)(x)
    some = whole.rows([3, 1])
    assert len(some) == 2
    torch.testing.assert_close(some(x[:2]), expected[[3, 1]])
    rest = whole(x)
    torch.testing.assert_close(rest[[0, 2]], expected[[0, 2]])
    assert not torch.equal(rest[[1, 3]], expected[[1, 3]])  # drawn already
    s, t = scalar(0.3), scalar(0.5)
    alone = ancestral(mixture, x[2:3], s, t, Noise(0, 4).rows(torch.tensor([2])))
    torch.testing.assert_close(alone, ancestral(mixture, x, s, t, Noise(0, 4))[2:3])
