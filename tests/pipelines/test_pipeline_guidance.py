"""The families' own guidance as formulas."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from families import EACH, T, bound, flow, state

from flowhelm import guide
from flowhelm.bench.pipelines import tiny
from flowhelm.priors.pipelines.longcat import no_longer
from flowhelm.priors.pipelines.lumina2 import levelled
from flowhelm.priors.pipelines.qwen import rescaled
from flowhelm.priors.pipelines.tokens import packed, unpacked
from flowhelm.priors.pipelines.z_image import beyond


@pytest.fixture
def two():
    return torch.randn(3, 4, 6, 8, dtype=torch.float64), torch.randn(3, 4, 6, 8, dtype=torch.float64)


def lengths(v):
    return packed(v).norm(dim=-1)


def test_packing_is_undone(two):
    assert packed(two[0]).shape == (3, 12, 16)
    torch.testing.assert_close(unpacked(packed(two[0]), 6, 8), two[0], rtol=0, atol=0)
    torch.testing.assert_close(packed(two[0])[:, 0], two[0][:, :, :2, :2].flatten(1), rtol=0, atol=0)


@pytest.mark.parametrize("rule", [guide.cfg, rescaled, levelled, no_longer])
def test_scale_1_is_the_velocity_given_the_prompt(two, rule):
    torch.testing.assert_close(rule(*two, T, scale=1.0), two[0])


@pytest.mark.parametrize(("rule", "each"), [(rescaled, packed), (levelled, lambda v: v)], ids=["qwen", "lumina"])
def test_the_length_of_every_token_or_line_is_kept(two, rule, each):
    v = each(rule(*two, T, scale=4.0))
    torch.testing.assert_close(v.norm(dim=-1), each(two[0]).norm(dim=-1))
    plain = each(two[1] + 4 * (two[0] - two[1]))  # the direction is that of plain guidance
    cosine = torch.cosine_similarity(v, plain, dim=-1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    torch.testing.assert_close(levelled(*two, T, scale=4.0, stop=0.3), two[0])


def test_longcat_shortens_only(two):
    given, without = two
    v, plain = no_longer(given, without, T, scale=4.0), without + 4 * (given - without)
    longest = torch.minimum(lengths(plain), lengths(given))
    torch.testing.assert_close(lengths(v), longest)
    torch.testing.assert_close(no_longer(10 * given, 9.99 * given, T, scale=0.5), 9.995 * given)


def test_z_image_counts_its_scale_from_0(two):
    given, without = two
    torch.testing.assert_close(beyond(*two, T, scale=0.0), given)
    torch.testing.assert_close(beyond(*two, T, scale=3.0), given + 3 * (given - without))
    torch.testing.assert_close(beyond(*two, T, scale=3.0), guide.cfg(*two, T, scale=4.0))
    torch.testing.assert_close(beyond(*two, T, scale=3.0, stop=0.3), given)


def test_z_image_bounds_each_row(two):
    given, without = two[0].clone(), two[1]
    given[1] = 100 * without[1]  # this row stays below the bound
    v = beyond(given, without, T, scale=3.0, longest=5.0)
    plain = given + 3 * (given - without)
    bound_, free = 5 * given.flatten(1).norm(dim=1), plain.flatten(1).norm(dim=1)
    torch.testing.assert_close(v.flatten(1).norm(dim=1), torch.minimum(bound_, free))
    torch.testing.assert_close(v[1], plain[1])


def test_a_time_per_row(two):
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    for rule in (partial(beyond, stop=0.5), partial(levelled, stop=0.5), rescaled, no_longer):
        alone = torch.cat([rule(*(v[i : i + 1] for v in two), t[i], scale=3.0) for i in range(3)])
        torch.testing.assert_close(rule(*two, t, scale=3.0), alone)


@pytest.mark.parametrize("options", [{"cfg_normalization": 1.0}, {"cfg_truncation": 0.5}])
def test_z_image_as_its_pipeline(options):
    """With the options that its own call has, on levels on both sides of the cut."""
    told = tiny.CASES["z-image"][1]
    rule = partial(
        beyond, scale=5.0, longest=options.get("cfg_normalization", 0.0), stop=options.get("cfg_truncation", 1.0)
    )
    mine, x = flow("z-image").bind(told["prompt"], negative=told["negative"], guidance=rule), state("z-image")
    theirs = mine.pipe(
        **mine.arguments(told["prompt"], told["negative"], 5.0), **options, height=told["size"][0],
        width=told["size"][1], num_inference_steps=4, latents=x, output_type="latent",
    ).images  # fmt: skip
    times, z = mine.times(4), x
    for s, t in pairwise(times):
        z = z + (t - s) * mine.velocity(z, s)
    torch.testing.assert_close(z.float(), theirs, rtol=1e-5, atol=1e-5)


@EACH
def test_guidance_is_off_where_the_pipelines_is(name):
    told = tiny.CASES[name][1]
    off = 0.0 if name.startswith(("z-image", "krea2")) else 1.0
    plain = flow(name).bind(told["prompt"], scale=off)
    assert plain.guidance is None
    assert plain.null is None
    if bound(name).guidance is not None:
        x = state(name)
        assert (plain.velocity(x, T) - bound(name).velocity(x, T)).abs().max() > 1e-3
