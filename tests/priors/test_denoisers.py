"""deepinv's denoisers by name: their own answers at their own levels, weights that are read as tensors alone, refusals in a sentence."""

import argparse
import time
from pathlib import Path

import pytest
import torch

from flowhelm import Noise, begin, metrics, operators, priors, restore, run, simulate
from flowhelm.app.errors import BadInput
from flowhelm.app.models import cards, opening
from flowhelm.priors import bundled, denoisers

models = pytest.importorskip("deepinv.models")

LARGE = ("DRUNet", "GSDRUNet", "DiffUNet", "Restormer", "SCUNet")
EVERY = [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in denoisers.NETWORKS]
SMALL = "deepinv:FFDNet"


def network(name):
    torch.manual_seed(0)
    return denoisers.network(f"deepinv:{name}", random=True).net


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder of weights; nothing is fetched."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))

    def refuse(*_, **__):
        raise OSError("no connection")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def put(home, name, entry=""):
    """Random weights as deepinv's file has them; returns the network that they are of."""
    net = network(name)
    made = {id(value) for key, value in net.named_buffers()}
    state = {key: value for key, value in net.state_dict(keep_vars=True).items() if id(value) not in made}
    state = {key: value.detach().clone() for key, value in state.items()}
    torch.save({entry: state} if entry else state, home / denoisers.of(f"deepinv:{name}").file)
    return net


@pytest.mark.parametrize("name", EVERY)
def test_the_clean_end_is_the_networks_own_answer(home, name):
    """At levels that it knows: pictures in [0, 1], sigma in the same unit, through a file of weights."""
    known = denoisers.of(f"deepinv:{name}")
    net = put(home, name, known.entry)
    flow = priors.load(f"deepinv:{name}").sized(64, 64)
    generator = torch.Generator().manual_seed(1)
    clean, noise = torch.rand(2, 3, 64, 64, generator=generator), torch.randn(2, 3, 64, 64, generator=generator)
    low, high = known.levels
    for sigma in {max(low, 0.01) if low < high else low, (low + min(high, 1.0)) / 2, min(high, 1.0)}:
        t = torch.tensor(1 / (1 + 2 * sigma), dtype=torch.float64)
        noisy = clean + sigma * noise
        with torch.no_grad():
            expected = net(noisy, torch.full((2,), sigma))
        found = (flow.ends(float(t) * (2 * noisy - 1), t).clean + 1) / 2
        scale = float(expected.abs().max())
        assert torch.allclose(found.detach(), expected, atol=2e-5 * max(scale, 1)), sigma
        assert bool(flow.knows(t)) or low == high
    assert flow.levels == pytest.approx((2 * low or 2e-4, 2 * high), rel=0.03)
    assert not any(p.requires_grad for p in flow.net.parameters())
    assert not flow.net.training


def test_sides_that_it_does_not_take_are_padded(home):
    """FFDNet takes even ones only; the border is repeated."""
    net = put(home, "FFDNet")
    told = priors.load(SMALL).net
    x, level = torch.rand(1, 3, 61, 75, generator=torch.Generator().manual_seed(2)), torch.full((1,), 0.01)
    wide = torch.nn.functional.pad(x, (0, 1, 0, 1), mode="replicate")
    with torch.no_grad():
        assert torch.allclose(told(x, level), net(wide, level)[..., :61, :75], atol=1e-6)
        assert told(x[..., :5, :7], level).shape == (1, 3, 5, 7)


@pytest.mark.parametrize("name", ["FFDNet", "DnCNN"])
def test_tiles_are_the_whole(home, name):
    """What a convolutional network is said to look at is enough."""
    from flowhelm.app.restore.observation import sized

    put(home, name)
    flow = priors.load(f"deepinv:{name}")
    x, t = (
        torch.randn(1, 3, 160, 130, generator=torch.Generator().manual_seed(3)),
        torch.tensor(0.97, dtype=torch.float64),
    )
    with torch.no_grad():
        whole, parts = (sized(flow, (3, 160, 130), tile).ends(x, t).clean for tile in (0, 64))
    # tiles of another size may go through other kernels; too small a reach errs by hundredths
    assert (whole - parts).abs().max() < 1e-4 * whole.std()


def test_the_address_is_deepinvs_own():
    from deepinv.models.utils import get_weights_url

    for name, known in denoisers.NETWORKS.items():
        assert denoisers.url(f"deepinv:{name}") == get_weights_url(known.folder, known.file)
        assert hasattr(models, name)


@pytest.mark.slow
def test_deepinvs_classes_ask_for_the_same_files(monkeypatch):
    """Each class, told to download, asks for the file that is known here."""
    asked = []

    def note(address, *_, **__):
        asked.append(address)
        raise RuntimeError("asked")

    for name, known in denoisers.NETWORKS.items():
        module = __import__(models.__dict__[name].__module__, fromlist=["x"])
        monkeypatch.setattr(module, "load_state_dict_from_url", note)
        options = {k: v for k, v in known.options.items() if v != "meta"}
        with pytest.raises(RuntimeError, match="asked"):
            models.__dict__[name](**options, pretrained="denoising" if name == "Restormer" else "download")
        assert asked[-1] == denoisers.url(f"deepinv:{name}")


def test_without_a_connection_one_sentence_says_where_the_file_goes(home):
    began = time.monotonic()
    with pytest.raises(ValueError, match="cannot be fetched") as error:
        priors.load("deepinv:DRUNet")
    assert time.monotonic() - began < 5
    words = str(error.value)
    assert str(home / "drunet_deepinv_color_finetune_22k.pth") in words
    assert "https://huggingface.co/deepinv/drunet/resolve/main/drunet_deepinv_color_finetune_22k.pth" in words
    assert "\n" not in words
    assert list(home.iterdir()) == []


def test_a_server_that_never_answers_is_not_waited_for(home, monkeypatch):
    monkeypatch.setattr(denoisers, "WAIT", 0.2)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: time.sleep(30))
    with pytest.raises(ValueError, match=r"no answer in 0\.2 seconds"):
        priors.load("deepinv:DRUNet")


def test_weights_are_fetched_once(home, monkeypatch):
    class Answer:
        __enter__ = __exit__ = lambda *_: None

    taken = []

    def fetch(address, path):
        taken.append(address)
        put(Path(path).parent, "FFDNet")

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Answer())
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        assert priors.load(SMALL).name == SMALL
    assert taken == [denoisers.url(SMALL)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda path: torch.save({"a": argparse.Namespace(b=1)}, path), "cannot be read as tensors alone"),
        (lambda path: path.write_bytes(b"PK\x03\x04 no zip"), "cannot be read as tensors alone"),
        (lambda path: torch.save([1, 2], path), "something else"),
        (lambda path: torch.save({"other": torch.zeros(3)}, path), "does not hold the tensors"),
        (lambda path: torch.save({k: v[:1] for k, v in network("FFDNet").state_dict().items()}, path), "does not hold the tensors"),
        (lambda path: torch.save({k: v * torch.nan for k, v in network("FFDNet").state_dict().items()}, path), "not every number"),
    ],
    ids=["code", "damaged", "list", "other", "shapes", "nan"],
)  # fmt: skip
def test_a_file_of_something_else_is_refused(home, content, message):
    content(home / denoisers.of(SMALL).file)
    with pytest.raises(ValueError, match=message) as error:
        priors.load(SMALL)
    assert "delete" in str(error.value)


def test_nothing_in_a_file_is_run(home):
    """A pickle that would make a file when it is read."""
    mark = home / "ran"

    class Runs:
        def __reduce__(self):
            return Path.touch, (mark,)

    torch.save({"a": Runs()}, home / denoisers.of(SMALL).file)
    with pytest.raises(ValueError, match="tensors alone"):
        priors.load(SMALL)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "hint"),
    [("deepinv:drunet", "did you mean deepinv:DRUNet"), ("deepinv:Nothing", "there are DRUNet, GSDRUNet")],
)
def test_an_unknown_name_is_one_sentence(name, hint):
    with pytest.raises(ValueError, match=hint):
        priors.load(name)


def test_a_method_begins_at_noise_that_the_prior_knows(home):
    """hqs asks for no more than that; one that begins at the source says why it does not, and which does."""
    put(home, "FFDNet")
    put(home, "DnCNN")
    flow = priors.load(SMALL).sized(32, 32)
    clean = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(4)) * 2 - 1
    y = simulate(operators.deblur(flow.shape, border="circular"), clean, 0.05, Noise(0, 1))
    x, times = begin(restore.hqs, flow, y, 3)
    levels = (1 - times[:-1]) / times[:-1]
    assert float(levels.max()) <= flow.levels[1]
    assert bool(flow.knows(times[:-1]).all())
    assert metrics.psnr(run(restore.hqs(flow, y, x, times)).x, clean).isfinite().all()
    with pytest.raises(ValueError, match=r"dps begins with nothing but noise.*deepinv:FFDNet.*0\.59.*hqs"):
        begin(restore.dps, flow, y, 3, Noise(0, 1))
    fixed = priors.load("deepinv:DnCNN").sized(32, 32)
    grid = begin(restore.hqs, fixed, y, 4)[1][:-1]
    assert torch.allclose((1 - grid) / grid, torch.tensor(4 / 255, dtype=torch.float64), rtol=0.03)


def test_a_prior_of_all_levels_takes_every_method():
    low, high = bundled.levels("deepinv:DiffUNet")
    from flowhelm.start import check

    check(restore.dps, (low, high), "deepinv:DiffUNet")
    check(restore.hqs, bundled.levels("deepinv:DRUNet"), "deepinv:DRUNet")
    check(restore.dps, bundled.levels("deepinv:DRUNet"), "deepinv:DRUNet", 0.8)  # begun at a noise of 0.25
    assert bundled.levels("photos") == (0.0, float("inf"))
    with pytest.raises(ValueError, match="hqs"):
        check(restore.dps, bundled.levels("deepinv:DRUNet"), "deepinv:DRUNet", 0.6)


def test_what_cannot_draw_says_so():
    opening.check_draws("photos")
    opening.check_draws("deepinv:DiffUNet")
    with pytest.raises(BadInput, match=r"deepinv:DRUNet was trained for noise up to 0\.39 only.*flowhelm restore"):
        opening.check_draws("deepinv:DRUNet")


def test_the_listing_knows_them_all():
    """Without torch or deepinv: its numbers are those of the networks."""
    text = "\n".join(cards.listing())
    assert cards.DENOISERS.keys() == denoisers.NETWORKS.keys()
    for name, (_, noise, _) in cards.DENOISERS.items():
        assert f"deepinv:{name} " in text
        low, high = bundled.levels(f"deepinv:{name}")
        said = "all" if high > 10 else f"{high / 1.02:.2g} only" if low > 0.001 else f"up to {high:.2g}"
        assert noise == said, name
    assert "huggingface.co/deepinv" in cards.terms("deepinv:DRUNet")
    assert "# deepinv:DRUNet" in cards.card("deepinv:DRUNet")


@pytest.mark.slow
def test_their_sizes_are_said():
    for name, (millions, *_) in cards.DENOISERS.items():
        assert sum(p.numel() for p in network(name).parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
