"""`flowhelm check`: what holds is said to hold, and every fault is found, by the law that it breaks and with its remedy."""

import pytest
import torch

from flowhelm import Function, Linear, Step, operators
from flowhelm.bench.contract import laws, pictures, world
from flowhelm.interfaces.cli import main

SHAPE = (3, 12, 12)

GOOD = '''
from itertools import pairwise
import torch
from flowhelm import Step

{above}
def mine(flow, y, x, times, *, noise=None):
    """Mine.

    {cost}
    """
    state = x
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends = flow.ends(x, s)
        clean = y.prox(ends.clean, 2 * y.std**2)
        x = {x}
        yield {step}
'''
STEP = "Step(i, len(times) - 1, t, x, clean)"
MOVE = "t.to(x) * clean + (1 - t).to(x) * noise(x)"


@pytest.fixture(scope="module")
def flows():
    return world.flows()


@pytest.fixture(scope="module")
def y():
    return world.measured()


def made(above="@torch.no_grad()", x=MOVE, step=STEP, cost="Cost    1 evaluation per step, forward only"):
    found = {}
    exec(GOOD.format(above=above, x=x, step=step, cost=cost), found)
    return found["mine"]


def test_a_sound_method_keeps_every_law(flows, y):
    for law in laws.ALL:
        assert law(made(), flows["pixels"], y)
    assert laws.latent(made(), flows["latent"], y).startswith("it refuses a prior with a decoder")


@pytest.mark.parametrize(
    ("law", "fault", "remedy"),
    [
        (laws.contract, {"above": ""}, r"carries a gradient; write @torch.no_grad\(\)"),
        (laws.contract, {"step": STEP.replace("i,", "i - 1,", 1)}, "count from 1"),
        (laws.contract, {"step": STEP.replace("- 1", "")}, "total be the number of steps it makes"),
        (laws.contract, {"step": STEP.replace(" t,", " float(t),")}, "a float64 tensor without dimensions"),
        (laws.contract, {"step": STEP.replace(" t,", " t / 2,")}, "not the time of its state"),
        (laws.contract, {"step": "x"}, "yields Tensor; yield Step"),
        (laws.contract, {"x": f"({MOVE}).double()"}, "float64; stay in the type of x"),
        (laws.contract, {"x": f"({MOVE}) / (1 - t)"}, "not finite; look for a division"),
        (laws.contract, {"step": "Step(i, len(times) - 1, t, x, clean.flatten(1))"}, "states of the prior"),
        (laws.contract, {"step": STEP.replace("clean)", 'clean, {"a": torch.tensor(1.0)})')}, "a row for each of 3"),
        (laws.null, {"x": "x.copy_(t.to(x) * clean)"}, "writes into the state"),
        (laws.null, {"x": MOVE.replace("noise(x)", "torch.randn_like(x)")}, r"draw noise\(x\)"),
        (laws.null, {"above": "", "step": f"(torch.set_grad_enabled(True), {STEP})[1]"}, "turns gradients on"),
        (laws.fit, {"x": "x - (t - s).to(x) * (clean - x)"}, "look at the sign"),
        (laws.rows, {"x": f"({MOVE}) / (1 + clean.norm())"}, "of each row"),
        (laws.resume, {"x": f"({MOVE}) / i"}, "on x and times alone"),
        (laws.resume, {"x": f"({MOVE}) + 0.1 * state"}, "take it back by an option"),
        (laws.cost, {"cost": "Cost    2 evaluations per step, forward only"}, "card says 2 per step, and it makes 1"),
    ],
)
def test_every_fault_has_its_law(flows, y, law, fault, remedy):
    with pytest.raises(laws.Breach, match=remedy):
        law(made(**fault), flows["pixels"], y)


def test_a_gradient_that_the_card_denies(flows, y):
    from functools import partial

    from flowhelm import restore

    def mine(flow, y, x, times, *, noise=None):
        """Mine.

        Cost    1 evaluation per step, forward only
        """
        yield from restore.dps(flow, y, x, times, step=0.3)

    with pytest.raises(laws.Breach, match="forward only, and it makes 1 evaluation per step, 1 backward"):
        laws.cost(mine, flows["pixels"], y)
    assert laws.cost(partial(restore.dps, step=0.3), flows["pixels"], y).endswith("1 backward through the network")
    with pytest.raises(laws.Note, match="say so in its docstring: Cost    1 evaluation per step, forward only"):
        laws.cost(made(cost=""), flows["pixels"], y)


def test_a_method_that_measures_the_state_of_a_decoder(flows, y):
    @torch.no_grad()
    def mine(flow, y, x, times, *, noise=None):
        for i, t in enumerate(times[1:], 1):
            x = x - 0.1 * y.operator.A_adjoint(y.residual(x))
            yield Step(i, len(times) - 1, t, x, x)

    with pytest.raises(laws.Breach, match=r"measure flow.decode\(clean\), or refuse at the first step"):
        laws.latent(mine, flows["latent"], y)


# --- operators and rewards ---


@pytest.mark.parametrize("builder", [b for b in operators.ALL if b not in (operators.inpaint, operators.motion)])
def test_the_operators_of_the_package_keep_every_law(builder):
    shape = (3, 24, 24) if builder is not operators.phase else (1, 8, 8)
    for law in pictures.OPERATOR_LAWS:
        if law is pictures.measures and builder is operators.phase:
            continue  # one draw of rounding through an FFT of another batch
        try:
            assert law(operators.built(builder, shape, {}), shape)
        except laws.Note:
            assert builder is None, "notes are for code of your own"


def half(image):
    return image[..., ::2]


class Wrong(Linear):
    def A_adjoint(self, y):
        return super().A_adjoint(y).flip(-1)


class Lazy(Linear):
    def prox_l2(self, z, y, gamma):
        return z


@pytest.mark.parametrize(
    ("law", "broken", "remedy"),
    [
        (pictures.measures, Function(lambda x: x.mean()), "a row for each picture"),
        (pictures.measures, Function(lambda x: x.add_(1)), "writes into the picture"),
        (pictures.measures, Function(lambda x: x + torch.randn_like(x)), "another measurement each time"),
        (pictures.measures, Function(lambda x: x - x.mean()), "treat every row alike"),
        (pictures.gradient, Function(lambda x: half(x.detach())), "without no_grad, detach or numpy"),
        (pictures.span, Function(lambda x: half(x.clamp(0, 1))), r"take \(image \+ 1\) / 2 inside it"),
        (pictures.linearity, Linear(lambda x: half(x) + 1, SHAPE), "it is not linear"),
        (pictures.adjoint, Wrong(half, SHAPE), "which makes the adjoint"),
        (pictures.prox, Lazy(half, SHAPE), "which solves for it"),
        (pictures.scores, lambda x: x.mean(), "one number per picture"),
        (pictures.scores, lambda x: (x - x.mean()).square().mean((1, 2, 3)), "means of each row"),
        (pictures.scores, lambda x: x.mean((1, 2, 3)) + torch.rand(len(x)), "another score each time"),
        (pictures.scores, lambda x: (x.mean((1, 2, 3)) - 9).log(), "not finite"),
        (pictures.slope, lambda x: (x - x).square().sum((1, 2, 3)).sqrt(), "a square root"),
    ],
)
def test_every_fault_of_an_operator_or_a_reward_has_its_law(law, broken, remedy):
    with pytest.raises(laws.Breach, match=remedy):
        law(broken, SHAPE)


def test_a_linear_function_that_does_not_say_so_is_noted():
    with pytest.raises(laws.Note, match=r"return flowhelm\.Linear"):
        pictures.linearity(Function(half), SHAPE)
    assert pictures.linearity(Function(lambda x: half(x) ** 3), SHAPE)


# --- the command ---


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = GOOD.format(above="@torch.no_grad()", x=MOVE, step=STEP, cost="Cost    1 evaluation per step, forward only")
    more = '''
from flowhelm import Linear, load

def rough(flow, y, x, times, *, noise=None):
    yield Step(1, 5, times[0], x, 1 / 0)

def halved(shape, *, every: int = 2):
    """Every so many columns.

    Options:
        every: columns.
    """
    return Linear(lambda image: image[..., ::every], shape)

def bright(image):
    return image.mean((1, 2, 3))

def prior():
    return load("fashion")
'''
    (tmp_path / "my.py").write_text(text + more)
    assert main(["check", "my.py:mine"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[:-1]] == ["contract", "null", "fit", "cost", "resume", "rows", "latent"]
    assert said[-1] == "my.py:mine: all well"
    assert main(["check", "my.py:rough"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("contract     broken   it raises ZeroDivisionError at my.py, line 22: division by zero")
    assert len(said) == 2
    assert main(["check", "my.py:halved", "--every", "3"]) == 0
    assert "(3, 32, 32) -> (3, 32, 11)" in capsys.readouterr().out
    assert main(["check", "my.py:bright"]) == 0
    assert main(["check", "my.py:prior"]) == 0
    assert "well as far as it could be checked" in capsys.readouterr().out
    assert main(["check", "my.py:halved", "--as", "reward"]) == 1
    assert main(["check", "my.py:halved", "--evry", "3"]) == 2
    assert "did you mean --every" in capsys.readouterr().err
    assert main(["check", "superres", "--factor", "3"]) == 2
    assert "give --size" in capsys.readouterr().err
    assert main(["check", "nothing"]) == 2
    assert "expected FILE.py:NAME" in capsys.readouterr().err
