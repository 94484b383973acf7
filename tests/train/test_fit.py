"""The loop: closed forms of its parts, exact resume after kill -9, divergence, several processes."""

import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from flowhelm import Diverged, NetFlow
from flowhelm.priors.unet import UNet
from flowhelm.train import Batch, fit, flow_matching, scheduled, seeded, shuffled

SRC = Path(__file__).parents[2] / "src"


class Line(nn.Module):
    """v = weight x + bias: a matrix, which decays, and a vector, which does not."""

    def __init__(self, size: int = 3):
        super().__init__()
        self.layer = nn.Linear(size, size)

    def forward(self, x, t):
        return self.layer(x)


def line() -> NetFlow:
    torch.manual_seed(1)
    return NetFlow(Line(), (3,))


def data(index: int) -> Batch:
    return Batch(torch.randn(4, 3, generator=torch.Generator().manual_seed(index)))


def error(flow, batch, generator):
    """Without draws of its own, so that batches may be joined."""
    return (flow.net(batch.clean, None) - batch.clean.roll(1, 1)).square().sum(1)


def last(updates):
    for update in updates:  # noqa: B007
        pass
    return update


def state(net) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# --- closed forms ---


def test_the_schedule():
    rates = [scheduled(s, 1000, rate=0.2, warmup=10, final=0.05) for s in range(1000)]
    assert rates[0] == pytest.approx(0.02)
    assert rates[4] == pytest.approx(0.1, rel=1e-3)
    assert rates[500] == pytest.approx(0.2 * (0.05 + 0.95 / 2))
    assert rates[250] == pytest.approx(0.2 * (0.05 + 0.95 * math.cos(math.pi / 8) ** 2))
    assert rates[-1] == pytest.approx(0.01, rel=1e-3)
    assert max(rates) == rates[9]
    assert scheduled(0, 10, rate=0.3, warmup=0) == 0.3


@pytest.mark.parametrize("clip", [0.5, math.inf])
def test_steps_of_adamw_by_hand(clip):
    """Loshchilov & Hutter 2019, algorithm 2, in float64 with autograd's gradient: three steps."""
    flow, beta, beta2, decay = line(), 0.8, 0.95, 0.1
    flow.net.double()
    by_hand = {name: value.detach().clone() for name, value in flow.net.named_parameters()}
    m, v = ({name: torch.zeros_like(value) for name, value in by_hand.items()} for _ in range(2))
    doubled = lambda i: Batch(data(i).clean.double())  # noqa: E731
    updates = fit(
        flow, error, doubled, steps=3, rate=0.05, warmup=2, betas=(beta, beta2), weight_decay=decay, clip=clip
    )
    for i, update in enumerate(updates):
        leaves = {name: value.clone().requires_grad_() for name, value in by_hand.items()}
        x = data(i).clean.double()
        loss = (x @ leaves["layer.weight"].T + leaves["layer.bias"] - x.roll(1, 1)).square().sum(1).mean()
        gradient = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        norm = sum(g.square().sum() for g in gradient.values()).sqrt()
        assert norm > 0.5
        assert update.info["norm"].item() == pytest.approx(norm.item())
        assert update.loss.item() == pytest.approx(loss.item())
        rate = scheduled(i, 3, rate=0.05, warmup=2)
        for name, g in gradient.items():
            g = g * min(1, clip / norm)
            m[name], v[name] = beta * m[name] + (1 - beta) * g, beta2 * v[name] + (1 - beta2) * g**2
            moved = (m[name] / (1 - beta ** (i + 1))) / ((v[name] / (1 - beta2 ** (i + 1))).sqrt() + 1e-8)
            by_hand[name] = by_hand[name] * (1 - rate * decay * (name == "layer.weight")) - rate * moved
        for name, value in flow.net.named_parameters():
            torch.testing.assert_close(value.detach(), by_hand[name], rtol=1e-5, atol=1e-7)


def test_the_average():
    """A mean of all weights while 1 / (step + 1) > 1 - ema, exponential from then on."""
    flow, ema = line(), 0.75
    average = copy.deepcopy(flow.net)
    passed, means = [], []
    for _ in fit(flow, error, data, steps=9, average=average, ema=ema, warmup=0, rate=0.1):
        passed.append(flow.net.layer.weight.detach().clone())
        means.append(average.layer.weight.detach().clone())
    for n in (1, 2, 4):
        torch.testing.assert_close(means[n - 1], torch.stack(passed[:n]).mean(0))
    k = 5  # further steps: ema^k of the mean of four, and (1 - ema) ema^j of the step j before the last
    closed = ema**k * torch.stack(passed[:4]).mean(0) + sum((1 - ema) * ema**j * passed[8 - j] for j in range(k))
    torch.testing.assert_close(means[8], closed)


def test_two_batches_are_one_of_twice_the_size():
    """Accumulated, each step is that of the joined batch: same loss, same norm, same weights to rounding."""
    one, two = line(), line()
    joined = lambda i: Batch(torch.cat([data(2 * i).clean, data(2 * i + 1).clean]))  # noqa: E731
    a = list(fit(one, error, joined, steps=5, warmup=0, rate=0.1))
    b = list(fit(two, error, data, steps=5, warmup=0, rate=0.1, accumulate=2))
    for u, v in zip(a, b, strict=True):
        torch.testing.assert_close(u.loss, v.loss)
        torch.testing.assert_close(u.info["norm"], v.info["norm"])
    torch.testing.assert_close(one.net.state_dict(), two.net.state_dict())


def test_the_seed_and_the_purpose_matter():
    """torch's CPU generator looks at 32 bits of a seed only: (seed << 32) + index would be the same for all seeds."""
    draws = [torch.rand(4, generator=seeded(*words)) for words in ((0, 1), (1, 1), (0, 2), (2, 0), (1 << 32, 1))]
    draws += [torch.rand(4, generator=seeded(0, 1, purpose=p)) for p in ("flip", "order", "loss")]
    assert all(not torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i])
    assert torch.equal(draws[0], torch.rand(4, generator=seeded(0, 1)))
    runs = []
    for seed in (0, 1):
        flow = line()
        last(fit(flow, flow_matching, data, steps=2, seed=seed, warmup=0))
        runs.append(state(flow.net))
    assert not same(*runs)


def test_mirroring_order_noise_and_dropout_are_independent():
    """A run of one row a step: no two of them come from one stream."""
    ramp = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2) + 2.0 * torch.arange(2).view(2, 1, 1, 1)
    seen = []

    def listening(flow, batch, generator):
        first = batch.clean[0, 0, 0, 0]
        dropped = nn.functional.dropout(torch.ones(1), 0.5)[0] / 2
        seen.append(torch.stack([first % 2, first // 2, torch.rand((), generator=generator).round(), dropped]))
        return (flow.net.layer(torch.ones(1, 3)) ** 2).sum(1)

    last(fit(line(), listening, shuffled(ramp, batch=1, flip=True), steps=400))
    r = torch.corrcoef(torch.stack(seen).T)
    print("correlations of mirroring, row, noise and dropout over 400 steps:", r.numpy().round(3).tolist())
    assert (r - torch.eye(4)).abs().max() < 4 / math.sqrt(400)


def test_shuffled_is_an_epoch_of_every_row_once():
    clean, label = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 1, 1, 2), torch.arange(10)
    batches = shuffled(clean, label, batch=3, seed=4)
    orders = []
    for epoch in range(2):
        rows = [batches(3 * epoch + i) for i in range(3)]
        order = torch.cat([r.condition[0] for r in rows])
        assert len(set(order.tolist())) == 9
        torch.testing.assert_close(torch.cat([r.clean for r in rows])[:, 0, 0, 0], order / 127.5 - 1)
        orders.append(order)
    assert not torch.equal(*orders)
    assert torch.equal(batches(1).clean, shuffled(clean, label, batch=3, seed=4)(1).clean)  # from the middle
    assert not torch.equal(shuffled(clean, label, batch=3, seed=5)(0).condition[0], orders[0][:3])
    with pytest.raises(ValueError, match="batch of 1 to 10 rows, got 11"):
        shuffled(clean, batch=11)
    with pytest.raises(ValueError, match=r"expected conditions of 10 rows, got \[9\]"):
        shuffled(clean, label[:9], batch=2)


def test_half_of_the_rows_are_mirrored():
    ramp = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(64, 1, 1, 2)
    batches = shuffled(ramp, batch=64, flip=True)
    share = torch.cat([batches(i).clean[:, 0, 0, 0] for i in range(500)]).mean().item()
    assert share == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(32000))


# --- buffers, dropout, tied weights ---


class Rich(nn.Module):
    """With dropout, running statistics, tied weights, and a parameter that some steps do not use."""

    def __init__(self):
        super().__init__()
        self.inside, self.outside = nn.Linear(3, 8), nn.Linear(3, 8)
        self.outside.weight = self.inside.weight
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.3)
        self.head, self.spare = nn.Linear(8, 3), nn.Parameter(torch.ones(3))

    def forward(self, x, t):
        y = self.head(self.drop(self.norm(self.inside(x) + self.outside(x.flip(1)))))
        return y * self.spare if x[0, 0] > 0 else y


def rich() -> NetFlow:
    torch.manual_seed(2)
    return NetFlow(Rich(), (3,))


def test_running_statistics_are_carried_to_the_average():
    flow = rich()
    average = copy.deepcopy(flow.net)
    last(fit(flow, error, data, steps=4, average=average))
    assert average.norm.num_batches_tracked == 4
    assert torch.equal(average.norm.running_var, flow.net.norm.running_var)


# --- exact resume ---

TRAIN = """
import copy, os, random, signal, sys, time
sys.path[:0] = {path!r}
import torch, torch._dynamo  # which the optimiser imports when it is first used
torch.set_num_threads(1)
from pathlib import Path
from flowhelm.train import fit, flow_matching
from flowhelm.train import checkpoint as module
import test_fit as t

def train(path, make, **options):
    flow = getattr(t, make)()
    average = copy.deepcopy(flow.net)
    for update in fit(flow, flow_matching, t.data, average=average, checkpoint=Path(path), minutes=0, **options):
        pass
"""

KILLS = """
def dies_at(point, count):
    "This process is killed at the count-th passing of a point in the writing of a checkpoint."
    left = [count]
    def passed():
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    write, rename = module.save_file, os.replace
    def save_file(tensors, path, about):
        if point == "before": passed()
        write(tensors, path, about)
        if point == "half":
            whole = Path(path).read_bytes()
            Path(path).write_bytes(whole[: len(whole) // 2])
            passed()
            Path(path).write_bytes(whole)
    def replace(old, new):
        if point == "written": passed()
        rename(old, new)
        if point == "renamed": passed()
    module.save_file, module.os.replace = save_file, replace

def attempt(work):
    "A child that is killed, or not; whether it came to its end."
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            import traceback; traceback.print_exc()
            os._exit(7)
        os._exit(0)
    return child

draw, out = random.Random(0), {out!r}
for case, options in enumerate({cases!r}):
    deaths, began = 0, time.monotonic()
    assert os.waitpid(attempt(lambda: train(f"{{out}}/unbroken{{case}}", **options)), 0)[1] == 0
    whole = time.monotonic() - began
    for point in ("before", "half", "written", "renamed"):
        count = draw.randint(1, 3)
        def work():
            dies_at(point, count)
            train(f"{{out}}/broken{{case}}", **options)
        status = os.waitpid(attempt(work), 0)[1]
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
        deaths += 1
    while True:  # and at any moment
        child = attempt(lambda: train(f"{{out}}/broken{{case}}", **options))
        time.sleep(draw.uniform(0, 0.4) * whole)
        done, status = os.waitpid(child, os.WNOHANG)
        if not done and deaths < 12:
            os.kill(child, signal.SIGKILL)
            deaths += 1
        if not done:
            done, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
    print(options, "killed", deaths, "times; unbroken it takes %.2f s" % whole)
"""

CASES = (
    {"make": "rich", "steps": 30, "warmup": 5, "seed": 3},
    {"make": "rich", "steps": 15, "warmup": 5, "accumulate": 2},
    {"make": "small", "steps": 10, "rate": 1e-2},
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children, so that torch is imported once")
def test_killed_at_any_moment_it_goes_on_to_the_same_bits(tmp_path):
    """SIGKILL at four points of writing a checkpoint, and at random times; every step writes one."""
    code = (TRAIN + KILLS).format(path=[str(SRC), str(Path(__file__).parent)], out=str(tmp_path), cases=CASES)
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=alone)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    for case, options in enumerate(CASES):
        unbroken, broken = (load_file(tmp_path / f"{name}{case}") for name in ("unbroken", "broken"))
        for kind in ("net.", "average.", "exp_avg.", "exp_avg_sq.", "step."):
            assert any(name.startswith(kind) for name in unbroken)
        assert unbroken.keys() == broken.keys()
        assert [name for name in unbroken if not torch.equal(unbroken[name], broken[name])] == []
        with safe_open(tmp_path / f"broken{case}", framework="pt") as f:
            assert int(f.metadata()["step"]) == options["steps"]


def small() -> NetFlow:
    torch.manual_seed(3)

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = UNet((8, 8), 1, channels=1).to(memory_format=torch.channels_last)

        def forward(self, x, t):
            return self.net(x[:, None, :, None].expand(-1, 1, 3, 3), t)[:, 0, :, 0]

    return NetFlow(Flat(), (3,))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_leaving_the_loop_writes_the_checkpoint(accumulate, tmp_path):
    """`break` and `close` keep the step just made; `minutes` has not passed."""
    path, flows = tmp_path / "checkpoint", [rich(), rich()]
    averages = [copy.deepcopy(flow.net) for flow in flows]
    last(fit(flows[0], flow_matching, data, steps=9, accumulate=accumulate, average=averages[0]))
    for update in fit(
        flows[1], flow_matching, data, steps=9, accumulate=accumulate, average=averages[1], checkpoint=path, minutes=60
    ):
        if update.index == 4:
            break
    again, average = rich(), copy.deepcopy(averages[1])
    rest = list(fit(again, flow_matching, data, steps=9, accumulate=accumulate, average=average, checkpoint=path))
    assert [u.index for u in rest] == [5, 6, 7, 8, 9]
    assert same(state(again.net), state(flows[0].net))
    assert same(state(average), state(averages[0]))
    assert list(fit(again, flow_matching, data, steps=9, accumulate=accumulate, average=average, checkpoint=path)) == []


def test_a_run_does_not_depend_on_what_else_happens():
    """Gradients that someone left, and the global generator, before the run and between its steps."""
    flows = [rich(), rich()]
    last(fit(flows[0], flow_matching, data, steps=4))
    torch.rand(7)
    for p in flows[1].net.parameters():
        p.grad = torch.ones_like(p)
    for update in fit(flows[1], flow_matching, data, steps=4):
        torch.rand(update.index)
    assert same(state(flows[0].net), state(flows[1].net))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 9}, "other settings: steps 8 (now 9); use those, or another file"),
        ({"rate": 0.1, "seed": 1}, "rate 0.001 (now 0.1), seed 0 (now 1)"),
        ({"average": None}, "is of another network: expected 'average.drop"),
        ({"flow": "line"}, "is of another network: expected"),
    ],
)
def test_a_checkpoint_of_another_run(change, message, tmp_path):
    path, flow = tmp_path / "checkpoint", rich()
    usual = {"steps": 8, "average": copy.deepcopy(flow.net), "checkpoint": path}
    next(fit(flow, error, data, **usual | {"minutes": 0}))
    other = line() if change.pop("flow", "") else rich()
    if message.endswith("'average.drop"):
        message = message.replace("drop", "head")
    if not isinstance(other.net, Rich):
        change["average"] = copy.deepcopy(other.net)
    before = state(other.net)
    with pytest.raises(ValueError, match="fit: ") as caught:
        next(fit(other, error, data, **usual | change))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert same(state(other.net), before)


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "foreign", "folder", "step", "negative"])
def test_a_damaged_checkpoint(damage, tmp_path):
    path, flow = tmp_path / "checkpoint", line()
    next(fit(flow, error, data, steps=8, checkpoint=path, minutes=0))
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "foreign":
        save_file({"a": torch.ones(2)}, path)
    elif damage in ("step", "negative"):  # 10^400 is more than a float can be
        settings = {"step": "1" + 400 * "0" if damage == "step" else "-1", "settings": "{}"}
        save_file({"a": torch.ones(2)}, path, settings)
    else:
        path.write_bytes({"cut": whole[:-100], "text": b"no checkpoint at all", "empty": b""}[damage])
    with pytest.raises(ValueError, match="is no readable checkpoint") as caught:
        next(fit(flow, error, data, steps=8, checkpoint=path))
    print(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"accumulate": 0}, {"rate": 0.0}, {"clip": -1.0}, {"ema": 1.0}])
def test_options_out_of_range(bad):
    with pytest.raises(ValueError, match="fit: expected steps and accumulate of at least 1"):
        next(fit(line(), error, data, **{"steps": 3} | bad))


# --- divergence ---


@pytest.mark.parametrize("kind", ["loss", "gradient"])
@pytest.mark.parametrize("averaged", [True, False])
def test_divergence_keeps_the_last_good_state(kind, averaged, tmp_path):
    """The bad batch leaves no trace: not in the weights, moments, average or running statistics, nor in the checkpoint."""
    path, good, bad = tmp_path / "checkpoint", rich(), rich()
    averages = [copy.deepcopy(good.net) if averaged else None for _ in range(2)]
    for update in fit(good, error, data, steps=8, average=averages[0], checkpoint=tmp_path / "good", minutes=0):
        if update.index == 3:
            break

    def breaks(index):
        batch = data(index)
        return Batch(batch.clean * math.nan) if index == 3 and kind == "loss" else batch

    def loss(flow, batch, generator):
        value = error(flow, batch, generator)
        loss.calls.append(1)
        return (
            value + (0 * value).sqrt() if len(loss.calls) == 4 else value
        )  # a finite loss, and 0 * inf in its gradient

    loss.calls, seen = [], []
    chosen = loss if kind == "gradient" else error
    updates = fit(bad, chosen, breaks, steps=8, average=averages[1], checkpoint=path, minutes=60)
    with pytest.raises(Diverged, match="not finite at step 4 of 8; lower the rate") as caught:
        seen.extend(update.index for update in updates)
    assert seen == [1, 2, 3]
    assert str(path) in str(caught.value)
    assert same(state(bad.net), state(good.net))
    if averaged:
        assert same(state(averages[0]), state(averages[1]))
    assert same(load_file(path), load_file(tmp_path / "good"))
    with safe_open(path, framework="pt") as f:
        assert f.metadata()["step"] == "3"
    assert all(p.grad is None for p in bad.net.parameters())


# --- compile, bf16, accelerate ---


@pytest.mark.slow
def test_compiled_it_is_the_same_run(tmp_path):
    losses = []
    for compiled in (False, True):
        torch.manual_seed(3)
        flow = NetFlow(UNet((8, 8), 1, channels=1), (1, 8, 8))
        pictures = shuffled(torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1, batch=8)
        path = tmp_path / f"{compiled}.safetensors"
        run = fit(flow, flow_matching, pictures, steps=6, rate=1e-2, warmup=0, compiled=compiled, checkpoint=path)
        losses.append([u.loss.item() for u in run])
    print("eager, compiled:", losses)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1  # it was compiled, and without a break
    assert not torch._dynamo.utils.counters["graph_break"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    a, b = (load_file(tmp_path / f"{compiled}.safetensors") for compiled in (False, True))
    assert a.keys() == b.keys()  # no _orig_mod.


def test_bf16_keeps_the_weights_in_float32():
    flows = [line(), line()]
    seen = []

    def watched(flow, batch, generator):
        out = flow.net(batch.clean, None)
        seen.append(out.dtype)
        return (out - batch.clean.roll(1, 1)).float().square().sum(1)

    a = last(fit(flows[0], watched, data, steps=5, bf16=True, warmup=0, rate=0.05))
    b = last(fit(flows[1], watched, data, steps=5, warmup=0, rate=0.05))
    assert seen == [torch.bfloat16] * 5 + [torch.float32] * 5
    assert a.loss.item() == pytest.approx(b.loss.item(), rel=0.02)
    assert flows[0].net.layer.weight.dtype == torch.float32


ACCELERATED = """
import copy, sys
sys.path[:0] = {path!r}
import torch
torch.set_num_threads(1)
from pathlib import Path
from accelerate import Accelerator
from safetensors.torch import save_file
from flowhelm.train import fit
import test_fit as t
accelerator, out = Accelerator(cpu=True), Path({out!r})
flow = t.line()
average = copy.deepcopy(flow.net)
updates = fit(
    flow, t.error, t.data, average=average, checkpoint=out / "checkpoint", minutes=0, accelerator=accelerator, **{options}
)
losses = torch.tensor([u.loss.item() for u in updates])
both = {{f"{{w}}.{{k}}": v.clone() for w, n in (("net", flow.net), ("average", average)) for k, v in n.state_dict().items()}}
save_file({{"losses": losses, **both}}, out / f"rank{{accelerator.process_index}}")
print(accelerator.num_processes, "processes")
"""
USUAL = {"steps": 6, "warmup": 0, "rate": 0.05}


def two_processes(out: Path, options: dict) -> None:
    script = out / "script.py"
    script.write_text(ACCELERATED.format(path=[str(SRC), str(Path(__file__).parent)], out=str(out), options=options))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    alone = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "RANK", "WORLD_SIZE", "LOCAL_"))}
    done = subprocess.run(launch, capture_output=True, text=True, env=alone | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("2 processes") == 2


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_are_one_with_twice_the_batch(accumulate, tmp_path):
    """Real processes, gloo: losses, weights and average of every rank are those of one process over the same batches."""
    pytest.importorskip("accelerate")
    two_processes(tmp_path, USUAL | {"accumulate": accumulate})
    flow = line()
    average = copy.deepcopy(flow.net)
    size = 2 * accumulate
    joined = lambda i: Batch(torch.cat([data(size * i + j).clean for j in range(size)]))  # noqa: E731
    losses = [u.loss.item() for u in fit(flow, error, joined, average=average, **USUAL)]
    for rank in (0, 1):
        got = load_file(tmp_path / f"rank{rank}")
        torch.testing.assert_close(got["losses"], torch.tensor(losses), rtol=1e-5, atol=1e-6)
        for prefix, net in (("net.", flow.net), ("average.", average)):
            for name, value in net.state_dict().items():
                torch.testing.assert_close(got[prefix + name], value, rtol=1e-5, atol=1e-6)
    checkpoint = load_file(tmp_path / "checkpoint")
    assert {n.partition(".")[2] for n in checkpoint} == set(flow.net.state_dict())  # no module. prefix
    with safe_open(tmp_path / "checkpoint", framework="pt") as f:
        assert json.loads(f.metadata()["settings"])["accumulate"] == size
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.slow
def test_two_processes_resume_what_one_began(tmp_path):
    """Half of the run on one process that accumulates two batches, half on two: the run on one."""
    pytest.importorskip("accelerate")
    flow, whole = line(), line()
    averages = [copy.deepcopy(flow.net) for _ in range(2)]
    last(fit(whole, error, data, average=averages[1], checkpoint=tmp_path / "whole", accumulate=2, **USUAL))
    for update in fit(
        flow, error, data, average=averages[0], checkpoint=tmp_path / "checkpoint", accumulate=2, **USUAL
    ):
        if update.index == 3:
            break
    two_processes(tmp_path, USUAL)
    assert len(load_file(tmp_path / "rank1")["losses"]) == 3
    expected = load_file(tmp_path / "whole")
    torch.testing.assert_close(load_file(tmp_path / "checkpoint"), expected, rtol=1e-5, atol=1e-6)


def test_accelerate_in_this_process(tmp_path):
    """One process: the same bits as without, and the same checkpoint."""
    accelerate = pytest.importorskip("accelerate")
    runs = []
    for accelerator in (None, accelerate.Accelerator(cpu=True)):
        flow = rich()
        average = copy.deepcopy(flow.net)
        path = tmp_path / f"{accelerator is None}"
        usual = {"steps": 5, "average": average, "accumulate": 2, "checkpoint": path}
        updates = list(fit(flow, flow_matching, data, accelerator=accelerator, **usual))
        runs.append((torch.stack([u.loss for u in updates]), load_file(path)))
    assert torch.equal(runs[0][0], runs[1][0])
    assert same(runs[0][1], runs[1][1])


def test_an_accelerator_that_would_change_the_run_is_refused():
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="give fit `accumulate` instead"):
        next(fit(line(), error, data, steps=2, accelerator=accelerator))
