"""Every deliberately wrong wrapping of an exact flow is named with its remedy; the right ones are well."""

import math

import pytest
import torch
from conventions import DDPM, cast, clean_of, levels, predictor

from flowhelm import GaussianFlow, MixtureFlow, NetFlow, Noise
from flowhelm.path import VP, linear, trig
from flowhelm.priors import foreign
from flowhelm.priors.examine import LEVELS, examine
from flowhelm.priors.foreign import (
    Sigmas,
    from_clean,
    from_denoiser,
    from_edm,
    from_noise,
    from_score,
    from_v,
    from_velocity,
)

SHAPE = (1, 2, 2)
ROWS = 400


def law(path=linear, middle=0.0, gain=1.0):
    """Smooth 2 x 2 pictures in [-1, 1] with two modes, or in another range."""
    generator = torch.Generator().manual_seed(5)
    means = 0.9 * torch.tensor([[0.6, 0.5, -0.3, -0.4], [-0.7, -0.2, 0.1, 0.5]])
    root = 0.12 * torch.randn(2, 4, 4, generator=generator)
    covariances = root @ root.mT + 0.01 * torch.ones(4, 4) + 0.002 * torch.eye(4)
    return MixtureFlow(
        torch.tensor([0.5, 0.5]).double(), (middle + gain * means).double(), (gain**2 * covariances).double(), path,
        SHAPE,
    )  # fmt: skip


def table_of(scheduled):
    return torch.cumprod(1 - scheduled, 0)


SCALED = table_of(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2)


def discrete(kind, table):
    return predictor(kind, levels(table), law())


def plain(x, t):
    return law().velocity(x, t.double())


def on(path):
    return lambda x, t: law(path).velocity(x, t.double())


def reversed_clock(x, t):
    return -plain(x, 1 - t)


def diffusers_clock(x, t):
    return -plain(x, 1 - t / 1000)


def thousands(x, t):
    return plain(x, t / 1000)


def instaflow(x, t):
    return plain(x, 1 - t / 1000)


def unit(x, t):
    return law(middle=0.5, gain=0.5).velocity(x, t.double())


def jit(x, t):
    return clean_of(law(), x, t, 1 - t)


def edm(x, sigma):
    return clean_of(law(), x, torch.ones_like(sigma), sigma)


def deepinv_like(x, sigma):
    return law().as_denoiser()(x, sigma)


V = from_velocity
WRONG = {
    "sign": (lambda: V(lambda x, t: -plain(x, t), SHAPE), ["sign turned", "pass sign=-1"]),
    "clock": (lambda: V(reversed_clock, SHAPE), ["time reversed", "pass clean_at=0"]),
    "clock the other way": (lambda: V(plain, SHAPE, clean_at=0), ["time reversed", "pass clean_at=1"]),
    "thousands forgotten": (lambda: V(thousands, SHAPE), ["pass time_scale=1000"]),
    "thousands too many": (lambda: V(plain, SHAPE, time_scale=1000), ["pass time_scale=1"]),
    "[0, 1] forgotten": (lambda: V(unit, SHAPE), ["[0, 1]", "pass span=(0, 1)"]),
    "[0, 1] too many": (lambda: V(plain, SHAPE, span=(0, 1)), ["[-1, 1]", "pass span=(-1, 1)"]),
    "trig as linear": (lambda: V(on(trig), SHAPE), ["on trig", "pass that path"]),
    "vp as linear": (lambda: V(on(VP()), SHAPE), ["on VP()", "pass that path"]),
    "linear as trig": (lambda: V(plain, SHAPE, path=trig), ["on linear", "pass that path"]),
    "SD3 unwrapped": (lambda: V(diffusers_clock, SHAPE), ["pass clean_at=0", "pass time_scale=1000"]),
    "SD3, label forgotten": (lambda: V(diffusers_clock, SHAPE, clean_at=0), ["pass time_scale=1000"]),
    "instaflow as SD3": (lambda: V(instaflow, SHAPE, clean_at=0, time_scale=1000), ["pass sign=-1"]),
    "instaflow unwrapped": (lambda: V(instaflow, SHAPE), ["pass clean_at=0", "pass time_scale=1000", "pass sign=-1"]),
    "jit as velocity": (lambda: V(jit, SHAPE), ["clean picture on linear", "from_clean"]),
    "velocity as jit": (lambda: from_clean(plain, SHAPE), ["from_velocity"]),
    "ddpm as velocity": (lambda: V(discrete("noise", DDPM), SHAPE), ["noise on the DDPM", "from_noise"]),
    "edm as velocity": (lambda: V(edm, SHAPE), ["on Sigmas()", "from_clean"]),
    "wrong table": (lambda: from_noise(discrete("noise", SCALED), SHAPE, DDPM), ["on Stable Diffusion's schedule", "pass that schedule"]),
    "v as noise": (lambda: from_noise(discrete("v", DDPM), SHAPE, DDPM), ["predicts v", "from_v"]),
    "clean as noise": (lambda: from_noise(discrete("clean", DDPM), SHAPE, DDPM), ["clean picture", "from_clean"]),
    "noise as v": (lambda: from_v(discrete("noise", DDPM), SHAPE, DDPM), ["predicts noise", "from_noise"]),
    "score as noise": (lambda: from_noise(discrete("score", DDPM), SHAPE, DDPM), ["the score", "from_score"]),
    "denoiser in [-1, 1]": (lambda: from_edm(deepinv_like, SHAPE), ["pass span=(0, 1)"]),
    "a plain NetFlow": (lambda: NetFlow(foreign._module(reversed_clock), SHAPE), ["pass clean_at=0"]),
}  # fmt: skip
RIGHT = {
    "exact": law,
    "trig": lambda: law(trig),
    "vp": lambda: law(VP()),
    "plain": lambda: V(plain, SHAPE),
    "SD3": lambda: V(diffusers_clock, SHAPE, clean_at=0, time_scale=1000),
    "instaflow": lambda: V(instaflow, SHAPE, clean_at=0, time_scale=1000, sign=-1),
    "[0, 1]": lambda: V(unit, SHAPE, span=(0, 1)),
    "on trig": lambda: V(on(trig), SHAPE, path=trig),
    "jit": lambda: from_clean(jit, SHAPE),
    **{f"ddpm {kind}": lambda make=make, kind=kind: make(discrete(kind, DDPM), SHAPE, DDPM)
       for kind, make in [("noise", from_noise), ("clean", from_clean), ("v", from_v), ("score", from_score)]},
    "scaled": lambda: from_noise(discrete("noise", SCALED), SHAPE, SCALED),
    "edm": lambda: from_edm(edm, SHAPE),
    "deepinv": lambda: from_denoiser(deepinv_like, SHAPE),
    "narrow levels": lambda: from_clean(edm, SHAPE, Sigmas(0.02, 20)),
}  # fmt: skip


MILD = {"trig as linear", "linear as trig", "wrong table"}  # these denoise, but not as well as they could


@pytest.fixture(scope="module")
def pictures():
    return law().sample(Noise(1, rows=ROWS))


@pytest.mark.parametrize("name", list(WRONG))
def test_the_right_remedy_is_named(name, pictures):
    make, remedies = WRONG[name]
    found = {f.name: f for f in examine(make(), pictures, Noise(2, rows=ROWS))}
    said = found["convention"]
    print(f"{name}: {said.words}")
    assert said.verdict == "broken"
    for remedy in remedies:
        assert remedy in said.words
    changes = said.words.count("pass ") + said.words.count("make ")
    assert changes == sum(r.startswith(("pass", "from_")) for r in remedies)  # these and no others
    assert found["curve"].verdict == "broken" or name in MILD


@pytest.mark.parametrize("name", list(RIGHT))
def test_a_right_wrapping_is_well(name, pictures):
    found = {f.name: f for f in examine(RIGHT[name](), pictures, Noise(2, rows=ROWS))}
    print(f"{name}: {[(f.name, round(f.value, 2), f.verdict) for f in found.values()]}")
    assert {f.verdict for f in found.values()} == {"well"}


def test_four_pictures_do():
    """The commonest slips with 4 smooth pictures of 12 x 12 pixels and an exact network."""
    side = 12
    place = torch.arange(side).double()
    near = torch.exp(-((place[:, None] - place) ** 2) / 18) + 1e-3 * torch.eye(side)
    exact = GaussianFlow(torch.zeros(side**2).double(), 0.16 * torch.kron(near, near), shape=(1, side, side))
    clean = exact.sample(Noise(11, rows=4))

    def net(x, t):
        return exact.velocity(x, t.double())

    for flow, remedy in [
        (V(lambda x, t: -net(x, t), exact.shape), "pass sign=-1"),
        (V(lambda x, t: -net(x, 1 - t), exact.shape), "pass clean_at=0"),
        (V(lambda x, t: -net(x, 1 - t / 1000), exact.shape), "pass clean_at=0, pass time_scale=1000"),
        (V(lambda x, t: net(x, t / 1000), exact.shape), "pass time_scale=1000"),
        (V(net, exact.shape), "no other"),
    ]:
        said = next(f for f in examine(flow, clean, Noise(3, rows=4)) if f.name == "convention")
        assert remedy in said.words


def test_bound_conditions_go_with_their_pictures():
    """Two modes told apart by a label: right with the labels in order, worse with them swapped."""
    full = law()
    modes = [
        MixtureFlow(torch.ones(1), full.means[i : i + 1], full.covariances[i : i + 1], shape=SHAPE) for i in (0, 1)
    ]

    def net(x, t, label):
        each = torch.stack([mode.velocity(x, t.double()) for mode in modes])
        return each[label, torch.arange(len(x))]

    clean = torch.cat([mode.sample(Noise(4 + i, rows=50)) for i, mode in enumerate(modes)])
    flow = V(net, SHAPE, clean_at=1)
    right = examine(flow.bind(torch.tensor([0, 1])), clean, Noise(0, rows=100))
    assert {f.verdict for f in right} == {"well"}
    swapped = {f.name: f for f in examine(flow.bind(torch.tensor([1, 0])), clean, Noise(0, rows=100))}
    assert swapped["curve"].verdict == "broken"


def test_what_the_single_checks_say(pictures):
    """Numbers with closed forms: N(0, s^2 I) has v = x (t s^2 - (1-t)) / C, so <v, x> / <x, x> -> 1 as t -> 1."""
    clean = 0.6 * torch.randn(200, 1, 2, 2, dtype=torch.float64)
    flow = GaussianFlow(torch.zeros(4).double(), 0.36 * torch.eye(4).double(), shape=SHAPE)
    found = {f.name: f for f in examine(flow, clean, Noise(0, rows=200))}
    t, c = 0.98, 0.98**2 * 0.36 + 0.02**2
    assert found["end"].value == pytest.approx((t * 0.36 - (1 - t)) / c * t, rel=0.01)
    assert found["curve"].value == pytest.approx(1, abs=0.01)  # plain smoothing is the posterior mean
    assert found["curve"].verdict == "odd"
    assert found["marginals"].value == pytest.approx(1, abs=0.1)
    flipped = {
        f.name: f for f in examine(V(lambda x, t: -flow.velocity(x, t.double()), SHAPE), clean, Noise(0, rows=200))
    }
    assert flipped["end"].value == pytest.approx(-found["end"].value, rel=0.02)
    assert "does not lead to the pictures" in flipped["end"].words
    strong = {
        f.name: f for f in examine(V(lambda x, t: 3 * flow.velocity(x, t.double()), SHAPE), clean, Noise(0, rows=200))
    }
    assert strong["marginals"].verdict == "broken"
    silent = {f.name: f for f in examine(V(lambda x, t: torch.zeros_like(x), SHAPE), clean, Noise(0, rows=200))}
    assert "is the network trained" in silent["convention"].words


def test_networks_that_fail(pictures):
    def examined(net, **options):
        return {f.name: f for f in examine(V(net, SHAPE, **options), pictures, Noise(0, rows=ROWS))}

    class Wrong(GaussianFlow):
        def velocity(self, x, t):
            return x[:, 0]

    def detached(x, t):
        with torch.no_grad():
            return plain(x, t)

    def rooted(x, t):  # the gradient of a root at 0
        return plain(x, t) + 0 * (0 * x).sqrt()

    def raising(x, t):
        raise TypeError("no label given\nmore")

    found = examined(raising)
    assert list(found) == ["evaluation"]
    assert found["evaluation"].words == "the network raises TypeError: no label given"
    (found,) = examine(Wrong(torch.zeros(4), torch.eye(4), shape=SHAPE), pictures, Noise(0, rows=ROWS))
    assert (found.verdict, math.isnan(found.value)) == ("broken", True)
    assert "shaped" in found.words
    assert examined(detached)["gradient"].verdict == "odd"
    assert examined(rooted)["gradient"].verdict == "broken"
    endless = examined(on(VP()), path=VP())
    assert endless["evaluation"].verdict == "broken"
    assert "not finite at t = 1" in endless["evaluation"].words
    assert "margin" in endless["evaluation"].words
    assert endless["convention"].verdict == "well"


def test_without_pictures_and_with_others():
    found = examine(law(), None, Noise(0, rows=4))
    assert [f.verdict for f in found] == ["well", "well", "skipped", "skipped", "skipped", "skipped"]
    assert len(LEVELS) == 6
    with pytest.raises(ValueError, match="as many as streams"):
        examine(law(), torch.zeros(3, *SHAPE), Noise(0, rows=4))
    with pytest.raises(ValueError, match="expected clean states"):
        examine(law(), torch.zeros(4, 1, 3, 3), Noise(0, rows=4))


def found(flow, clean=None):
    clean = law().sample(Noise(7, ROWS)) if clean is None else clean
    return {each.name: each for each in examine(flow, clean.float(), Noise(3, ROWS))}


def ends(x, alpha, sigma, flow=None):
    """E[source | x] and E[clean | x]."""
    clean = clean_of(flow or law(), x, alpha, sigma)
    return (x - cast(alpha, x) * clean) / cast(sigma, x), clean


def denoiser(unit=1.0, sign=1.0, most=math.inf):
    """Of pictures in [0, 1] and sigma in the same unit (over 255 if `unit` is that); above `most` it was not trained and lies."""

    def net(x, sigma):
        sigma = sigma / unit
        clean = ends(2 * x - 1, torch.ones_like(sigma), 2 * sigma)[1]
        return sign * torch.where(cast(sigma, x) > most, 0.0 * clean, (clean + 1) / 2)

    return net


@pytest.mark.parametrize("high", [0.3, 1.0])
def test_a_level_that_the_wrapping_does_not_state_does_not_count(high):
    """A blind denoiser above its `high`: at t = 0.05 the noise is 19 half-ranges, far above."""
    right = found(from_denoiser(denoiser(most=1.05 * high), SHAPE, high=high))
    assert right["curve"].verdict == "well"
    assert right["convention"].verdict == "well"
    assert "t = 0.05" in right["curve"].words
    if high == 0.3:
        boasting = found(from_denoiser(denoiser(most=high), SHAPE, high=40.0))
        assert boasting["curve"].verdict == "broken"


@pytest.mark.parametrize(
    ("flow", "remedy"),
    [
        (from_denoiser(denoiser(sign=-1.0), SHAPE), "-net(x, t, *c)"),
        (from_noise(lambda x, label: -discrete("noise", DDPM)(x, label), SHAPE, DDPM), "-net(x, t, *c)"),
        (from_denoiser(denoiser(unit=255.0), SHAPE), "net(x, 255 * sigma, *c)"),
        (from_edm(lambda x, sigma: ends(x, torch.ones_like(sigma), sigma / 255)[1], SHAPE), "net(x, 255 * sigma, *c)"),
    ],
    ids=["denoiser turned", "noise turned", "sigma in 255ths", "edm in 255ths"],
)
def test_the_remedy_is_named(flow, remedy):
    convention = found(flow)["convention"]
    print(convention.words)
    assert convention.verdict == "broken"
    assert remedy in convention.words


@pytest.mark.parametrize("span", [(-0.5, 0.5), (0.0, 255.0), (0.0, 1.0)])
def test_the_range_of_a_network_is_named(span):
    gain, middle = (span[1] - span[0]) / 2, sum(span) / 2
    other = law(middle=middle, gain=gain)

    def net(x, label):
        log = torch.logit(DDPM) / 2
        at = log[label.double().round().long().clamp(0, 999)]
        return ends(x, torch.sigmoid(2 * at).sqrt(), torch.sigmoid(-2 * at).sqrt(), other)[0]

    convention = found(from_noise(net, SHAPE, DDPM))["convention"]
    print(convention.words)
    assert convention.verdict == "broken"
    assert f"span=({span[0]:g}, {span[1]:g})" in convention.words
