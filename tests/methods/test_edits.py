"""Editing: between two normal laws every method's result is known; the files of a command; what is refused."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from PIL import Image

from flowhelm import GaussianFlow, Noise, edit, run
from flowhelm.bench.pipelines import tiny
from flowhelm.guide import counted
from flowhelm.interfaces.cli import main
from flowhelm.solve import inversion_start

S, OLD, NEW = 1.6, torch.tensor([0.7, -0.2]).double(), torch.tensor([-0.5, 0.9]).double()
CLEAN = torch.tensor([[0.1, 1.3], [2.0, -0.4], [-1.1, 0.2]]).double()


def law(mean, deviation=S):
    return GaussianFlow(mean, deviation**2 * torch.eye(2).double())


def grid(start, steps=500):
    return torch.linspace(start, 1, steps + 1).double()


def kept(start):
    """How much of what is between the means a start at a time leaves out: s t / c_t."""
    return S * start / (S**2 * start**2 + (1 - start) ** 2) ** 0.5


@pytest.mark.parametrize("start", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("method", [edit.flow_edit, edit.inversion])
def test_between_two_normal_laws_the_picture_moves_by_what_the_means_differ(method, start):
    """Of equal spread: x + (m_new - m_old) (1 - s t / c_t); noise cancels in FlowEdit, and inversion is exact in the limit."""
    x = run(method(law(NEW), law(OLD), CLEAN, grid(start), noise=Noise(0, rows=3))).x
    torch.testing.assert_close(x, CLEAN + (NEW - OLD) * (1 - kept(start)), atol=8e-3, rtol=0)


@pytest.mark.parametrize("draws", [1, 3])
def test_flow_edit_leaves_a_picture_that_nothing_is_asked_of(draws):
    flow = law(NEW, 0.4)
    x = run(edit.flow_edit(flow, flow, CLEAN, grid(0.2, 7), noise=Noise(1, rows=3), draws=draws)).x
    torch.testing.assert_close(x, CLEAN, atol=1e-12, rtol=0)


def test_more_draws_are_their_mean():
    """On laws of unequal spread noise does not cancel; one step with two draws is the mean of two steps with one each."""
    new, old, times = law(NEW, 0.5), law(OLD), grid(0.4, 1)
    noise = Noise(2, rows=3)
    one, two = (run(edit.flow_edit(new, old, CLEAN, times, noise=noise)).x for _ in range(2))
    both = run(edit.flow_edit(new, old, CLEAN, times, noise=Noise(2, rows=3), draws=2)).x
    assert (one - two).abs().max() > 1e-3
    torch.testing.assert_close(both, (one + two) / 2, atol=1e-12, rtol=0)


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_flow_opt_contracts_by_what_the_flow_stretches(start):
    """f(z) = s / c_t z + const: each end is nearer by 1 - rate s / c_t, and beyond a rate of 2 c_t / s farther."""
    stretch = S / (S**2 * start**2 + (1 - start) ** 2) ** 0.5
    made = partial(edit.flow_opt_edit, law(NEW), law(OLD), CLEAN, grid(start), iterations=3)
    steps = list(made(rate=0.3))
    for before, after in pairwise(steps):
        torch.testing.assert_close(after.x - CLEAN, (before.x - CLEAN) * (1 - 0.3 * stretch), atol=2e-2, rtol=0)
        far = (after.x - CLEAN).square().mean(1).sqrt()
        torch.testing.assert_close(after.info["distance"], far)
    first = run(edit.inversion(law(NEW), law(OLD), CLEAN, grid(start))).x
    torch.testing.assert_close(steps[0].x, first, atol=1e-12, rtol=0)
    away = [float(step.info["distance"].max()) for step in made(rate=2.1 / stretch)]
    assert away == sorted(away)


@pytest.mark.parametrize("start", [0.0, 0.6])
def test_sdedit_forgets_what_the_noise_covers(start):
    """end = m + s / c_t (x_t - t m), x_t the noised picture."""
    source = law(NEW).source(Noise(3, rows=3)).double()
    x = run(edit.sdedit(law(NEW), law(OLD), CLEAN, grid(start), noise=Noise(3, rows=3))).x
    noised = start * CLEAN + (1 - start) * source
    stretch = S / (S**2 * start**2 + (1 - start) ** 2) ** 0.5
    torch.testing.assert_close(x, NEW + stretch * (noised - start * NEW), atol=8e-3, rtol=0)


@pytest.mark.parametrize("start", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("contrast", [0.0, 2.0])
def test_contrast_goes_beyond_the_new_mean(start, contrast):
    """The velocities of equal spread differ by their means: it is inversion towards m_new + contrast (m_new - m_old)."""
    made = partial(edit.stsl_edit, law(NEW), law(OLD), CLEAN, grid(start), noise=Noise(0, rows=3), step=0.0)
    expected = CLEAN + (1 + contrast) * (NEW - OLD) * (1 - kept(start))
    torch.testing.assert_close(run(made(contrast=contrast)).x, expected, atol=2e-2, rtol=0)


@pytest.mark.parametrize(("repeats", "weight"), [(1, 1.0), (3, 0.0)])
def test_a_step_towards_the_picture_by_hand(repeats, weight):
    """D = m + g (x - t m), g = t s^2 / c^2: its gradient is g (D - clean), and the trace of a normal law has none."""
    times = grid(0.4, 1)
    t = float(times[0])
    x, g = inversion_start(law(OLD), CLEAN, times), t * S**2 / (t**2 * S**2 + (1 - t) ** 2)
    for _ in range(repeats):
        away = NEW + g * (x - t * NEW) - CLEAN
        x = x - 0.5 / repeats * g * away / away.norm(dim=1, keepdim=True)
    expected = x + (1 - t) * law(NEW).velocity(x, times[0])
    made = {"step": 0.5, "contrast": 0.0, "repeats": repeats, "variance_weight": weight}
    step = run(edit.stsl_edit(law(NEW), law(OLD), CLEAN, times, noise=Noise(0, rows=3), **made))
    torch.testing.assert_close(step.x, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(step.info["away"], away.norm(dim=1), atol=1e-10, rtol=0)


def test_the_probe_is_the_secant_of_the_surrogate(mixture):
    """Where D is not linear the trace has a gradient: that of `restore.stsl`, by finite differences."""
    times = grid(0.4, 1)
    t = float(times[0])
    x, u = inversion_start(mixture, CLEAN, times), Noise(4, rows=3)(CLEAN)

    def loss(at):
        d, moved = (mixture.ends(z, times[0]).clean for z in (at, at + u))
        return ((d - CLEAN).square().sum(1) + (1 - t) ** 2 / t * (u * (moved - d)).sum(1)) / 2

    gradient = torch.stack([(loss(x + e) - loss(x - e)) / 2e-5 for e in 1e-5 * torch.eye(2).double()], 1)
    away = (mixture.ends(x, times[0]).clean - CLEAN).norm(dim=1, keepdim=True)
    z = x - 0.5 * gradient / away
    made = {"step": 0.5, "contrast": 0.0, "variance_weight": 1.0}
    step = run(edit.stsl_edit(mixture, mixture, CLEAN, times, noise=Noise(4, rows=3), **made))
    torch.testing.assert_close(step.x, z + (1 - t) * mixture.velocity(z, times[0]), atol=1e-7, rtol=0)


def test_what_a_method_costs():
    for method, options, old_rows, new_rows in (
        (edit.flow_edit, {"draws": 2}, 8, 8),
        (edit.flow_opt_edit, {"iterations": 3}, 5, 12),
        (edit.inversion, {}, 5, 4),
        (edit.sdedit, {}, 0, 4),
        (edit.stsl_edit, {}, 9, 4 * 3),
        (edit.stsl_edit, {"repeats": 3, "variance_weight": 0.0, "contrast": 0.0}, 5, 4 * 4),
        (edit.stsl_edit, {"step": 0.0}, 9, 4),
    ):
        old, new = counted(law(OLD)), counted(law(NEW))
        run(method(new, old, CLEAN, grid(0.2, 4), noise=Noise(0, rows=3), **options))
        assert (old.count.calls, new.count.calls) == (old_rows, new_rows), method.__name__


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.radial_gradient("L").resize((60, 40)).save("photo.png")
    return tmp_path / "photo.png"


def test_the_command_writes_a_picture_and_a_strip(photo, capsys):
    words = ["edit", "photo.png", "--prior", "fashion", "--from-class", "pullover", "--class", "coat", "--steps", "4"]
    for method, options in (
        ("flow_opt_edit", ["--iterations", "2"]),
        ("flow_edit", ["--draws", "2"]),
        ("stsl_edit", ["--contrast", "1", "--step", "0.5"]),
    ):
        assert main([*words, "--method", method, *options, "--out", f"{method}.png", "--threads", "1"]) == 0
        assert Image.open(f"{method}.png").size == (32, 32)
        assert Image.open(f"{method}.strip.png").height > 128
    said = capsys.readouterr()
    assert "the picture of 60 x 40 pixels is cropped and scaled to 32 x 32" in said.out + said.err
    first = (photo.parent / "flow_edit.png").read_bytes()
    assert main([*words, "--draws", "2", "--threads", "1"]) == 0
    assert (photo.parent / "photo.edited.png").read_bytes() == first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--class coat --class bag", "a picture becomes one of them"),
        ("", "nothing says what the picture should show"),
        ("--class hat", "hat"),
        ("--class coat --from-class hat", "hat"),
        ("--class coat --keep 1", "below 1"),
        ("--class coat --draws 0", "draws"),
        ("--class coat --method flow_chef", "flow_chef"),
        ("--class coat --rate 0.1", "rate"),
        ("--class coat --prior photos", "takes no classes"),
        ("--class coat --out nowhere/a.png", "nowhere"),
    ],
)
def test_what_is_refused(photo, words, message, capsys):
    given = ["edit", "photo.png", *([] if "--prior" in words else ["--prior", "fashion"]), *words.split()]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert sorted(each.name for each in photo.parent.iterdir()) == ["photo.png"]


def test_a_pipeline_edits_too(photo):
    tiny.sd3().save_pretrained("sd3")
    words = ["edit", "photo.png", "--prior", "sd3", "--prompt", "dog"]
    for method in ("flow_edit", "inversion"):
        more = ["--from-prompt", "cat", "--size", "32x32", "--steps", "3", "--method", method, "--out", f"{method}.png"]
        assert main([*words, *more]) == 0
        assert Image.open(f"{method}.png").size == (32, 32)
    assert main([*words, "--from-class", "cat"]) == 2
