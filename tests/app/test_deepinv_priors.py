"""Priors of deepinv by name, through every interface that takes a prior: on random weights, which restore nothing but cost the same."""

import json
import shutil

import pytest
import torch
from PIL import Image

from flowhelm.app.models.doctor import examine_model
from flowhelm.app.models.opening import where
from flowhelm.app.models.plan import plan
from flowhelm.app.restore.restorer import Restorer
from flowhelm.interfaces.cli import main
from flowhelm.priors import Sigmas, denoisers
from flowhelm.priors.bundled import Pretrained

pytest.importorskip("deepinv")

NAME = "deepinv:FFDNet"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    (folder / "checkpoints").mkdir()
    torch.manual_seed(0)
    net = denoisers.network(NAME, random=True).net
    torch.save(net.state_dict(), folder / "checkpoints" / denoisers.of(NAME).file)
    return folder


@pytest.fixture
def photo(hub, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no connection")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(hub))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.chdir(tmp_path)
    pixels = torch.randint(0, 256, (6, 7, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).resize((35, 33)).save("a.png")
    return tmp_path / "a.png"


def restore(*more):
    return main(["restore", "a.png", "--operator", "deblur", "--sigma", "1", "--std", "0.05", "--threads", "1", *more])


def test_a_picture_is_restored_and_made_again(photo, capsys):
    """By its default method; the run's file names the prior and its weights, and makes the same picture."""
    assert restore("--prior", NAME) == 0
    told = json.loads((photo.parent / "a.run.json").read_text())
    assert told["settings"]["prior"] == NAME
    assert (told["settings"]["method"], told["settings"]["steps"]) == ("hqs", 6)
    assert "6 evaluations" in capsys.readouterr().out
    assert main(["rerun", "a.run.json"]) == 0
    assert "identical to the bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--look", "natural"), "mpc_flow begins with nothing but noise, and deepinv:FFDNet was trained for noise up to 0.59 only"),
        (("--method", "diffpir"), "choose a method that begins with the degraded picture: hqs, red or pnp_admm"),
        (("--samples", "2", "--out", "s"), "flower begins with nothing but noise"),
        (("--prompt", "a cat"), "--prompt is for pipelines"),
        (("--prior", "deepinv:DRUNet"), "put the file at"),
        (("--prior", "deepinv:drunet"), "did you mean deepinv:DRUNet?"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_one_sentence(photo, capsys, more, words):
    assert restore("--prior", NAME, *more) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not (photo.parent / "a.restored.png").exists()


def test_more_noise_than_it_knows_is_warned_of(photo, capsys):
    assert main(["restore", "a.png", "--operator", "denoise", "--std", "0.9", "--threads", "1", "--prior", NAME]) == 0
    assert "deepinv:FFDNet was trained for noise up to 0.59, and this picture has 0.9" in capsys.readouterr().out


def test_nothing_is_drawn_from_it(photo, capsys):
    for command in (["sample", NAME], ["steer", NAME, "--reward", "brightness", "--budget", "8"]):
        assert main(command) == 2
        assert "it restores (flowhelm restore --prior deepinv:FFDNet), it does not draw" in capsys.readouterr().err


def test_a_folder_is_a_batch_of_it(photo):
    (photo.parent / "in").mkdir()
    for i in range(2):
        shutil.copy(photo, photo.parent / "in" / f"{i}.png")
    assert main(["restore", "in", "--operator", "denoise", "--std", "0.1", "--threads", "1", "--prior", NAME]) == 0
    assert len(list(photo.parent.glob("in*/**/*.restored.png"))) == 2


def test_python_and_plan_and_names(photo):
    restored = Restorer(NAME)("a.png", "denoise", std=0.1)
    assert restored.picture.shape[-2:] == (33, 35)
    found = plan("deepinv:DRUNet", "hqs", vram=8, size=(64, 64), operator="denoise", steps=2)  # without its weights
    assert found.fits
    assert found.model == "deepinv:DRUNet"
    assert where(NAME) == NAME


def test_doctor_asks_it_at_the_levels_that_it_knows(photo):
    """An exact denoiser of a limited range is well; drawing is not looked at."""
    from flowhelm.app.models.doctor import _drawn

    pictures = (_drawn((3, 64, 64)) + 1) / 2

    class Smooth(torch.nn.Module):
        """The best constant between a picture and its mean: of pictures with the variance of these."""

        def __init__(self):
            super().__init__()
            self.level = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

        def forward(self, x, sigma):
            mean, var = pictures.mean(), pictures.var()
            rate = (var / (var + sigma**2)).view(-1, 1, 1, 1)
            blurred = torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
            mixed = torch.where(sigma.view(-1, 1, 1, 1) > 0.08, blurred, x)
            return mean + rate * (mixed - mean)

    flow = Pretrained(
        Smooth(), (3, 64, 64), kind="clean", schedule=Sigmas(1e-4, 0.2), span=(0.0, 1.0), name=NAME, about={"size": 64}
    )
    found = {each.name: each for each in examine_model(NAME, flow=flow)}
    assert found["marginals"].verdict == "well"
    assert "nothing is drawn" in found["marginals"].words
    assert {found[name].verdict for name in ("evaluation", "gradient", "end")} == {"well"}
