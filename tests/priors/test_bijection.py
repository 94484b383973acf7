"""Normalising flows: what is exact about them, against autograd; and that their inverses are one another's."""

from functools import partial

import pytest
import torch

from flowhelm import Noise, inverse, run
from flowhelm.bijection import Affine, Bijection, Cleaner, Update, arranged, gaussian, linear, scattered
from flowhelm.fixed_point import jacobi as sweeps_of
from flowhelm.grad import value_and_grad
from flowhelm.priors.tarflow import Denoiser, TarFlow
from flowhelm.toughness import Way, begun, plan, swept, toughness
from flowhelm.train import Batch
from flowhelm.train.flow_score import flow_score
from flowhelm.train.tarflow import tarflow


def small(classes=3, layers=(1, 1, 2), deep=False, frames=0, seed=0, spread=0.5, **more):
    """A flow of 9 tokens of 4 numbers whose weights are random, so that no block is the identity."""
    torch.manual_seed(seed)
    net = TarFlow(6, 2, 1, layers, 16, 2, classes=classes, deep=deep, frames=frames, **more).double()
    for block in net.blocks:
        torch.nn.init.normal_(block.outward.weight, std=spread / 4)
        torch.nn.init.normal_(block.outward.bias, std=0.1)
        if block.classes is not None:
            torch.nn.init.normal_(block.classes.weight)
        torch.nn.init.normal_(block.position)
    net.requires_grad_(False)
    return Bijection(net, net.shape, 0.1, null=net.null)


@pytest.fixture(params=["told", "guided", "deep", "frames"])
def flow(request):
    if request.param == "frames":
        return small(0, frames=2)
    told = torch.tensor([0, 2])
    rule = partial(linear, scale=1.7) if request.param == "guided" else None
    return small(deep=request.param == "deep").bind(told, rule=rule)


def noise(flow, rows=2):
    return flow.net.tokens(Noise(1, rows)(torch.empty(rows, *flow.shape, dtype=torch.float64)))


def test_tokens_are_the_picture():
    for flow in (small(), small(0, frames=2)):
        image = torch.randn(3, *flow.shape).double()
        tokens = flow.net.tokens(image)
        assert torch.equal(flow.net.image(tokens), image)
        assert torch.equal(tokens[:, 1].flatten(), image.flatten(0, -4)[:, ..., 0:2, 2:4].flatten()) or flow.net.frames
    with pytest.raises(ValueError, match=r"expected a batch of \(1, 6, 6\), got \(1, 1, 5, 6\)"):
        small().net.tokens(torch.zeros(1, 1, 5, 6))


def test_log_determinant_is_that_of_the_jacobian(flow):
    image = torch.randn(2, *flow.shape).double()
    _, log_det = flow.forward(image)
    for row in range(2):

        def one(x, row=row):
            return flow.forward(torch.cat([image[:row], x, image[row + 1 :]]))[0][row].flatten()

        jacobian = torch.autograd.functional.jacobian(one, image[row : row + 1]).flatten(1)
        assert abs(float(torch.linalg.slogdet(jacobian)[1] - log_det[row])) < 1e-8


def test_the_density_is_one_in_all():
    """Importance sampling in four numbers: E[p(x) / q(x)] = 1, with q normal and wide."""
    torch.manual_seed(0)
    net = TarFlow(2, 1, 1, (1, 1), 8, 2).double()
    for block in net.blocks:
        torch.nn.init.normal_(block.outward.weight, std=0.1)
    flow = Bijection(net.requires_grad_(False), (1, 2, 2))
    x = 2 * torch.randn(100_000, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    wide = torch.distributions.Normal(0.0, 2.0).log_prob(x).flatten(1).sum(1)
    weights = (torch.cat([flow.log_prob(part) for part in x.split(20_000)]) - wide).exp()
    error = float(weights.std()) / len(weights) ** 0.5
    assert abs(float(weights.mean()) - 1) < 4 * error
    assert error < 0.02


def test_a_token_depends_on_those_before_it(flow):
    for block in flow.blocks:
        x = arranged(block, noise(flow)).requires_grad_()
        mean, log_scale = flow.affine(block, x)
        n = x.shape[1]
        for i in range(n):
            (slope,) = torch.autograd.grad(
                (mean[:, i] + log_scale[:, i]).sum(), x, retain_graph=True, allow_unused=True
            )
            size = torch.zeros(n) if slope is None else slope.abs().amax((0, 2))
            assert (size[i:] == 0).all()
            assert (size[:i] > 0).all()


def test_keys_that_are_kept_change_nothing(flow):
    for block in flow.blocks:
        x = arranged(block, noise(flow))
        whole, keys, n = flow.affine(block, x), flow.keys(block, x), x.shape[1]
        for first, stop in (
            (0, 1),
            (1, 4),
            (2, 5),
            (5, n),
        ):  # the second time over tokens that came before, as after a sweep
            part = flow.affine(block, x, first, stop, keys)
            for a, b in zip(part, whole, strict=True):
                torch.testing.assert_close(a, b[:, first:stop], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "method",
    [
        inverse.sequential,
        partial(inverse.jacobi, tolerance=0.0),
        partial(inverse.jacobi, tolerance=0.0, keep=False),
        partial(inverse.gs_jacobi, tolerance=0.0, segments=3),
        partial(inverse.gs_jacobi, tolerance=0.0, segments=1000),
        partial(inverse.gs_jacobi, tolerance=0.0, plan=[Way("zeros", 2), Way("noise", 1), Way("zeros", 4)]),
    ],
    ids=["sequential", "jacobi", "jacobi, nothing kept", "gs_jacobi", "gs_jacobi, single tokens", "gs_jacobi, planned"],
)
def test_inverses_invert(flow, method):
    z = noise(flow)
    final = run(method(flow, z))
    back, _ = flow.forward(final.clean)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-10)
    steps = list(method(flow, z))
    assert [step.index for step in steps] == [1, 2, 3]
    assert torch.equal(flow.net.image(steps[-1].x), steps[-1].clean)


def test_in_single_precision():
    flow = small()
    flow.net.float()
    z = noise(flow).float()
    back, _ = flow.forward(run(inverse.sequential(flow, z)).clean)
    assert float((back - z).abs().max()) < 1e-4


def test_jacobi_is_exact_after_as_many_sweeps_as_tokens_and_token_k_after_k():
    flow = small(spread=1.5)
    for block in flow.blocks:
        z = arranged(block, noise(flow))
        exact, keys, n = torch.zeros_like(z), flow.keys(block, z), z.shape[1]
        for i in range(n):
            mean, log_scale = flow.affine(block, exact, i, i + 1, keys)
            exact[:, i : i + 1] = z[:, i : i + 1] * log_scale.exp() + mean
        for start in ("noise", "zeros"):
            x, errors = begun(z, start), []
            for sweep in range(1, n + 1):
                x = swept(flow, block, z, x)
                torch.testing.assert_close(x[:, :sweep], exact[:, :sweep], rtol=0, atol=1e-10)
                errors.append(float((x - exact).abs().max()))
            assert errors[n - 2] > 1e-9 > 1e-10 > errors[n - 1]  # not before


def test_one_token_to_a_segment_is_the_loop_to_the_sweep():
    flow, z = small(), noise(small())
    final = run(inverse.gs_jacobi(flow, z, segments=9))
    torch.testing.assert_close(final.x, run(inverse.sequential(flow, z)).x, rtol=0, atol=1e-12)
    assert int(final.info["sweeps"]) == 9


def test_settled_tokens_are_not_computed_again():
    """The nth sweep computes the tokens that are not settled, and one before them for its keys."""
    flow = small()
    block, z = flow.blocks[0], noise(flow)
    update, settled, sizes = Update(flow, block, z, 100.0), 0, []
    for sweep in sweeps_of(update, z.clone(), tolerance=0.0):
        sizes.append(update.computed - sum(sizes))
        assert sizes[-1] <= 9 - max(settled - 1, 0)
        settled = sweep.settled
    whole = Update(flow, block, z, 100.0, keep=False)
    *_, last = sweeps_of(whole, z.clone(), tolerance=0.0)
    assert update.computed < whole.computed == 9 * last.sweeps


def test_keys_are_of_final_values():
    """Also where tokens are settled that still change a little, as with a wide tolerance."""
    flow = small(spread=1.5)
    block, z = flow.blocks[0], noise(flow)
    update, several = Update(flow, block, z, 100.0), 0
    for sweep in sweeps_of(update, z.clone(), tolerance=0.5):
        several += sweep.settled - sweep.sweeps
        fresh = flow.keys(block, z)
        flow.affine(block, sweep.x, 0, 9, fresh)
        torch.testing.assert_close(update.keys.kept[..., : update.valid, :], fresh.kept[..., : update.valid, :])
    assert several > 3  # settled in one sweep


def test_a_segment_leaves_the_others_alone():
    """`fixed_point.jacobi` between first and stop."""
    target = torch.arange(8.0).view(1, 8, 1)
    moved = []

    def update(x, first, stop):
        moved.append((first, stop))
        return torch.cat([x[:, first - 1 : first], x[:, first : stop - 1]], 1) + 1

    x = torch.cat([target[:, :3], -torch.ones(1, 5, 1)], 1)
    *_, sweep = sweeps_of(update, x, first=3, stop=6)
    assert torch.equal(sweep.x[:, :6], target[:, :6])
    assert (sweep.x[:, 6:] == -1).all()
    assert moved[0] == (3, 6)
    assert sweep.sweeps <= 3


def test_igm_is_the_residual_after_one_sweep_and_crm_as_printed():
    flow = small(classes=0)
    image = torch.randn(64, *flow.shape).double()
    found, x = toughness(flow, image), flow.net.tokens(image)
    for block, each in zip(flow.blocks, found, strict=True):
        rows = arranged(block, x)
        mean, log_scale = block(rows)
        z = (rows - mean) * (-log_scale).exp()
        for start, value in (("noise", each.noise), ("zeros", each.zeros)):
            again = block(begun(z, start))
            residual = (z * again.log_scale.exp() + again.mean - rows).mean(0)
            torch.testing.assert_close(value, torch.linalg.svdvals(residual)[0])
        w = block.outward.weight
        crm = (
            torch.linalg.svdvals((rows * (-log_scale).exp()).mean(0))[0] * torch.linalg.svdvals(w[4:])[0]
            + torch.linalg.svdvals(w[:4])[0]
        )
        torch.testing.assert_close(each.crm, crm)
        x = scattered(block, z, len(x))
    ways = plan(found, segments=3, share=0.0)
    assert [way.segments for way in ways] == [3, 3, 3]
    assert [way.start for way in ways] == ["noise" if each.noise <= each.zeros else "zeros" for each in found]
    assert [way.segments for way in plan(found, share=1.1)] == [1, 1, 1]


def test_blocks_over_frames():
    """Shallow blocks see one frame; the deep one every token of the frames before, and nothing of those to come."""
    flow = small(0, frames=3)
    image = torch.randn(1, *flow.shape).double().requires_grad_()
    x = flow.net.tokens(image)
    for block in flow.blocks[:-1]:
        rows = arranged(block, x)
        mean, log_scale = flow.affine(block, rows)
        x = scattered(block, (rows - mean) * (-log_scale).exp(), 1)
    for frame in range(3):
        (slope,) = torch.autograd.grad(x[:, 9 * frame : 9 * frame + 9].sum(), image, retain_graph=True)
        assert [bool(slope[0, k].abs().max() > 0) for k in range(3)] == [k == frame for k in range(3)]
    z, _ = flow.forward(image)
    for frame in range(3):
        (slope,) = torch.autograd.grad(z[:, 9 * frame : 9 * frame + 9].square().sum(), image, retain_graph=True)
        assert [bool(slope[0, k].abs().max() > 0) for k in range(3)] == [k <= frame for k in range(3)]


def test_rules_of_guidance():
    g = torch.Generator().manual_seed(0)
    told, null = (
        Affine(torch.randn(5, generator=g).double(), 0.5 * torch.randn(5, generator=g).double()) for _ in range(2)
    )
    for rule in (linear, gaussian):
        for a, b in zip(rule(told, null, scale=1.0), told, strict=True):
            torch.testing.assert_close(a, b)
    doubled = linear(told, null, scale=2.0)
    torch.testing.assert_close(doubled.mean, 2 * told.mean - null.mean)
    torch.testing.assert_close(doubled.log_scale, 2 * told.log_scale - null.log_scale)
    # told^s / null^(s - 1) of two normal laws, where that is one: told the narrower
    narrow = Affine(told.mean, null.log_scale - 0.4)
    s, found = 2.5, gaussian(narrow, null, scale=2.5)
    a, b = (-2 * narrow.log_scale).exp(), (-2 * null.log_scale).exp()
    torch.testing.assert_close((-2 * found.log_scale).exp() * 1.0, s * a - (s - 1) * b)
    torch.testing.assert_close(found.mean, (s * a * narrow.mean - (s - 1) * b * null.mean) / (s * a - (s - 1) * b))


def test_cleaning_is_tweedie_of_a_normal_law():
    """With blocks that are the identity but for a last bias, p is normal with mean m and deviation s: exact."""
    flow = small(classes=0)
    for block in flow.blocks:
        block.outward.weight.zero_()
        block.outward.bias.zero_()
    bias = torch.tensor([0.3, -0.2, 0.1, 0.0, 0.2, -0.1, 0.3, 0.1]).double()
    flow.blocks[0].outward.bias.copy_(bias)
    image = torch.randn(4, *flow.shape).double()
    x = flow.net.tokens(image)
    log_scale = 4 * torch.tanh(bias[4:] / 4)
    expected = x - 0.1**2 * (x - bias[:4]) * (-2 * log_scale).exp()
    torch.testing.assert_close(flow.cleaned(image), flow.net.image(expected))
    assert not flow.cleaned(image).requires_grad


def test_wrong_words():
    flow = small()
    with pytest.raises(ValueError, match="expected 1 conditions"):
        flow.bind(torch.zeros(2).long(), torch.zeros(2).long())
    with pytest.raises(ValueError, match="expected a multiple of the 2 bound rows, got a batch of 3"):
        flow.bind(torch.tensor([0, 1])).log_prob(torch.zeros(3, 1, 6, 6).double())
    with pytest.raises(ValueError, match="whole patches"):
        TarFlow(7, 2)
    with pytest.raises(ValueError, match="expected segments a whole number of at least 1, got 0"):
        next(inverse.gs_jacobi(flow, noise(flow), segments=0))


# --- videos ---


def video(seed=0, **more):
    return small(0, (1, 1, 2), frames=4, seed=seed, **more)


@pytest.mark.parametrize("start", ["previous", "noise"])
def test_a_video_frame_by_frame_is_the_video(start):
    flow, z = video(), noise(video())
    steps = list(inverse.starflow_v(flow, z, tolerance=0.0, start=start, block=4, later=9, sweeps=None))
    exact = run(inverse.sequential(flow, z)).clean
    torch.testing.assert_close(steps[-1].clean, exact, rtol=0, atol=1e-10)
    for k, step in enumerate(steps):  # frames that are there do not change any more
        torch.testing.assert_close(step.clean[:, : k + 1], exact[:, : k + 1], rtol=0, atol=1e-10)
        assert (step.clean[:, k + 1 :] == 0).all()


def test_a_video_goes_on_from_frames_that_are_given():
    flow, z = video(), noise(video())
    whole = run(inverse.starflow_v(flow, z, tolerance=0.0, sweeps=None)).clean
    steps = list(inverse.starflow_v(flow, z, given=whole[:, :2], tolerance=0.0, sweeps=None))
    assert [step.total for step in steps] == [2, 2]
    torch.testing.assert_close(steps[-1].clean, whole, rtol=0, atol=1e-10)
    other = run(inverse.starflow_v(flow, z, given=whole[:, :2] + 0.3, tolerance=0.0, sweeps=None)).clean
    torch.testing.assert_close(other[:, :2], whole[:, :2] + 0.3)
    assert float((other[:, 2:] - whole[:, 2:]).abs().max()) > 1e-3
    with pytest.raises(ValueError, match="expected fewer than 4 frames"):
        next(inverse.starflow_v(flow, z, given=whole))
    with pytest.raises(ValueError, match=rf"expected noise of 4 frames, .* got \(2, {z.shape[1] // 2}, "):
        next(inverse.starflow_v(flow, z[:, : z.shape[1] // 2]))
    with pytest.raises(ValueError, match="expected fewer than 4 frames"):
        next(inverse.starflow_v(flow, z, given=whole[:, :2, :, :, :1]))
    with pytest.raises(ValueError, match="expected a flow over videos"):
        next(inverse.starflow_v(small(), noise(small())))


def test_a_start_near_the_solution_saves_sweeps():
    """Frames that hardly move: noise and blocks such that each frame of the deep block is nearly the one before."""
    flow = video()
    flow.net.blocks[-1].frame.zero_()
    z = noise(flow)
    z = z[:, :9].repeat(1, 4, 1) + 1e-3 * z
    sweeps = {}
    for start in ("previous", "noise"):
        sweeps[start] = [int(s.info["sweeps"]) for s in inverse.starflow_v(flow, z, tolerance=1e-3, start=start)]
    assert sweeps["previous"][0] == sweeps["noise"][0]
    assert sum(sweeps["previous"][1:]) < sum(sweeps["noise"][1:])


def test_the_denoiser_sees_one_frame_ahead():
    net = Denoiser(1, 8, 3).double()
    torch.nn.init.normal_(net.layers[-1].weight)
    x = torch.randn(1, 5, 1, 6, 6).double().requires_grad_()
    out = net(x)
    for k in range(5):
        (slope,) = torch.autograd.grad(out[:, k].sum(), x, retain_graph=True)
        assert [bool(slope[0, j].abs().max() > 0) for j in range(5)] == [j <= k + 1 for j in range(5)]
    picture = torch.randn(2, 1, 6, 6).double()
    assert net(picture).shape == picture.shape


def test_flow_score_matching_ends_at_tweedie():
    """The target is the flow's own slope; a net that returns it has no loss, and cleans as Tweedie's formula does."""
    flow = small()
    told = torch.tensor([0, 2])
    bound = flow.bind(told)

    class Slope(torch.nn.Module):
        def forward(self, noisy):
            return flow.noise * value_and_grad(bound.log_prob, noisy)[1]

    cleaner = Cleaner(Slope(), flow.noise)
    batch = Batch(torch.randn(2, *flow.shape).double(), (told,))
    g = torch.Generator().manual_seed(0)
    assert float(flow_score(cleaner, batch, g, flow=flow).max()) < 1e-20
    torch.testing.assert_close(cleaner(batch.clean), bound.cleaned(batch.clean))

    class Half(torch.nn.Module):
        def forward(self, noisy):
            return torch.full_like(noisy, 0.5)

    plain = flow_score(Cleaner(Half(), flow.noise), batch, torch.Generator().manual_seed(0), flow=flow, target="noise")
    e = torch.randn(batch.clean.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(plain, (0.5 + e).square().flatten(1).mean(1))


def test_the_loss_is_the_density_of_noisy_pictures():
    flow = small()
    batch = Batch(torch.randn(2, *flow.shape).double(), (torch.tensor([1, 2]),))
    found = tarflow(flow, batch, torch.Generator().manual_seed(0), drop=0.0)
    e = torch.randn(batch.clean.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    nats = -flow.bind(batch.condition[0]).log_prob(batch.clean + flow.noise * e) / 36
    torch.testing.assert_close(found, nats - 0.5 * torch.log(torch.tensor(2 * torch.pi)))
