"""Solids as planes: the renderer against a sphere, the transformer turned with the solid, its cost, what is refused."""

import math

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from flowhelm import NetFlow
from flowhelm.codec import LatentFlow, Standardized, standardized
from flowhelm.flow_map import along
from flowhelm.priors import student
from flowhelm.priors.mmdit import numbered
from flowhelm.priors.planes import Layer, Planes
from flowhelm.priors.triplane import AXES, TriPlane, depths, grid, middles, shaded, silhouettes
from flowhelm.recipes.latents3d import KINDS, WORDS, Solids, distance, pool, solids
from flowhelm.train import seeded


def ball(radius, size, centre=(0.0, 0.0, 0.0)):
    d = (grid(size).double() - torch.tensor(centre)).norm(dim=1) - radius
    return torch.sigmoid(-2 * size * d).view(1, *[size] * 3)


def random_weights(net: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.2)
    return net.double()


def test_the_silhouette_of_a_ball_is_a_disc():
    """Of area pi r^2 along each axis, r half a cell more since the edge is soft; over a cell it grows by 2 pi r: it is differentiable."""
    slopes, middle = [], 0.55 + 1 / 48
    for radius in torch.linspace(0.55 - 1 / 48, 0.55 + 1 / 48, 9, dtype=torch.float64):
        radius.requires_grad_()
        area = silhouettes(ball(radius, 48)).mean((2, 3)) * 4
        assert ((area / math.pi).sqrt() - radius - 1 / 48).abs().max() < 0.25 / 48
        slopes.append(torch.autograd.grad(area[0, 0], radius)[0])
    assert float(torch.stack(slopes).mean()) == pytest.approx(2 * math.pi * middle, rel=0.03)


def test_depths_of_a_ball_are_those_of_its_formula():
    """z = c_z -+ sqrt(r^2 - x^2 - y^2) where a ray meets it well inside, 1 and -1 where it misses."""
    centre, n = (0.1, -0.2, 0.15), 48
    views = depths(ball(0.5, n, centre))
    assert views.shape == (1, 6, n, n)
    x = middles(n).double()
    for view, (rows, columns) in enumerate(AXES):
        (along,) = {0, 1, 2} - {rows, columns}
        off = (x[:, None] - centre[rows]) ** 2 + (x[None] - centre[columns]) ** 2
        inside, outside = off < 0.35**2, off > 0.6**2
        half = (0.25 - off).clamp(min=0).sqrt()
        front, back = views[0, 2 * view], views[0, 2 * view + 1]
        assert (front - (centre[along] - half))[inside].abs().max() < 1.5 / n
        assert (back - (centre[along] + half))[inside].abs().max() < 1.5 / n
        torch.testing.assert_close(front[outside], torch.ones_like(front[outside]), atol=1e-3, rtol=0)
        torch.testing.assert_close(back[outside], -torch.ones_like(back[outside]), atol=1e-3, rtol=0)
    assert shaded(ball(0.5, n)).abs().max() <= 1


def test_a_hard_ray_stops_at_the_first_cell():
    volume = torch.zeros(1, 4, 4, 4)
    volume[0, 1, 2, 1] = volume[0, 1, 2, 3] = 1
    views = depths(volume)
    z = middles(4)
    assert (views[0, 0, 1, 2], views[0, 1, 1, 2]) == (z[1], z[3])  # along z, front and back
    assert (views[0, 2, 1, 3], views[0, 3, 1, 3]) == (z[2], z[2])  # along y
    assert (views[0, 4, 2, 1], views[0, 5, 2, 1]) == (z[1], z[1])  # along x


def test_planes_are_read_where_the_shadows_of_a_point_are():
    codec = random_weights(TriPlane(channels=1, side=4, width=2, hidden=3))
    codec.decoder = nn.Linear(3, 1).double()
    nn.init.constant_(codec.decoder.weight, 0.0)
    latent = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    x = middles(4).double()
    for plane, (rows, columns) in enumerate(AXES):
        with torch.no_grad():
            codec.decoder.weight.zero_()[0, plane] = 1
            codec.decoder.bias.zero_()
        point = torch.zeros(1, 3, dtype=torch.float64)
        point[0, rows], point[0, columns] = x[1], x[2]
        torch.testing.assert_close(codec.at(latent, point), latent[:, plane, 1, 2][:, None])
        point[0, rows] = (x[1] + x[2]) / 2
        torch.testing.assert_close(codec.at(latent, point), latent[:, plane, 1:3, 2].mean()[None, None])


def test_standardizing_by_plane_and_channel_is_undone_by_the_codec():
    codec = random_weights(TriPlane(channels=2, side=4, width=2, hidden=3))
    latents = torch.randn(20, 6, 4, 4, dtype=torch.float64) * torch.tensor([0.01, 1, 5, 0.3, 2, 9])[:, None, None] + 3
    made = standardized(codec, latents)
    z = made.normalize(latents)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(6).double(), atol=1e-10, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3), correction=0), torch.ones(6).double())
    torch.testing.assert_close(made.decode(z), codec.decode(latents))
    assert isinstance(made, Standardized)
    prior = LatentFlow(NetFlow(nn.Identity(), (6, 4, 4)), made)
    assert prior.decode(z[:2]).shape == (2, 6, 8, 8)
    assert prior.encode(torch.zeros(2, 6, 8, 8, dtype=torch.float64)).shape == (2, 6, 4, 4)


@pytest.fixture
def net():
    return random_weights(Planes((6, 4, 4), words=5, patch=2, width=8, layers=2, heads=2))


def test_the_transformer_turns_with_the_solid(net):
    """With equal weights for all planes, exchanging x and z of the solid exchanges it of the velocity: means go to the right axes."""
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if ".planes." in name or name.startswith(("inner", "last", "outer")):
                weight.copy_(weight[:1].expand_as(weight))
        net.place.zero_()  # places along rows and along columns differ
        square = net.inner.weight.unflatten(1, (2, 2, 2))  # and so do those within a patch
        net.inner.weight.copy_(((square + square.transpose(2, 3)) / 2).flatten(1, 3))
        out = net.outer.weight.unflatten(2, (2, 2, 2))
        net.outer.weight.copy_(((out + out.transpose(3, 4)) / 2).flatten(2))
        bias = net.outer.bias.unflatten(2, (2, 2, 2))
        net.outer.bias.copy_(((bias + bias.transpose(3, 4)) / 2).flatten(2))

    def exchanged(x):  # xy -> zy, xz -> zx, yz -> yx
        xy, xz, yz = x.chunk(3, 1)
        return torch.cat([each.transpose(2, 3) for each in (yz, xz, xy)], 1)

    x, t = torch.randn(2, 6, 4, 4, dtype=torch.float64), torch.tensor([0.3, 0.8]).double()
    words = numbered(["large torus", "small sphere box"], WORDS, 3)
    there = net(x, t, words)
    torch.testing.assert_close(net(exchanged(x), t, words), exchanged(there))
    moved = x.clone()
    moved[:, 4:, 0] += 1  # yz at one y
    change = (net(moved, t, words) - there).abs()
    assert change[:, :2].amax() > 1e-6  # is seen by xy, through the mean of its axis


def test_means_belong_to_their_axis():
    """Tokens that know their places: along an axis its own places remain, of others their mean."""
    layer = Layer(AXES, 3, 4, 1)
    x = torch.zeros(3, 1, 1, 9, 3)
    for plane, (rows, columns) in enumerate(AXES):
        x[plane, 0, 0, :, rows] = torch.arange(3.0).repeat_interleave(3)
        x[plane, 0, 0, :, columns] = torch.arange(3.0).repeat(3)
    for axis, mean in layer.means(x).items():
        expected = torch.full((3, 3), 0.5)  # one of two planes has it, with places 0, 1, 2
        expected[:, axis] = torch.arange(3.0)
        torch.testing.assert_close(mean[0, 0], expected)


def test_a_row_does_not_see_its_neighbours_and_nothing_said_is_null(net):
    x, t = torch.randn(3, 6, 4, 4, dtype=torch.float64), torch.tensor([0.2, 0.5, 0.9]).double()
    words = numbered(["large torus", "small box", "small sphere box"], WORDS, 3)
    together = net(x, t, words)
    alone = torch.cat([net(x[i : i + 1], t[i : i + 1], words[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)
    flow = NetFlow(net, (6, 4, 4), null=net.null)
    nothing = flow.bind(torch.zeros(3, 3, dtype=torch.int64))
    torch.testing.assert_close(flow.velocity(x, t), nothing.velocity(x, t))
    upside = net(x[2:], t[2:], numbered(["small box sphere"], WORDS, 3))
    assert (upside - together[2:]).abs().max() > 1e-6  # words have places


def test_a_student_over_planes_is_its_teacher_without_the_waves_that_no_derivative_passes(net):
    """Whatever the span; forward-mode and a difference agree on how it changes along the flow, which the teacher's fast waves forbid."""
    with torch.no_grad():
        for waves in (slice(8, 16), slice(24, 32)):
            net.time[0].weight[:, waves] = 0
    words = numbered(["large torus", "small box", "small sphere box"], WORDS, 3)
    teacher = NetFlow(net, (6, 4, 4), null=net.null).bind(words)
    made = student(teacher)
    made.net.double()
    x, s = torch.randn(3, 6, 4, 4, dtype=torch.float64), torch.tensor([0.2, 0.5, 0.9]).double()
    for t in (s, torch.ones_like(s)):
        torch.testing.assert_close(made.average(x, s, t), teacher.velocity(x, s))
    nn.init.normal_(made.net.net.span[-1].weight)
    assert (made.average(x, s, torch.ones_like(s)) - teacher.velocity(x, s)).abs().max() > 1e-6
    v = teacher.velocity(x, s)
    exact, near = (along(made.average, x, s, torch.ones_like(s), v, step=step)[1] for step in (None, 1e-5))
    torch.testing.assert_close(near, exact, rtol=1e-4, atol=1e-5 * float(exact.abs().max()))


def test_what_it_costs_is_linear_in_the_planes():
    def flops(count):
        axes = [AXES[i % 3] for i in range(count)]
        net = Planes((2 * count, 8, 8), words=5, axes=axes, patch=2, width=8, layers=2, heads=2)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            net(torch.zeros(1, 2 * count, 8, 8), torch.zeros(1))
        return counter.get_total_flops()

    three, six, nine = flops(3), flops(6), flops(9)
    assert nine - six == six - three > 0
    assert six - three > 0.9 * three


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda: Planes((6, 4, 4), words=5, width=8, heads=2)(torch.zeros(1, 6, 8, 8), torch.zeros(1)), r"expected planes \(b, 6, 4, 4\)"),
        (lambda: Planes((7, 4, 4), words=5), "channels for each of 3 planes"),
        (lambda: TriPlane(2, 4).at(torch.zeros(1, 6, 8, 8), torch.zeros(1, 3)), r"expected planes \(b, 6, 4, 4\), got \(1, 6, 8, 8\)"),
        (lambda: TriPlane(2, 4).encode(torch.zeros(1, 6, 4, 4)), r"expected views \(b, 6, 8, 8\)"),
        (lambda: TriPlane(2, 4).shape(8, 16), "8 x 8, got 8 x 16"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(act, expected):
    with pytest.raises(ValueError, match=expected):
        act()


def test_solids_are_those_of_their_formulas():
    one = lambda kind, size: Solids(  # noqa: E731
        torch.tensor([True]), torch.tensor([[kind, -1]]), torch.zeros(1, 2, 3), torch.tensor(size).expand(1, 2, 3)
    )
    points = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]])
    torch.testing.assert_close(distance(one(0, [0.4, 0, 0]), points), torch.tensor([[-0.4, 0.6, 0.6]]))
    torch.testing.assert_close(distance(one(1, [0.5, 0.4, 0.3]), points), torch.tensor([[-0.3, 0.5, 0.7]]))
    ring = torch.tensor([[0.4, 0.5, (0.25 + 1) ** 0.5 - 0.1]])
    torch.testing.assert_close(
        distance(one(2, [0.5, 0.1, 0.0]), points), torch.cat([ring[:, :1], ring[:, 1:2] - 0.1, ring[:, 2:]], 1)
    )
    assert one(2, [0.5, 0.1, 0.0]).texts() == ["large torus"]
    many = solids(64, seeded(0, 0))
    surface = grid(12)
    assert (distance(many, surface * 3)[:, surface.abs().amax(1) > 0.9] > 0).all()  # they stay inside
    assert {len(text.split()) for text in many.texts()} == {2, 3}
    both = next(i for i, kinds in enumerate(many.kind.tolist()) if kinds[1] >= 0)
    assert many.centre[both, 0, 2] > many.centre[both, 1, 2]  # the first of the text is on top
    assert KINDS[many.kind[both, 0]] == many.texts()[both].split()[1]


def test_a_pool_is_the_same_again():
    first, second = pool(3, seeded(5, 0), size=16), pool(3, seeded(5, 0), size=16)
    for a, b in zip(first[1:], second[1:], strict=True):
        assert torch.equal(a, b)
    assert first.views.shape == (3, 6, 16, 16)
    assert first.coarse.shape == (3, 8, 8, 8)
    assert first.inside.min() >= 0
    assert first.inside.max() <= 1
