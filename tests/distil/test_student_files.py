"""Students in files, samplers that draw with them, and maps that look ahead."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from maps import LAW, Exact, samples
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from toys import double, randomised

import flowhelm
from flowhelm import GaussianFlow, NetFlow, Noise, adapter, guide, integrate, known, run, sample
from flowhelm.flow_map import ahead
from flowhelm.guide import counted
from flowhelm.priors import bundled, distilled
from flowhelm.priors.unet import UNet
from flowhelm.transition import heun

KINDS = {
    "map": "jumps", "ends": "jumps:fresh=100", "arc": "jumps", "pi": "jumps", "straight": "jumps",
    "refiner": "flow_turbo",
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A prior of 8 x 8 pixels in a file, of random weights."""
    torch.manual_seed(0)
    net = randomised(UNet((8, 8), 1, channels=1, classes=2), 0.2)
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    bundled.save(net, path, {"classes": ("dark", "light"), "size": 8, "scale": 2.0})
    return path


def made(tiny, kind, folder, base="tiny"):
    """A student with something learnt, and its file."""
    prior = bundled.load(tiny)
    about = distilled.Described(kind=kind, base=base, sha256=distilled.sha256(tiny), solver=KINDS[kind], parts=3)
    flow = distilled.blank(prior, about)
    flow = flow if kind == "refiner" else replace(flow, net=distilled.trainable(flow.net, 2))
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in flow.net.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape))
    path = folder / f"{kind}.safetensors"
    distilled.save(flow.net, path, about, prior)
    return flow, path


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_holds_the_student(kind, tiny, tmp_path):
    flow, path = made(tiny, kind, tmp_path)
    found = flowhelm.load(path).told(["light", "dark"])
    x, s, t = torch.randn(2, 1, 8, 8), double(0.2), double(0.7)
    with torch.no_grad():
        if kind == "refiner":
            whole = torch.cat([x, x], 1)
            wanted = flow.bind(*found.condition).velocity(whole, t)
            assert torch.allclose(found.refiner.velocity(whole, t), wanted, atol=2e-3)
            assert torch.allclose(found.velocity(x, t), bundled.load(tiny).told(["light", "dark"]).velocity(x, t))
            return
        wanted = flow.told(["light", "dark"]).map(x, s, t)
        assert torch.allclose(found.map(x, s, t), wanted, atol=5e-3 * float(wanted.abs().max()))  # fp16
        plain = x + 0.5 * bundled.load(tiny).told(["light", "dark"]).velocity(x, s)
        assert not torch.allclose(wanted, plain, atol=0.05)  # something was learnt
    assert found.scale == 1
    assert found.about["calls"] == 2
    with pytest.raises(ValueError, match="guidance inside"):
        found.told(["dark"], guidance=partial(guide.cfg, scale=2.0))


def test_ends_go_to_the_end(tiny, tmp_path):
    """Of a student that was trained for maps to t = 1 only; `ahead` does the same of any map."""
    _, path = made(tiny, "ends", tmp_path)
    flow = flowhelm.load(path).told(["light", "dark"])
    x, t = torch.randn(2, 1, 8, 8), double(0.3)
    with torch.no_grad():
        end = flow.map(x, t, double(1.0))
        assert torch.allclose(flow.ends(x, t).clean, end, atol=1e-5)
        assert torch.allclose(ahead(flow).ends(x, t).clean, end, atol=1e-5)


def test_looking_ahead_on_an_exact_map():
    flow, x, t = ahead(Exact()), samples(50, seed=1), double(0.35)
    ends = flow.ends(x, t)
    assert torch.allclose(ends.clean, LAW.map(x, t, double(1.0)))
    assert torch.allclose(0.35 * ends.clean + 0.65 * ends.source, x)
    assert torch.allclose(flow.velocity(x, t), ends.clean - ends.source)
    with pytest.raises(ValueError, match="expected a flow map"):
        ahead(replace_law())


def replace_law():
    return NetFlow(nn.Identity(), (2,))


def test_a_file_of_another_prior_holds_it(tiny, tmp_path):
    """It opens without the prior's own file; a bundled prior is not copied, but known by its hash."""
    _, path = made(tiny, "map", tmp_path)
    with safe_open(path, framework="pt") as f:
        assert any(key.startswith("base.") for key in f.keys())  # noqa: SIM118
        assert "student" in f.metadata()
    about = distilled.described(path)
    other = tmp_path / "other.safetensors"
    said = about.model_copy(update={"base": "fashion", "sha256": "0" * 64})
    save_file({k: v for k, v in load_file(path).items()}, other, {"student": said.model_dump_json()})
    with pytest.raises(ValueError, match="distilled from other weights of fashion"):
        flowhelm.load(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if "head" not in k}, "not those of the network"),
        (lambda t: t | {"net.head.weight": t["net.head.weight"] * torch.nan}, "not finite"),
        (lambda t: {k: v for k, v in t.items() if "lora_A" not in k}, "not those of the network"),
        (lambda t: {k: v[..., :1] if "lora_A" in k else v for k, v in t.items()}, "do not fit"),
        (lambda t: {k: v for k, v in t.items() if not k.startswith("base.stem")}, "the prior in"),
    ],
)
def test_a_spoilt_file_is_refused(change, message, tiny, tmp_path):
    _, path = made(tiny, "map", tmp_path)
    with safe_open(path, framework="pt") as f:
        header = f.metadata()
    save_file({k: v.contiguous() for k, v in change(load_file(path)).items()}, path, header)
    with pytest.raises(ValueError, match=message):
        flowhelm.load(path)
    save_file(load_file(path), path, header | {"student": '{"kind": "spell"}'})
    with pytest.raises(ValueError, match="header"):
        flowhelm.load(path)


def test_a_student_is_not_trained_on(tiny, tmp_path):
    _, path = made(tiny, "map", tmp_path)
    with pytest.raises(ValueError, match="holds a student"):
        bundled.load(path)


def test_which_student_is_meant(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(known, "STUDENTS", {"fashion-2": ("fashion", 2)})
    _, path = made(tiny, "map", tmp_path)
    assert known.student("fashion", "2") == "fashion-2"
    assert known.student(str(tiny), str(path)) == str(path)
    assert known.student("tiny", str(path)) == str(path)
    with pytest.raises(ValueError, match="no student of 3 calls of 'fashion' ships"):
        known.student("fashion", "3")
    with pytest.raises(ValueError, match="a student of tiny, not of 'aerial'"):
        known.student("aerial", str(path))
    with pytest.raises(ValueError, match="expected a number of calls"):
        known.student("fashion", str(tiny))


@pytest.mark.parametrize("name", [name for name in known.STUDENTS if bundled.weights(name).is_file()])
def test_students_that_ship(name):
    base, calls = known.STUDENTS[name]
    assert bundled.weights(name).stat().st_size <= 2_000_000
    flow, teacher = flowhelm.load(name), flowhelm.load(base)
    assert flow.about["calls"] == calls
    labels = range(len(flow.about["classes"]))
    told, noise = flow.told(labels), Noise(7, len(labels))
    x = flow.source(noise)
    found = run(sample.jumps(told, x, flow.times(calls))).x
    rule = partial(guide.cfg, scale=teacher.scale)
    wanted = run(sample.unipc(teacher.told(labels, guidance=rule), x, teacher.times(10))).x
    plain = run(sample.euler(teacher.told(labels), x, teacher.times(calls))).x
    assert (found - wanted).square().mean() < (plain - wanted).square().mean()


# samplers


def grid(steps):
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def source(rows=64):
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_jumps_of_an_exact_map_end_at_its_ends():
    x = source()
    flow = counted_map()
    assert torch.allclose(run(sample.jumps(flow, x, grid(3))).x, LAW.map(x, double(0.0), double(1.0)))
    assert flow.asked[0] == 3


def counted_map():
    @dataclass(frozen=True, eq=False)
    class Asked(Exact):
        asked: tuple = ([],)

        def average(self, x, s, t):
            self.asked[0] += 1
            return super().average(x, s, t)

    return Asked(asked=[0])


@pytest.mark.parametrize("fresh", [0.5, 1.0, 100.0])
def test_fresh_noise_keeps_the_law(fresh):
    """Of an exact map whatever noise is drawn anew, though every end is another one."""
    x = source(20_000)
    end = run(sample.jumps(Exact(), x, grid(4), fresh=fresh, noise=Noise(3, len(x)))).x
    straight = LAW.map(x, double(0.0), double(1.0))
    assert (end - straight).square().mean() > 0.05
    assert torch.allclose(end.mean(0), LAW.mean, atol=0.03)
    assert torch.allclose(end.T.cov(), LAW.covariance, atol=0.04)
    with pytest.raises(ValueError, match="to draw from"):
        run(sample.jumps(Exact(), x[:2], grid(2), fresh=1.0))


@dataclass(frozen=True, eq=False)
class Knows(NetFlow):
    """A refiner that knows: what the velocity is, less what it was; and `off` beside it."""

    law: GaussianFlow = LAW
    off: float = 0.0

    def velocity(self, x, t):
        z, v = x.chunk(2, 1)
        return self.law.velocity(z, t) - v + self.off


def test_a_refiner_that_knows_makes_every_step_heuns():
    x = source()
    exact = run(integrate(LAW, x, grid(6), transition=partial(heun)))
    found = run(sample.flow_turbo(LAW, x, grid(6), refiner=Knows(nn.Identity(), (4,)), heun=3, light=3)).x
    by_hand = x
    for s, t in zip(grid(6)[:-1], grid(6)[1:], strict=True):
        d = LAW.velocity(by_hand, s)
        by_hand = by_hand + (t - s) / 2 * (d + LAW.velocity(by_hand + (t - s) * d, t))
    assert torch.allclose(found, by_hand)
    assert exact.x.shape == found.shape
    off = run(sample.flow_turbo(LAW, x, grid(6), refiner=Knows(nn.Identity(), (4,), off=0.1), heun=3, light=3)).x
    assert (off - found).abs().max() > 0.01


@pytest.mark.parametrize(
    ("steps", "first", "light", "calls"), [(6, 1, 2, 6), (5, 0, 0, 6), (4, 4, 0, 8), (4, 2, 2, 4), (3, 0, 3, 1)]
)
def test_what_flow_turbo_asks_for(steps, first, light, calls):
    """2 H + P evaluations, 1 more if there is a P; 2 R of the refiner."""
    flow = counted(LAW)
    refiner = Counting(nn.Identity(), (4,))
    run(sample.flow_turbo(flow, source(4), grid(steps), refiner=refiner, heun=first, light=light))
    assert flow.count.calls == calls
    assert refiner.asked[0] == (2 * light - (1 if light == steps else 0))


@dataclass(frozen=True, eq=False)
class Counting(Knows):
    asked: list = None

    def __post_init__(self):
        object.__setattr__(self, "asked", [0])

    def velocity(self, x, t):
        self.asked[0] += 1
        return super().velocity(x, t)


def test_without_a_refiner_it_is_the_pseudo_corrector():
    x = source()
    found = run(sample.flow_turbo(LAW, x, grid(7), heun=0)).x
    assert torch.equal(found, run(sample.pseudo(LAW, x, grid(7))).x)
    errors = []
    for steps in (32, 64):
        end = run(
            sample.flow_turbo(LAW, x, grid(steps), refiner=Knows(nn.Identity(), (4,)), heun=1, light=steps // 4)
        ).x
        errors.append(float((end - LAW.map(x, double(0.0), double(1.0))).square().mean().sqrt()))
    assert 1.8 < torch.tensor(errors[0] / errors[1]).log2() < 2.2
    with pytest.raises(ValueError, match="expected a refiner for 2 light steps"):
        run(sample.flow_turbo(LAW, x, grid(4), light=2))
    with pytest.raises(ValueError, match="at most 4 light steps"):
        run(sample.flow_turbo(LAW, x, grid(4), light=5, refiner=Knows(nn.Identity(), (4,))))


@pytest.mark.parametrize("kind", ["map", "arc", "pi", "straight"])
def test_an_adapter_of_the_prior_goes_onto_its_student(kind, tiny):
    """A student that has learnt nothing and an adapter of its prior are a student of the prior with the adapter."""
    prior = bundled.load(tiny)
    tuned = prior.with_lora(2)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in tuned.trained():
            weight.add_(0.2 * torch.randn(weight.shape))
    weights = adapter.state(tuned.net)
    about = distilled.Described(kind=kind, base="tiny", sha256=distilled.sha256(tiny), parts=3)
    plain = distilled.blank(prior, about)
    wanted = distilled.blank(prior.with_net(adapter.applied(prior.net, weights)), about)
    x, s, t = torch.randn(2, 1, 8, 8), double(0.2), double(0.7)
    with torch.no_grad():
        before, styled, both = (
            flow.told(["light", "dark"]).map(x, s, t) for flow in (plain, plain.adapted(weights), wanted)
        )
    assert torch.allclose(styled, both, atol=1e-5 * float(both.abs().max()))
    assert (styled - before).abs().max() > 0.01
    with pytest.raises((ValueError, KeyError)):
        plain.adapted({"nowhere.lora_A.weight": torch.ones(2, 3), "nowhere.lora_B.weight": torch.ones(3, 2)})


def test_the_way_up_may_stay_the_teachers(tiny, tmp_path):
    """Its file holds no layer of it, and the layers are the prior's; a file that says otherwise is refused."""
    prior = bundled.load(tiny)
    about = distilled.Described(kind="straight", base="tiny", sha256=distilled.sha256(tiny), up=False)
    net = distilled.trainable(distilled.blank(prior, about).net, 2, up=False)
    with torch.no_grad():
        for weight in net.parameters():
            if weight.requires_grad:
                weight.add_(0.1)
    path = tmp_path / "lean.safetensors"
    distilled.save(net, path, about, prior)
    own = {key: each for key, each in load_file(path).items() if not key.startswith("base.")}
    assert not [key for key in own if "up." in key]
    found = flowhelm.load(path)
    assert all(torch.equal(a, b) for a, b in zip(found.net.up.parameters(), prior.net.up.parameters(), strict=True))
    assert not torch.equal(found.net.head.weight, prior.net.head.weight)
    with safe_open(path, framework="pt") as f:
        header = f.metadata()
    said = about.model_copy(update={"up": True})
    save_file({k: v.contiguous() for k, v in load_file(path).items()}, path, header | {"student": said.model_dump_json()})  # fmt: skip
    with pytest.raises(ValueError, match="not those of the network"):
        flowhelm.load(path)


def test_a_lean_student_of_arcs_trains_under_five_percent():
    """Rank 3 without the way up, of the prior that ships; its file leaves the way up out."""
    prior = bundled.load("fashion")
    about = distilled.Described(kind="arc", base="fashion", sha256="", parts=8, up=False)
    net = distilled.trainable(distilled.blank(prior, about).net, 3, up=False)
    trained = {name: each.numel() for name, each in net.named_parameters() if each.requires_grad}
    assert not [name for name in trained if ".up." in name]
    assert sum(trained.values()) < 0.05 * sum(each.numel() for each in prior.net.parameters())
