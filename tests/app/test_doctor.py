"""`flowhelm doctor MODEL`: what it takes, refuses and finds."""

from contextvars import copy_context

import numpy as np
import pytest
import torch
from PIL import Image

from flowhelm.app.errors import BadInput
from flowhelm.app.models.doctor import COUNT, _drawn, _read, examine_model, load_model
from flowhelm.app.options import own
from flowhelm.interfaces.cli import main
from flowhelm.priors.unet import UNet

CODE = """
import torch
from flowhelm.flow import GaussianFlow
from flowhelm.priors import from_velocity

place = torch.arange(8.0)
near = torch.exp(-(place[:, None] - place) ** 2 / 18) + 1e-3 * torch.eye(8)
exact = GaussianFlow(torch.zeros(64), 0.16 * torch.kron(near, near), shape=(1, 8, 8))

def right():
    return exact

def wrong():
    return from_velocity(lambda x, t: -exact.velocity(x, 1 - t.double()), (1, 8, 8))

def conditional():
    flow = from_velocity(lambda x, t, label: exact.velocity(x, t.double()), (1, 8, 8))
    return flow.bind(torch.tensor([0, 1, 2]))

def vectors():
    return GaussianFlow(torch.zeros(2), torch.eye(2))

def number():
    return 3

def broken():
    raise KeyError("weights are not there")
"""


def trusted(word):
    """The model of code that is trusted for this one call."""
    return copy_context().run(lambda: (own.trust(word), load_model(word))[1])


@pytest.fixture
def code(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "mine.py"


@pytest.fixture
def folder(tmp_path, code):
    """Draws of the law that the models of the code are exact for, as 8-bit pictures."""
    from flowhelm.rng import Noise

    (tmp_path / "pictures").mkdir()
    for i, picture in enumerate(trusted(f"{code}:right").sample(Noise(7, 5))):
        levels = ((picture[0].clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
        Image.fromarray(levels).save(tmp_path / "pictures" / f"{i}.png")
    (tmp_path / "pictures" / "notes.txt").write_text("not a picture")
    return tmp_path / "pictures"


def test_a_right_model_is_well(folder, capsys):
    assert main(["doctor", "mine.py:right", "--pictures", str(folder)]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[:-1]] == [
        "evaluation", "gradient", "end", "curve", "convention", "marginals",
    ]  # fmt: skip
    assert out.endswith("all well\n")


@pytest.mark.parametrize("model", ["mine.py:wrong", "mine:wrong"])
def test_a_wrong_model_is_told_its_remedy(folder, capsys, model):
    assert main(["doctor", model, "--pictures", str(folder)]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("broken: it denoises best with time reversed: pass clean_at=0")


def test_one_picture_without_pictures_and_with_conditions(folder, capsys):
    assert main(["doctor", "mine.py:wrong", "--pictures", str(folder / "0.png")]) == 1
    capsys.readouterr()
    assert main(["doctor", "mine.py:wrong"]) == 0
    assert capsys.readouterr().out.endswith("give --pictures for the rest\n")
    assert main(["doctor", "mine.py:conditional", "--pictures", str(folder)]) == 0
    assert main(["doctor", "mine.py:conditional"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("net.pt", "pickle"),
        ("folder/net.CKPT", "weights_only=True"),
        ("nonsense", "module:function"),
        ("other.py:right", "does not exist"),
        ("nomodule:right", "there is no module 'nomodule' here"),
        ("mine.py:absent", "absent"),
        ("mine.py:number", "returns int"),
        ("mine.py:broken", "weights are not there"),
        ("mine.py:right --pictures nowhere.png", "does not exist"),
        ("mine.py:right --pictures empty", "holds no pictures"),
        ("mine.py:vectors --pictures empty", "shape (2,)"),
        ("--pictures empty", "goes with a MODEL"),
        ("broken.safetensors", "safetensors"),
    ],
)
def test_bad_input(words, message, code, refusal):
    (code.parent / "empty").mkdir()
    (code.parent / "broken.safetensors").write_bytes(b"no")
    assert message in refusal("doctor", *words.split())


def test_no_pickle_is_opened(code):
    """Refused by name, before anything is read: a file that would run code when unpickled stays as it is."""
    trap = code.parent / "trap.pt"
    trap.write_bytes(b"cos\nsystem\n(S'touch sprung'\ntR.")
    with pytest.raises(BadInput, match="pickle"):
        load_model(str(trap))
    assert not (code.parent / "sprung").exists()


def test_a_file_of_flowhelm(tmp_path, capsys):
    """An untrained network is found out: it is plain smoothing with the preconditioning's variance."""
    from flowhelm.priors.bundled import save

    torch.manual_seed(0)
    save(UNet((8, 8), 1), tmp_path / "raw.safetensors", {"size": 16})
    picture = np.kron(np.random.default_rng(0).integers(0, 255, (4, 4, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    assert main(["doctor", str(tmp_path / "raw.safetensors"), "--pictures", str(tmp_path / "picture.png")]) == 0
    out = capsys.readouterr().out
    assert "is the network trained" in out
    assert out.endswith("look at what is odd\n")


def test_pictures_cover_the_models_size(tmp_path):
    """Scaled to cover and cut in the middle: the mean of a ramp stays where it is, and nothing is stretched."""
    ramp = np.tile(np.linspace(0, 255, 60).astype(np.uint8), (20, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    got = _read(tmp_path / "ramp.png", (1, 10, 10))
    assert got.shape == (1, 1, 10, 10)
    assert got.mean() == pytest.approx(0, abs=0.02)
    slope = (got[0, 0, 5, -1] - got[0, 0, 5, 0]) / 9  # per pixel: a third of 2 over 10 pixels
    assert slope == pytest.approx(2 / 30, rel=0.05)


def test_drawn_pictures():
    pictures = _drawn((3, 32, 48))
    assert pictures.shape == (COUNT, 3, 32, 48)
    assert torch.equal(pictures, _drawn((3, 32, 48)))
    assert pictures.abs().max() <= 1
    near = (pictures[..., 1:] - pictures[..., :-1]).square().mean() / pictures.var()
    assert near < 0.5  # neighbours are alike


@pytest.mark.slow
@pytest.mark.parametrize("name", ["photos", "fashion", "aerial", "animals"])
def test_the_bundled_priors_are_well(name):
    found = {f.name: f for f in examine_model(name)}
    print(found)
    assert "broken" not in {f.verdict for f in found.values()}
    assert found["curve"].value < (1 if name in ("photos", "fashion") else 1.1)  # the others are seen on drawn pictures
