"""Rows of the pipelines are independent, whatever the lengths of their prompts and whatever their times."""

import torch
from families import EACH, READING, TEXTS, T, bound, state


@EACH
def test_a_time_per_row(name):
    mine, x = bound(name), state(name, 2)
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    both = mine.velocity(x, t)
    for i in range(2):
        torch.testing.assert_close(both[i : i + 1], mine.velocity(x[i : i + 1], t[i]), rtol=1e-4, atol=1e-5)


@READING
def test_prompts_of_different_lengths_do_not_disturb_one_another(name):
    x, both = state(name, 2), bound(name, *TEXTS)
    together = both.velocity(x, T)
    for i, text in enumerate(TEXTS):
        alone = bound(name, text).velocity(x[i : i + 1], T)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)
        picked = both.rows(torch.tensor([i]), 2).velocity(x[i : i + 1], T)
        torch.testing.assert_close(picked, alone, rtol=1e-5, atol=1e-5)


@READING
def test_particles_are_rows_of_their_prompt(name):
    both, x = bound(name, *TEXTS), state(name, 4)
    together = both.velocity(x, T)
    for i in (1, 2):
        alone = both.rows(torch.tensor([i]), 4).velocity(x[i : i + 1], T)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)
        same = both.rows(torch.tensor([i // 2]), 2).velocity(x[i : i + 1], T)
        torch.testing.assert_close(alone, same, rtol=1e-5, atol=1e-5)
