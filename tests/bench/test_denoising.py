import csv
import io
import math

import pytest
import torch
from torch import nn

from flowhelm.app.files.dataset import whole
from flowhelm.bench.quality import denoising
from flowhelm.flow import NetFlow
from flowhelm.metrics import psnr
from flowhelm.priors.bundled import load, save
from flowhelm.priors.unet import UNet


def clean(height=24, width=40, seed=0):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("sigma", denoising.SIGMAS)
def test_one_call_is_the_wiener_gain_of_a_normal_prior(sigma):
    """A fresh UNet is the exact flow of N(0, d^2): E[clean | y] = d^2 / (d^2 + s^2) y with s on [-1, 1]."""
    net = UNet((8, 16))
    flow = NetFlow(net, (3, 64, 64), looks="turned")
    y = denoising.noisy(clean(), "a", sigma, 0)
    s = sigma / 255 * 2
    expected = net.data_std**2 / (net.data_std**2 + s**2) * y
    assert torch.allclose(denoising.denoised(flow, y, sigma), expected, atol=2e-6)
    assert torch.allclose(denoising.denoised(flow, y, sigma, ensemble=True), expected, atol=2e-6)


def test_the_mean_of_all_looks_is_alike_for_every_turn_of_the_picture():
    torch.manual_seed(0)
    flow = NetFlow(Called(nn.Conv2d(3, 3, 3, padding=1)), (3, 24, 24), looks="turned")
    y = denoising.noisy(clean(24, 24), "a", 25, 0)
    mean = denoising.denoised(flow, y, 25, ensemble=True)
    one = denoising.denoised(flow, y, 25)
    for turn in (lambda z: z.flip(-1), lambda z: torch.rot90(z, 1, (-2, -1)), lambda z: z.mT):
        torch.testing.assert_close(denoising.denoised(flow, turn(y), 25, ensemble=True), turn(mean), atol=1e-5, rtol=0)
        assert (denoising.denoised(flow, turn(y), 25) - turn(one)).abs().max() > 1e-2


class Called(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t):
        return self.net(x)


def test_noise_is_of_the_picture_and_the_level_and_is_not_clamped():
    x = clean(200, 200)
    one, again, other, more = (denoising.noisy(x, *of, 0) - x for of in (("a", 25), ("a", 25), ("b", 25), ("a", 50)))
    assert torch.equal(one, again)
    assert float(one.std()) * 255 / 2 == pytest.approx(25, rel=0.01)
    for independent in (other, more):
        assert abs(float(torch.corrcoef(torch.stack([one.flatten(), independent.flatten()]))[0, 1])) < 0.02
    assert float((one + x).abs().max()) > 1


def test_multiply_adds_are_those_of_the_convolution():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.coarse = nn.Conv2d(3, 3, 5, padding=2), nn.Conv2d(3, 7, 2, stride=2)

        def forward(self, x, t):
            self.coarse(x)
            return self.wide(x)

    assert denoising.multiply_adds(NetFlow(Net(), (3, 64, 64))) == 3 * 3 * 25 + 3 * 7 * 4 / 4


def test_the_table_has_means_errors_and_yardsticks():
    rows = [
        {"set": folder, "image": f"{i}", "sigma": s, "noisy": 20, "psnr": 30 + i + s / 100, "ssim": 0.9}
        for folder in ("CBSD68", "Set5")
        for i in range(3)
        for s in (15, 50)
    ]
    photos, small = denoising.table(rows).split("**Set5**")
    error = 1 / math.sqrt(3)
    assert f"| this prior | 31.15 ± {error:.2f} | 31.50 ± {error:.2f} |" in photos
    assert "| DRUNet (published) | 34.30 | 28.51 |" in photos  # sigma 25 was not asked for
    assert "published" not in small


@pytest.fixture
def archive(archived):
    return archived("CBSD68/b", "CBSD68/a", "Set5/c", "Other/d")


def test_the_command_goes_on_where_it_was(archive, tmp_path, capsys):
    prior, out = tmp_path / "tiny.safetensors", tmp_path / "rows.csv"
    save(UNet((8, 16)), prior, {"size": 64})
    options = {"data": archive, "prior": str(prior), "folder": None, "images": None, "seed": 0, "out": out}
    denoising.main(**options)
    printed = capsys.readouterr().out
    assert f"{sum(p.numel() for p in UNet((8, 16)).parameters()):,} parameters" in printed
    first = out.read_text()
    rows = list(csv.DictReader(io.StringIO(first)))
    assert [(r["image"], r["sigma"]) for r in rows] == [
        (name, str(s)) for name in ("CBSD68/a.png", "CBSD68/b.png", "Set5/c.png") for s in denoising.SIGMAS
    ]
    name, picture = next(whole(archive, "Set5"))
    y = denoising.noisy(picture, name, 50, 0)
    assert float(rows[-1]["psnr"]) == pytest.approx(
        float(psnr(denoising.denoised(load(prior), y, 50), picture[None])), abs=1e-3
    )
    assert float(rows[-1]["noisy"]) == pytest.approx(20 * math.log10(255 / 50), abs=0.5)
    out.write_text("".join(first.splitlines(keepends=True)[:5]))  # as a run that was cut after four rows
    denoising.main(**options)
    seconds = lambda text: [{k: v for k, v in r.items() if k != "seconds"} for r in csv.DictReader(io.StringIO(text))]  # noqa: E731
    assert seconds(out.read_text()) == seconds(first)
    capsys.readouterr()
    denoising.main(**(options | {"seed": 1}))  # other noise: rows of its own, a table of its own
    assert len(list(csv.DictReader(out.open()))) == 2 * len(rows)
    assert "**CBSD68**, 2 pictures" in capsys.readouterr().out


def test_a_folder_that_is_not_there_is_named(archive):
    with pytest.raises(ValueError, match="Kodak"):
        list(whole(archive, "Kodak"))
