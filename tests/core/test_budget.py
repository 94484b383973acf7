"""What is counted is what was used, prompt by prompt."""

import pytest
import torch
from toys import double

from flowhelm import Noise, Pixels, Step
from flowhelm.budget import Budget, budgeted, scored, some_scored, unwatched
from flowhelm.path import linear
from flowhelm.solve import look
from flowhelm.transition import ancestral


def told(budget):
    return {kind: amount.tolist() for kind, amount in budget.spent.items()}


def test_rows_of_a_prompt_share_its_ledger(mixture):
    budget = Budget()
    flow, reward = budget.watch(mixture, lambda image: image.sum(1), 2)
    x = torch.randn(6, 2).double()
    flow.velocity(x, double(0.3))
    flow.ends(x, double(0.3))
    torch.testing.assert_close(reward(flow.decode(x[:2])), x[:2].sum(1))
    assert told(budget) == {"evaluations": [6, 6], "rewards": [1, 1], "decodes": [1, 1]}
    assert (budget.count.calls, budget.count.rows) == (2, 12)
    assert look(flow, x, double(1.0)).clean is x  # no network is asked at the end
    assert told(budget)["evaluations"] == [6, 6]


def test_a_part_of_the_rows_is_charged_to_its_own_prompts(mixture):
    budget = Budget()
    flow, _ = budget.watch(mixture, lambda image: image.sum(1), 3)
    x = torch.randn(6, 2).double()
    some = flow.rows(torch.tensor([0, 4, 5]), 6)  # two rows per prompt
    some.velocity(x[:3], double(0.3))
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
    moved = flow.rows(torch.tensor([2, 0]), 3).velocity(torch.zeros(2, 1), double(0.5))
    assert moved.tolist() == [[3.0], [1.0]]


def test_limits(mixture):
    budget = Budget(evaluations=10, rewards=3)
    flow, reward = budget.watch(mixture, lambda image: image.sum(1), 2)
    x, before = torch.randn(2, 2).double(), budget.told()
    flow.velocity(x, double(0.3))
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
    again.velocity(x, double(0.3))
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
    s, t = double(0.3), double(0.5)
    alone = ancestral(mixture, x[2:3], s, t, Noise(0, 4).rows(torch.tensor([2])))
    torch.testing.assert_close(alone, ancestral(mixture, x, s, t, Noise(0, 4))[2:3])


@budgeted
def twice(flow, reward, x, times, *, particles=1, budget=None):
    """Two evaluations, a decode and a reward per row."""
    for i, t in enumerate(times, 1):
        clean = flow.ends(x, t).clean
        yield Step(i, 2, t, x, clean, {"found": reward(flow.decode(clean))} if i == 2 else {})


def test_a_method_is_watched_from_outside(mixture):
    x, reward, times = torch.randn(6, 2).double(), lambda image: image.sum(1).float(), [double(0.3), double(0.6)]
    budget = Budget()
    steps = list(twice(mixture, reward, x, times, particles=3, budget=budget))
    assert [step.info["evaluations"].tolist() for step in steps] == [[3, 3], [6, 6]]
    assert told(budget) == {kind: steps[1].info[kind].tolist() for kind in ("evaluations", "rewards", "decodes")}
    assert told(budget)["rewards"] == told(budget)["decodes"] == [3, 3]
    assert steps[1].info["found"].dtype == torch.float64  # what choices are made by
    again = list(twice(mixture, reward, x, times, particles=3, budget=budget))
    assert again[1].info["evaluations"].tolist() == [12, 12]  # it goes on counting
    alone = list(twice(mixture, reward, x, times))
    assert alone[1].info["evaluations"].tolist() == [2] * 6  # a ledger of its own


def test_a_batch_that_does_not_fit_leaves_a_budget_as_it_was(mixture):
    budget = Budget()
    with pytest.raises(ValueError, match="twice: expected a batch that is a multiple of particles = 4, got 6 rows"):
        next(twice(mixture, None, torch.randn(6, 2).double(), [], particles=4, budget=budget))
    assert not budget.spent


def test_values_of_some_rows_are_paid_by_them_alone(mixture):
    budget, x, seen = Budget(), torch.randn(3, 2).double(), []

    class Told:  # something per row
        def __init__(self, numbers):
            self.numbers = numbers

        def __call__(self, image):
            seen.append(len(image))
            return image.sum(1) * self.numbers

        def rows(self, index, total):
            assert total == len(self.numbers)
            return Told(self.numbers[index])

    reward, rows = Told(torch.tensor([1.0, 2.0, 5.0]).double()), torch.tensor([2, 0])
    _, rated = budget.watch(mixture, reward, 3)
    torch.testing.assert_close(some_scored(rated, x[rows], rows, 3), scored(reward, x)[rows])
    torch.testing.assert_close(some_scored(lambda image: image.sum(1), x[rows], rows, 3), x.sum(1)[rows])
    assert seen == [2, 3]
    assert told(budget)["rewards"] == [1, 0, 1]
    assert unwatched(rated) is reward
    assert unwatched(reward) is reward
