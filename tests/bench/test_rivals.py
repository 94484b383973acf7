"""The comparison is fair: one prior, one measurement, one counter. Exact posteriors show that every unit is converted."""

import csv
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch

from flowhelm import Flow, GaussianFlow, Noise, Wrapped
from flowhelm.bench.rivals import compare as rivals
from flowhelm.bench.rivals.ours import OURS, PARTICLES, Metered, Problem, estimate, trials
from flowhelm.path import trig
from flowhelm.priors.bundled import save
from flowhelm.priors.unet import UNet

pytest.importorskip("deepinv")
pytest.importorskip("azula")

from flowhelm.bench.rivals import azula as rivals_azula
from flowhelm.bench.rivals import deepinv as rivals_deepinv

SHAPE = (3, 8, 8)
MEAN, VARIANCE = 0.2, 0.09
RIVALS = {"deepinv": rivals_deepinv.RIVALS, "azula": rivals_azula.RIVALS}
EVERYONE = {f"{lib} {name}": r.theirs for lib, of in RIVALS.items() for name, r in of.items()} | OURS
# backward rows of two evaluations, of those that do not solve until they are exact enough
BACKWARD = {
    "deepinv DPS": 2, "deepinv DiffPIR": 0, "deepinv PiGDM": 2, "deepinv FlowMatching, DPS": 2,
    "deepinv FlowMatching, PiGDM": 2, "azula DPS": 2, "azula PGDM": 2, "azula DiffPIR": 0, "azula TMPD": 4,
    "azula MMPS": 4, "azula TDS": 2 * PARTICLES, "dps": 2, "diffpir": 0, "ot_ode": 2, "mpc_flow": 0,
}  # fmt: skip


def normal(shape=SHAPE):
    d = int(np.prod(shape))
    return GaussianFlow(torch.full((d,), MEAN), VARIANCE * torch.eye(d), shape=shape)


def correlated():
    factor = torch.randn(48, 48, generator=torch.Generator().manual_seed(1)) / 10
    return GaussianFlow(torch.linspace(-0.5, 0.5, 48), factor @ factor.T + 0.01 * torch.eye(48), shape=(3, 4, 4))


@dataclass(frozen=True, eq=False)
class Still(Wrapped):
    """Starts at 0 instead of noise: a linear sampler then ends in its mean."""

    flow: Flow

    def velocity(self, x, t):
        return self.flow.velocity(x, t)

    def source(self, noise):
        return torch.zeros(len(noise), *self.shape)


def problem(task, flow, evaluations, seed=0):
    clean = MEAN + VARIANCE**0.5 * torch.randn(1, *flow.shape, generator=torch.Generator().manual_seed(seed))
    noise = partial(Noise, seed, [(task, "0")])
    y = rivals.observed(task, clean, noise())
    return Problem(Metered(flow), y, evaluations, noise, partial(rivals.TASKS[task], flow.shape))


@pytest.mark.parametrize("ratio", [0.05, 0.7, 3.0, 60.0])
def test_our_prior_handed_over_denoises_as_it_does_at_home(ratio):
    flow = correlated()
    x = torch.randn(2, *flow.shape) * (1 + ratio)
    gain = flow.covariance @ torch.linalg.inv(flow.covariance + ratio**2 * torch.eye(48))
    exact = (flow.mean + (x.flatten(1) - flow.mean) @ gain.T).view_as(x)
    assert torch.allclose(estimate(flow, x, ratio), exact, atol=1e-5)
    theirs = rivals_deepinv.Handed(flow)
    for sigma in (ratio / 2, torch.tensor(ratio / 2), torch.full((2, 1, 1, 1), ratio / 2)):
        assert torch.allclose(2 * theirs((x + 1) / 2, sigma) - 1, exact, atol=1e-5)
    assert torch.allclose(2 * flow.as_denoiser()((x + 1) / 2, ratio / 2) - 1, exact, atol=1e-5)


@pytest.mark.parametrize("t", [0.02, 0.4, 0.98, 1.0])
def test_azula_s_own_exact_denoiser_agrees_with_our_prior_handed_over(t):
    from azula.denoise import GaussianDenoiser
    from azula.linalg.covariance import DiagonalCovariance
    from azula.noise import RectifiedSchedule

    variances = torch.linspace(0.01, 0.3, 48, dtype=torch.float64)  # theirs divides by alpha after a difference
    flow = GaussianFlow(torch.linspace(-0.5, 0.5, 48, dtype=torch.float64), variances.diag(), shape=(3, 4, 4))
    theirs = GaussianDenoiser(flow.mean, DiagonalCovariance(variances), RectifiedSchedule())
    x, time = torch.randn(2, 48, dtype=torch.float64), torch.tensor(t, dtype=torch.float64)
    assert torch.allclose(rivals_azula.Handed(flow)(x, time).mean, theirs(x, time).mean, atol=1e-8)


def test_another_path_is_refused():
    with pytest.raises(ValueError, match="on_path"):
        estimate(replace(normal(), path=trig), torch.zeros(1, *SHAPE), 1.0)


@pytest.mark.parametrize("task", rivals.TASKS)
def test_both_sides_have_the_same_measurement(task):
    of = problem(task, normal(), 2)
    guess = torch.rand(1, *SHAPE) * 2 - 1
    residual = of.y.residual(guess)
    y01, physics = rivals_deepinv.measured(of)
    theirs = physics.A((guess + 1) / 2) - y01
    assert torch.allclose(2 * theirs, residual, atol=1e-6)
    assert 2 * float(physics.noise_model.sigma) == pytest.approx(of.y.std)
    y, operator = rivals_azula.measured(of)
    assert torch.allclose(operator(guess.flatten(1)) - y, residual.flatten(1), atol=1e-6)


@pytest.mark.parametrize("task", ["random", "box"])
def test_a_mask_hides_the_noise_too(task):
    of = problem(task, normal(), 2)
    hidden = of.y.operator.A(torch.ones(1, *SHAPE)) == 0
    assert hidden.any()
    assert (of.y.y[hidden] == 0).all()


@pytest.mark.parametrize("name", EVERYONE)
def test_two_evaluations_are_two_whoever_asks(name):
    who = EVERYONE[name]
    assert len(who.trials) == 6
    assert len({str(setting) for setting in who.trials}) == 6
    results = []
    for task in ("superres", "random", "superres"):
        of = problem(task, normal(), 2)
        results.append(who.prepare(of, **who.trials[0])())
        assert results[-1].shape == (1, *SHAPE)
        assert results[-1].isfinite().all()
        rows = PARTICLES if name.lower().endswith("tds") else 1
        assert of.flow.meter.forward == 2 * rows
        if name in BACKWARD:
            assert of.flow.meter.backward == BACKWARD[name]
        assert of.flow.meter.seconds > 0
    assert torch.equal(results[0], results[2])  # its randomness is the problem's


@pytest.mark.parametrize("task", ["superres", "random", "denoise"])
@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("deepinv MomentMatching", {"weight": 1.0, "solver": "ddim"}),
        ("azula MMPS", {"std": 1.0, "eta": 0.0}),
        ("azula TMPD", {"std": 2.0, "eta": 0.0}),
        ("tmpd", {"std": 1.0}),
        ("tmpd, diagonal", {"std": 2.0}),
    ],
)
def test_the_samplers_that_are_exact_for_normal_priors_end_in_the_posterior_mean(name, setting, task):
    """So units of pictures, noise and time are theirs where they should be. N(mean, variance I), A A^T a multiple of a projection."""
    of = problem(task, Still(normal()), 60)
    prior = torch.full((1, *SHAPE), MEAN)
    exact = replace(of.y, std=of.y.std * setting.get("std", 1.0)).prox(prior, VARIANCE)
    assert float((exact - prior).abs().max()) > 0.1
    assert torch.allclose(EVERYONE[name].prepare(of, **setting)(), exact, atol=0.01)


FROM_THE_PICTURE = ("deepinv DiffPIR", "deepinv DPIR", "hqs", "ot_ode")


@pytest.mark.parametrize("name", [name for name in EVERYONE if name not in FROM_THE_PICTURE])
def test_everyone_starts_from_the_same_state(name):
    """But what begins with the measurement: deepinv's DiffPIR and DPIR, HQS, and OT-ODE, part of the way to it."""

    @dataclass(frozen=True, eq=False)
    class Watched(Still):
        def source(self, noise):
            return self.flow.source(noise)

        def velocity(self, x, t):
            asked.append((x.detach(), t))
            return self.flow.velocity(x, t)

    asked = []
    of = problem("superres", Watched(normal()), 2)
    EVERYONE[name].prepare(of, **EVERYONE[name].trials[0])()
    x, t = asked[0]
    noise = of.noise() if len(x) == 1 else of.noise().spawn(PARTICLES)
    assert t < 0.011
    assert torch.allclose(x, ((1 - t) * noise(x)).to(x), atol=1e-5)


def test_the_meter_changes_nothing_and_counts_under_both_kinds_of_differentiation():
    flow = correlated()
    metered = Metered(flow)
    x, t = torch.randn(3, *flow.shape), torch.tensor(0.4, dtype=torch.float64)
    weight = torch.randn_like(x)
    value, pull = torch.func.vjp(lambda z: flow.velocity(z, t), x)
    with torch.no_grad():
        assert torch.equal(metered.velocity(x, t), value)
    assert (metered.meter.forward, metered.meter.backward) == (3, 0)
    _, counted_pull = torch.func.vjp(lambda z: metered.velocity(z, t), x)
    assert torch.equal(counted_pull(weight)[0], pull(weight)[0])
    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(metered.velocity(z, t), z, weight)
    assert torch.allclose(gradient, pull(weight)[0])
    assert (metered.meter.forward, metered.meter.backward) == (9, 6)


def test_trials_begin_with_the_default_and_repeat_none():
    assert trials({"a": 2.0, "b": "x"}, {"a": (1.0, 2.0), "b": ("x",)}) == ({"a": 2.0, "b": "x"}, {"a": 1.0, "b": "x"})


def row(by, method, picture, **values):
    key = {"library": "azula", "part": "table", "task": "box", "picture": str(picture), "by": by, "method": method}
    cost = {"ssim": 0.9, "forward": 50, "backward": 50, "network": 6.0, "seconds": 8.0}
    return key | {k: str(v) for k, v in (cost | values).items()}


def test_the_table_pairs_pictures():
    rows = [row("azula", "azula DPS", i, psnr=20 + i, seconds=8.0 * (i + 1), network=6.0 * (i + 1)) for i in range(3)]
    rows += [
        row("flowhelm against DPS", "dps", i, psnr=p, seconds=s, network=0.9 * s)
        for i, (p, s) in enumerate([(21, 4.0), (23, 12.0), (21, 24.0)])
    ]
    rows += [row("flowhelm", "hqs", i, psnr=24.5, backward=0, seconds=4.0) for i in range(3)]
    table = rivals.table(rows, "azula")
    assert "| DPS | dps | 21.00 | 21.67 | +0.67 ± 3.79 | 2/3 |" in table  # gains 1, 2, -1: deviation 1.5275
    assert "| 16.00 | 13.33 | 0.750 (0.625 to 0.875) | 25.0% | 10.0% | +3.50 ± 2.48 | 0.250 (0.208 to 0.375) |" in table
    assert "hqs, our default: PSNR 24.50, SSIM 0.9000, 50 evaluations, 0 backward, 4.00 s/picture" in table
    assert rivals.table(rows, "deepinv") == ""


def test_the_best_trial_is_taken_once_all_were_tried():
    who = OURS["dps"]
    bench = rivals.Bench(normal(), {"library": "azula"}, 2, 0, None)
    assert bench.setting("box", "dps", who) == who.trials[0]
    for i, setting in enumerate(who.trials):
        for picture in range(2):
            assert bench.setting("box", "dps", who) == who.trials[0]
            quality = float("nan") if i == 0 else 20.0 + i * (-1) ** picture + (i == 3)
            bench.rows.append(
                {
                    "part": "tune", "task": "box", "method": "dps", "setting": rivals.spelled(setting),
                    "psnr": str(quality),
                }
            )  # fmt: skip
    assert bench.setting("box", "dps", who) == who.trials[3]
    assert bench.setting("random", "dps", who) == who.trials[0]


def test_the_command_tunes_compares_and_goes_on(archived, tmp_path, capsys):
    archive = archived("CBSD68/a", "CBSD68/b", "CBSD68/c")
    prior, out = tmp_path / "tiny.safetensors", tmp_path / "rows.csv"
    save(UNet((8, 16)), prior, {"size": 64})
    options = {
        "library": "azula", "data": archive, "folder": "CBSD68", "images": 2, "size": 16, "task": ["superres"],
        "method": ["DiffPIR"], "evaluations": 2, "tune_on": 1, "prior": str(prior), "seed": 0, "out": out,
    }  # fmt: skip
    rivals.main(**options)
    found = list(csv.DictReader(out.open(newline="")))
    assert [r["method"] for r in found] == ["azula DiffPIR"] * 6 + ["diffpir"] * 6 + ["hqs"] * 6
    best = {m: max((r for r in found if r["method"] == m), key=lambda r: float(r["psnr"])) for m in ("diffpir", "hqs")}
    assert '"diffpir": {' in capsys.readouterr().out
    rivals.main(**(options | {"tune_on": 0}))
    rows = [r for r in csv.DictReader(out.open(newline="")) if r["part"] == "table"]
    order = [r["by"] for r in rows]
    assert order == ["flowhelm against DiffPIR", "azula", "flowhelm", "azula", "flowhelm against DiffPIR", "flowhelm"]
    for r in rows:
        assert r["forward"] == "2"
        if r["method"] in best:
            assert r["setting"] == best[r["method"]]["setting"]
    assert "**superres**, 2 pictures" in capsys.readouterr().out
    before = out.read_text()
    rivals.main(**(options | {"tune_on": 0}))
    assert out.read_text() == before


def test_what_is_not_there_is_named():
    with pytest.raises(ValueError, match="azula"):
        rivals.rivals("torch")
    with pytest.raises(ValueError, match="TMPD"):
        rivals.contestants("azula", ["ADMM"])


# --- deepinv's rows in the tables of flowhelm bench ---


@pytest.mark.parametrize("word", ["dpir", "dpir:3", "diffpir:4"])
@pytest.mark.parametrize("name", ["denoise", "deblur", "superres", "random"])
def test_deepinvs_rows_are_those_of_the_pairs(word, name):
    """The same picture from the bench's runner as from the pairs of `compare`, where those start from the adjoint, too."""
    from flowhelm.bench.compare.protocols import measured, pnp_flow
    from flowhelm.bench.compare.runner import restored
    from flowhelm.bench.rivals.rows import entry

    flow = normal()
    task = next(t for t in pnp_flow(SHAPE) if t.name == name)
    clean = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(3)) * 2 - 1
    given, each = measured(task, clean, ["a", "b"], 0), entry(word)
    outcome = restored(flow, given.y, each, ["a", "b"], 0)
    assert outcome.errors == ["", ""]
    assert outcome.tally.rows == 2 * each.steps
    if word.startswith("dpir"):  # Gaussian prior, linear operator: each step by hand, pictures in [0, 1]
        std = task.std / 2
        levels = torch.logspace(np.log10(49 / 255), np.log10(std), each.steps)
        y01, a = (given.y.y + given.y.operator.A(torch.ones_like(clean))) / 2, given.y.operator
        x = a.A_adjoint(y01)
        for level in levels:
            weight = float((level / max(0.01, std)) ** 2 / 0.23)
            x = _solved(a, a.A_adjoint(y01) * weight + x, weight)
            x = (MEAN + 1) / 2 + (x - (MEAN + 1) / 2) * VARIANCE / (VARIANCE + (2 * level) ** 2)
        assert torch.allclose(outcome.image, 2 * x - 1, atol=2e-3)


def _solved(a, right, weight):
    """(1 + weight A'A) x = right, by its matrix."""
    size = right[0].numel()
    eye = torch.eye(size).view(size, *right.shape[1:])
    matrix = torch.eye(size) + weight * a.A_adjoint(a.A(eye)).flatten(1)
    return torch.linalg.solve(matrix, right.flatten(1).T).T.view_as(right)


@pytest.mark.parametrize("word", ["dpirs", "dpir:0", "dpir:x"])
def test_a_word_for_none_of_deepinvs_is_refused(word):
    from flowhelm.bench.rivals.rows import entry

    with pytest.raises(ValueError, match="expected dpir or diffpir"):
        entry(word)
