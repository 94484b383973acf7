"""The laws that every pipeline keeps as a flow: rows are independent, times go from 0 to 1, nothing of the pipeline changes."""

import torch
from families import EACH, READ, READING, TEXTS, T, bound, flow, pipe, state

from flowhelm.solve import integrate
from flowhelm.step import run


@EACH
def test_sampling_leaves_the_pipeline_as_it_was(name):
    before = dict(vars(pipe(name).scheduler))
    weights = {k: v.clone() for k, v in flow(name).net.state_dict().items()}
    mine = bound(name)
    run(integrate(mine, state(name), mine.times(2)))
    after = vars(pipe(name).scheduler)
    assert before.keys() == after.keys()
    assert all(after[key] is value or after[key] == value for key, value in before.items())
    assert all(torch.equal(v, weights[k]) for k, v in flow(name).net.state_dict().items())


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


@EACH
def test_the_prompt_and_the_codec_matter(name):
    mine, x = bound(name), state(name)
    picture = mine.decode(x)
    assert picture.shape == (1, 3, *mine.size)
    assert mine.encode(picture).shape == x.shape
    if name in READ:
        other = bound(name, "zzz 9").velocity(x, T)
        assert (other - mine.velocity(x, T)).abs().max() > 1e-3
