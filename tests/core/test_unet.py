import pytest
import torch
from toys import randomised

from flowhelm.flow import GaussianFlow, NetFlow
from flowhelm.priors.unet import UNet


@pytest.mark.parametrize("d", [0.5, 1.3])
@pytest.mark.parametrize("t", [0.0, 0.3, 0.8, 1.0])
def test_untrained_it_is_the_exact_flow_of_white_data(d, t):
    net = UNet((8, 8), 1, data_std=d).double()
    x, t = torch.randn(2, 3, 5, 6).double(), torch.tensor(t, dtype=torch.float64)
    white = GaussianFlow(torch.zeros(90).double(), d**2 * torch.eye(90).double(), shape=(3, 5, 6))
    with torch.no_grad():
        v = NetFlow(net, (3, 5, 6)).velocity(x, t)
    torch.testing.assert_close(v, white.velocity(x, t), atol=1e-12, rtol=0)


@pytest.mark.parametrize("t", [0.02, 0.5, 0.97])
def test_input_and_target_have_unit_variance(t):
    net, d, n = UNet((8, 8), 1, data_std=0.7), 0.7, 200_000
    clean, source = d * torch.randn(n).double(), torch.randn(n).double()
    x, v = t * clean + (1 - t) * source, clean - source
    a, b, inward = (s.squeeze() for s in net.scales(torch.tensor([t], dtype=torch.float64)))
    assert (inward * x).std() == pytest.approx(1, abs=0.01)
    assert ((v - a * x) / b).std() == pytest.approx(1, abs=0.01)
    assert torch.corrcoef(torch.stack([x, v - a * x]))[0, 1] == pytest.approx(0, abs=0.01)


@pytest.fixture
def net():
    return randomised(UNet((8, 8, 8), 1)).requires_grad_(False)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (8, 16), (17, 23)])
def test_any_size(net, size):
    x = torch.randn(2, 3, *size)
    v = net(x, torch.tensor([0.2, 0.9]))
    assert v.shape == x.shape
    alone = net(x[1:], torch.tensor([0.9]))
    torch.testing.assert_close(alone, v[1:], atol=1e-5, rtol=1e-5)


def test_padding_leaves_a_picture_that_fits_alone(net):
    x, t = torch.randn(1, 3, 16, 13), torch.tensor([0.5])
    by_hand = torch.nn.functional.pad(x, (0, 3, 0, 0), mode="replicate")
    torch.testing.assert_close(net(x, t), net(by_hand, t)[..., :13])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(net, dtype):
    x, t = torch.randn(1, 3, 8, 8), torch.tensor([0.5])
    v = net.to(dtype)(x.to(dtype), t.to(dtype))
    assert v.dtype == dtype
    torch.testing.assert_close(v.float(), net.float()(x, t), atol=0.1 if dtype == torch.bfloat16 else 1e-5, rtol=0)


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_the_ends_of_time_are_finite(net, t):
    assert net(torch.randn(1, 3, 8, 8), torch.tensor([t])).isfinite().all()


def test_its_arguments_are_kept_for_the_weights_file(net):
    assert UNet(tuple(net.config.pop("widths")), **net.config).load_state_dict(net.state_dict())
    assert net.stride == 8
