import pytest
import torch

from flowhelm.rng import Noise

ROWS = torch.empty(3, 2, 5)


def test_a_row_depends_on_its_key_alone():
    batch = Noise(7, ["a", "b", "c"])(ROWS)
    alone = Noise(7, ["b"])(ROWS[:1])
    turned = Noise(7, ["c", "b", "a"])(ROWS)
    assert torch.equal(alone[0], batch[1])
    assert torch.equal(turned, batch.flip(0))
    assert torch.equal(Noise(7, 3)(ROWS), Noise(7, [0, 1, 2])(ROWS))
    assert torch.equal(Noise(7, [("a",)])(ROWS[:1]), batch[:1])


def test_the_second_draw_is_independent_of_neighbours_too():
    a, b = Noise(7, 3), Noise(7, [2])
    a(ROWS), b(ROWS[:1])
    assert torch.equal(a(ROWS)[2:], b(ROWS[:1]))


def streams():
    yield from (Noise(seed, [key]) for seed in (0, 1, 2, 2**40, -1) for key in (0, 1, "0", "a", (0, 0)))
    yield from (Noise(0, 2).spawn(3).spawn(2), Noise(0, 2).named("measurement"), Noise(0, 2).named("source"))
    yield from (Noise(0, 2).spawn(1), Noise(0, 2).spawn(2).named("source"), Noise(0, 2).named("source").spawn(2))


def test_streams_are_standard_normal_and_uncorrelated():
    n = 4000
    draws = torch.cat([noise(torch.empty(len(noise), n, dtype=torch.float64)) for noise in streams()])
    assert draws.mean(1).abs().max() < 5 / n**0.5
    assert (draws.var(1) - 1).abs().max() < 5 * (2 / n) ** 0.5
    correlation = torch.corrcoef(draws) - torch.eye(len(draws))
    assert correlation.abs().max() < 5.5 / n**0.5
    late = torch.corrcoef(torch.cat([draws[:, :-1], draws[:, 1:]])) - torch.eye(2 * len(draws))
    assert late.abs().max() < 5.5 / n**0.5  # nor is one stream another, one draw later


def test_children_are_row_major_and_keep_their_streams():
    children = Noise(7, ["a", "b"]).spawn(3)
    draws = children(torch.empty(6, 4))
    assert torch.equal(draws[3:], Noise(7, ["b"]).spawn(3)(torch.empty(3, 4)))
    assert torch.equal(draws[[0, 3]], Noise(7, ["a", "b"]).spawn(1)(torch.empty(2, 4)))
    assert torch.equal(Noise(7, ["b"]).named("y")(ROWS[:1]), Noise(7, ["a", "b"]).named("y")(ROWS[:2])[1:])


def test_drawing_from_a_parent_leaves_the_child_alone():
    parent = Noise(7, 1)
    parent(ROWS[:1])
    assert torch.equal(parent.spawn(1)(ROWS[:1]), Noise(7, 1).spawn(1)(ROWS[:1]))


def test_state_resumes_exactly():
    noise = Noise(7, 3)
    noise(ROWS), noise.uniform()
    state = noise.state()
    expected = [noise(ROWS), noise.uniform(), noise(ROWS)]
    assert state.dtype == torch.uint8
    for again in (noise.restore(state), Noise(0, 3).restore(state)):
        for draw, e in zip([again(ROWS), again.uniform(), again(ROWS)], expected, strict=True):
            assert torch.equal(draw, e)


def test_draws_take_the_dtype_of_the_state():
    single = Noise(7, 3)(ROWS)
    assert single.dtype == torch.float32
    assert torch.equal(Noise(7, 3)(ROWS.bfloat16()), single.bfloat16())
    double = Noise(7, 3)(ROWS.double())
    assert double.dtype == torch.float64
    assert (double != double.float()).any()  # drawn in float64, not cast to it
    assert single.shape == ROWS.shape


def test_uniform_numbers():
    u = Noise(7, 2000).uniform()
    assert u.dtype == torch.float64
    assert u.shape == (2000,)
    assert 0 <= u.min() < 0.01
    assert 0.99 < u.max() < 1
    assert abs(u.mean() - 0.5) < 4 / (12 * 2000) ** 0.5


def test_a_wrong_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="expected a batch of 3 rows, got 2"):
        Noise(7, 3)(ROWS[:2])
    with pytest.raises(ValueError, match="expected the state of 3 rows, got 2"):
        Noise(7, 3).restore(Noise(7, 2).state())
    assert len(Noise(7, 3).spawn(4)) == 12
