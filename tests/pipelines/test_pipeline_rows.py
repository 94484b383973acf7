"""Rows of the pipelines are independent, whatever the lengths of their prompts and whatever their times."""

import torch
from families import EACH, READING, TEXTS, T, bound, state


def close(found, expected):
    """Equal but for the rounding of float32, which goes with the scale of the whole row, not with that of an entry."""
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@EACH
def test_a_time_per_row(name):
    mine, x = bound(name), state(name, 2)
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    both = mine.velocity(x, t)
    for i in range(2):
        close(both[i : i + 1], mine.velocity(x[i : i + 1], t[i]))


@READING
def test_prompts_of_different_lengths_do_not_disturb_one_another(name):
    x, both = state(name, 2), bound(name, *TEXTS)
    together = both.velocity(x, T)
    for i, text in enumerate(TEXTS):
        alone = bound(name, text).velocity(x[i : i + 1], T)
        close(together[i : i + 1], alone)
        picked = both.rows(torch.tensor([i]), 2).velocity(x[i : i + 1], T)
        close(picked, alone)


@READING
def test_particles_are_rows_of_their_prompt(name):
    both, x = bound(name, *TEXTS), state(name, 4)
    together = both.velocity(x, T)
    for i in (1, 2):
        alone = both.rows(torch.tensor([i]), 4).velocity(x[i : i + 1], T)
        close(together[i : i + 1], alone)
        same = both.rows(torch.tensor([i // 2]), 2).velocity(x[i : i + 1], T)
        close(alone, same)
