import pytest
import torch

from flowhelm.step import Diverged, Step, run


def steps(*values):
    for i, value in enumerate(values, 1):
        x = torch.tensor([[value]])
        yield Step(i, len(values), torch.tensor(i / len(values), dtype=torch.float64), x, x, {})


def test_run_shows_every_step_and_returns_the_last():
    seen = []
    last = run(steps(1.0, 2.0, 3.0), each=seen.append)
    assert [s.index for s in seen] == [1, 2, 3]
    assert last is seen[-1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_divergence_carries_the_last_good_step(bad):
    seen = []
    with pytest.raises(Diverged, match="step 3 of 4") as error:
        run(steps(1.0, 2.0, bad, 4.0), each=seen.append)
    assert error.value.last is seen[-1]
    assert error.value.last.x.item() == 2.0
    with pytest.raises(Diverged) as error:
        run(steps(bad))
    assert error.value.last is None


def test_an_empty_grid_is_an_error():
    with pytest.raises(ValueError, match="no step"):
        run(steps())
