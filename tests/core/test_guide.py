import pytest
import torch
from toys import PATHS, double

from flowhelm import GaussianFlow, NetFlow, Noise
from flowhelm.guide import chunked, counted, on_path, tiled
from flowhelm.guide.tiled import Tiled
from flowhelm.path import VP, linear, trig
from flowhelm.priors.unet import UNet

VPS = VP()
TIMES = pytest.mark.parametrize("t", [0.05, 0.4, 0.93, [0.1, 0.5, 0.9]])


@PATHS
@pytest.mark.parametrize("other", [linear, trig, VPS], ids=["linear", "trig", "vp"])
@TIMES
def test_a_prior_on_another_path_is_that_priors_own_flow(gaussian, x, path, other, t):
    there = GaussianFlow(gaussian.mean, gaussian.covariance, path)
    here = GaussianFlow(gaussian.mean, gaussian.covariance, other)
    moved, t = on_path(there, other), double(t)
    torch.testing.assert_close(moved.velocity(x, t), here.velocity(x, t), atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(moved.ends(x, t), here.ends(x, t), atol=1e-7, rtol=1e-7)
    assert moved.path is other
    assert (
        on_path(GaussianFlow(torch.zeros(2), torch.eye(2), path), other).velocity(x.float(), t).dtype == torch.float32
    )


def test_counted_counts_calls_rows_and_backwards(gaussian, x):
    flow, t = counted(gaussian), double(0.3)
    flow.velocity(x, t)
    flow.ends(x[:2], t)
    assert (flow.count.calls, flow.count.rows, flow.count.backward) == (2, 5, 0)
    z = x.clone().requires_grad_()
    (flow.velocity(z, t).sum() + flow.ends(z, t).clean.sum()).backward()
    assert (flow.count.calls, flow.count.rows, flow.count.backward) == (4, 11, 2)
    flow.velocity(z, t)  # not differentiated
    assert flow.count.backward == 2
    assert counted(gaussian).count.calls == 0
    torch.testing.assert_close(flow.velocity(x, t), gaussian.velocity(x, t), atol=0, rtol=0)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 20])
@pytest.mark.parametrize("t", [0.3, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]])
def test_chunks_change_nothing(mixture, size, t):
    x, t = torch.randn(7, 2).double(), double(t)
    inner = counted(mixture)
    torch.testing.assert_close(chunked(inner, size).velocity(x, t), mixture.velocity(x, t), atol=1e-13, rtol=0)
    calls = -(-7 // size)
    assert (inner.count.calls, inner.count.rows) == (calls, calls * size)  # every call of one shape
    with pytest.raises(ValueError, match="at least 1"):
        chunked(mixture, 0)


def test_guides_compose_and_forward(gaussian, x):
    flow = chunked(counted(on_path(GaussianFlow(gaussian.mean, gaussian.covariance, VPS), linear)), 2)
    torch.testing.assert_close(flow.velocity(x, double(0.4)), gaussian.velocity(x, double(0.4)), atol=1e-7, rtol=0)
    assert (flow.path, flow.shape, flow.pixels) == (linear, (2,), True)
    assert torch.equal(flow.source(Noise(0, 2)), gaussian.source(Noise(0, 2)))


@pytest.fixture(params=[((8, 8), 1), ((4, 4, 4), 1), ((8,), 2)], ids=["two levels", "three levels", "one level"])
def net(request):
    widths, blocks = request.param
    net = UNet(widths, blocks, channels=2).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # the layers that start at zero too
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * p[0].numel() ** -0.5)
    return net.requires_grad_(False)


@pytest.mark.parametrize("size", [(67, 45), (40, 81)])
@pytest.mark.parametrize("t", [0.3, [0.2, 0.9]])
def test_tiles_are_exact(net, size, t):
    x, t = torch.randn(2, 2, *size, dtype=torch.float64), double(t)
    flow = NetFlow(net, (2, *size))
    whole = flow.velocity(x, t)
    cut = tiled(flow, 13, reach=net.reach, stride=net.stride)
    torch.testing.assert_close(cut.velocity(x, t), whole, atol=1e-10, rtol=0)
    net.float()  # which the flow and its tiles share
    single = cut.velocity(x.float(), t)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, flow.velocity(x.float(), t), atol=1e-6 * float(whole.abs().max()), rtol=0)


def test_half_the_overlap_is_not_enough(net):
    x, t = torch.randn(1, 2, 96, 96, dtype=torch.float64), double(0.4)
    flow = NetFlow(net, (2, 96, 96))
    half = net.reach // 2 // net.stride * net.stride
    off = (Tiled(flow, net.stride, half).velocity(x, t) - flow.velocity(x, t)).abs().max()
    assert off > 1e-8


def test_reach_bounds_the_receptive_field_and_is_not_wasteful(net):
    n = 2 * net.reach + 4 * net.stride
    n = -(-n // net.stride) * net.stride
    seen = 0
    for centre in range(n // 2, n // 2 + net.stride):  # every place within the pooled grid
        x = torch.randn(1, 2, n, n, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(net(x, double([0.4]))[0, :, centre, centre].sum(), x)
        touched = gradient[0].abs().sum(0).nonzero()
        seen = max(seen, int((touched - centre).abs().max()))
    assert seen <= net.reach
    assert net.reach <= 2 * seen + net.stride


def test_tiles_of_no_size_are_refused(net):
    for tile, reach, stride in ((0, 4, 4), (8, -1, 4), (8, 4, 0)):
        with pytest.raises(ValueError, match=r"tiled: expected (tile|stride|reach) a whole number of at least"):
            tiled(NetFlow(net, (2, 8, 8)), tile, reach=reach, stride=stride)
