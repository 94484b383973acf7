"""Plans of memory: the ledger on graphs that can be counted by hand, packed weights against the libraries, FLUX.2 [dev] on 24 GiB."""

import json
import socket
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from flowhelm import Measurement, NetFlow, Noise, operators, priors, steer, tune
from flowhelm.app.models.fitting import METHODS, Settings, Task
from flowhelm.app.models.plan import plan
from flowhelm.bench.pipelines import memory as bench
from flowhelm.inner import adam
from flowhelm.interfaces.cli import main
from flowhelm.memory import ROUND, Footprint, Ledger, Watched, attention, footprint, hollow, walk, without_data
from flowhelm.priors.quantised import quantised, sizes
from flowhelm.priors.unet import UNet
from flowhelm.steer import d_flow

N = 256
ONE = N * N * 4  # bytes of a square matrix, a multiple of 512


@pytest.fixture
def chain():
    with torch.device("meta"):
        return nn.Sequential(*(nn.Linear(N, N, bias=False) for _ in range(6))).requires_grad_(False)


def test_without_a_gradient_two_activations_are_live(chain):
    ledger = Ledger()
    assert ledger.hold("weights", chain) == 6 * ONE
    x = torch.empty(N, N, device="meta")
    with ledger, torch.no_grad():
        for layer in chain:
            x = layer(x)
    assert ledger.peak == (6 + 2) * ONE  # the input was made before; an output is alive while the next one is made
    assert ledger.live == (6 + 1) * ONE
    assert ledger.at_peak == {"weights": 6 * ONE, "method": 2 * ONE}


def test_with_a_gradient_all_that_the_backward_pass_needs_stays(chain):
    ledger = Ledger()
    with ledger:
        x = start = torch.empty(N, N, device="meta").requires_grad_()
        for layer in chain:
            x = layer(x).sin()  # saves what it is applied to
        assert (
            ledger.live == (1 + 6 + 1 + 6) * ONE
        )  # the start, six inputs of a sine, the end, and the weights that were read
        (gradient,) = torch.autograd.grad(x, start, torch.empty_like(x))
        del x
    assert ledger.live == (1 + 6 + 1) * ONE
    assert gradient.shape == start.shape


def test_checkpointing_keeps_the_states_and_computes_one_layer_anew(chain):
    def peak(anew: bool) -> int:
        ledger = Ledger()
        ledger.hold("weights", chain)
        with ledger:
            x = start = torch.empty(N, N, device="meta").requires_grad_()
            for layer in chain:

                def call(z, layer=layer):
                    for _ in range(4):
                        z = layer(z).sin()
                    return z

                x = checkpoint(call, x, use_reentrant=False, preserve_rng_state=False) if anew else call(x)
            torch.autograd.grad(x, start, torch.empty_like(x))
        return ledger.peak - 6 * ONE

    assert peak(False) >= 24 * ONE
    assert peak(True) <= (1 + 6 + 4 + 4) * ONE


def test_sizes_are_those_of_the_allocator():
    ledger = Ledger()
    with ledger:
        kept = [torch.empty(n, dtype=torch.uint8, device="meta") for n in (1, 511, 512, 513)]
        view = kept[0].view(1, 1)
    assert ledger.live == (1 + 1 + 1 + 2) * ROUND
    assert view.shape == (1, 1)


def test_fused_attention_never_holds_the_scores():
    with torch.device("meta"):
        q = torch.empty(1, 4, 2048, 64)
    ledger = Ledger()
    with ledger, attention():
        out = nn.functional.scaled_dot_product_attention(query=q, key=q, value=q)
    assert out.shape == q.shape
    assert ledger.peak < 3 * q.nbytes < 4 * 2048**2 * 4
    real = torch.randn(1, 2, 8, 4)
    with attention():
        assert nn.functional.scaled_dot_product_attention(real, real, real).isfinite().all()


def test_a_question_for_a_value_is_answered_so_that_the_longest_way_is_taken():
    with Ledger():
        x = torch.empty(3, device="meta")
        assert bool((x > 0).any())
        assert float(x.sum()) == 1.0
        assert torch.equal(x.cpu(), torch.ones(3))
        assert (x > 0).nonzero().shape == (3, 1)


def test_whole_numbers_are_computed_beside():
    with Ledger(), torch.device("meta"), without_data():
        x, mask = torch.empty(6, 3), torch.arange(6) < 4
        assert int(mask.sum()) == 4
        assert x[mask].shape == (4, 3)
        assert mask.nonzero().shape == (4, 1)
        x[mask] = torch.empty(4, 3)  # as many
        assert x.repeat_interleave(torch.where(mask, 4, 1), dim=0).shape == (4 * 4 + 2, 3)
        mask[:2].fill_(False)  # through a view
        assert mask.tolist() == [False, False, True, True, False, False]
        lengths = torch.tensor([5, 2], device="meta")
        assert lengths.cpu().tolist() == [5, 2]
        assert x.split(lengths.cumsum(0).tolist()[:1] + [1])[0].shape == (5, 3)


def test_what_floating_point_decides_is_one():
    with Ledger(), torch.device("meta"):
        expert = torch.empty(6, 4).argmax(1)
        assert [(expert == i).nonzero().shape[0] for i in range(4)] == [0, 6, 0, 0]
        lengths = torch.arange(3)
        lengths.copy_(torch.empty(3))
        assert lengths.tolist() == [1, 1, 1]  # no longer 0, 1, 2
        assert torch.randint(5, 9, (2,)).tolist() == [1, 1]


def test_autocast_that_is_off_is_off_without_data_too():
    with without_data(), torch.autocast("meta", enabled=False):
        pass
    with without_data(), torch.autocast("cpu", torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_the_ledger_counts_a_real_run_as_it_counts_one_without_data():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, 64)).requires_grad_(False)

    def peak(net: nn.Module, device: str) -> int:
        ledger = Ledger(device)
        ledger.hold("weights", net)
        with ledger:
            x = torch.ones(128, 64, device=device).requires_grad_()
            torch.autograd.grad(net(x).square().sum(), x)
        return ledger.peak

    assert peak(net, "cpu") == peak(hollow(net), "meta")


@pytest.mark.parametrize("scheme", ["int8"])
def test_packed_weights_are_as_large_as_torchaos(scheme):
    torchao = pytest.importorskip("torchao.quantization")
    real = nn.Sequential(nn.Linear(512, 256), nn.LayerNorm(256)).to(torch.bfloat16)
    ours = quantised(hollow(real), scheme)
    torchao.quantize_(real, torchao.Int8WeightOnlyConfig())
    weight = real[0].weight
    theirs = sum(getattr(weight, name).nbytes for name in weight.tensor_data_names)
    assert theirs == sum(count * kind.itemsize for count, kind in sizes(scheme, 256, 512))
    assert sum(each.nbytes for each in ours[0].buffers()) == theirs
    assert ours[1].weight.nbytes == 512  # norms stay


def test_torchao_keeps_unpacked_weights_for_the_backward_pass_and_so_do_we():
    torchao = pytest.importorskip("torchao.quantization")
    layers = (
        nn.Sequential(*(nn.Linear(512, 512, bias=False) for _ in range(4))).to(torch.bfloat16).requires_grad_(False)
    )
    ours = quantised(hollow(layers), "int8")
    torchao.quantize_(layers, torchao.Int8WeightOnlyConfig())

    def kept(net: nn.Module, device: str) -> int:
        ledger = Ledger(device)
        ledger.hold("weights", net)
        with ledger:
            x = torch.ones(4, 512, dtype=torch.bfloat16, device=device).requires_grad_()
            before = ledger.live
            out = net(x)
            after = ledger.live
        assert out.requires_grad
        return after - before

    copies = 4 * 512 * 512 * 2
    assert copies <= kept(ours, "meta") <= 1.05 * copies
    # the packed weights are seen there for the first time, too
    assert copies <= kept(layers, "cpu") <= 1.5 * copies + 64 * ROUND


def test_nf4_by_its_formula_and_unpacked_for_one_layer_at_a_time():
    assert sum(count * kind.itemsize for count, kind in sizes("nf4", 1024, 1024)) == 2**20 / 2 + 2**20 / 64 * 4 + 64
    assert sum(count * kind.itemsize for count, kind in sizes("nf4-double", 1024, 1024)) == (
        2**20 / 2 + 2**14 + 2**14 / 256 * 4 + 1024 + 64
    )
    with torch.device("meta"):
        net = nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(4))).to(torch.bfloat16)
    quantised(net.requires_grad_(False), "nf4")
    ledger = Ledger()
    held = ledger.hold("weights", net)
    with ledger:
        x = torch.empty(8, 1024, dtype=torch.bfloat16, device="meta").requires_grad_()
        out = net(x)
        assert ledger.live - held < 2**20  # nothing unpacked is left
        torch.autograd.grad(out.sum(), x)
    assert 2 * 2**20 < ledger.peak - held < 3 * 2**20  # one of 2 MiB


def test_blocks_of_gguf_have_its_own_sizes():
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("diffusers")
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(512, 64), nn.Linear(96, 64))
    quantised(net, "Q4_K")
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType.Q4_K]
    assert net[0].weight.nbytes == 64 * 512 // block * size
    assert net[1].weight.nbytes == 64 * 96 * 4  # no multiple of a block
    with pytest.raises(ValueError, match="Q4_K"):
        quantised(nn.Sequential(nn.Linear(2, 2)), "Q4")


def test_a_footprint_says_what_is_differentiated():
    flow = hollow(priors.load("photos").sized(64, 64))
    held = {"network": [flow.net], "decoder": []}

    def found(method: str) -> Footprint:
        return footprint(flow, bench.begin(bench.METHODS[method], 64, "meta"), held, steps=10)

    assert not found("mpc_flow").differentiates("network")
    assert found("dps").differentiates("network")
    dps, sample = found("dps"), found("sample")
    assert dps.peak - dps.weights["network"] > 3 * (sample.peak - sample.weights["network"])
    assert sum(dps.held.values()) == dps.peak


class Convolutions(nn.Sequential):
    def forward(self, x, t):
        return super().forward(x)


def test_a_trajectory_grows_with_its_steps_by_its_states():
    with torch.device("meta"):
        net = Convolutions(nn.Conv2d(3, 64, 3, padding=1), nn.SiLU(), nn.Conv2d(64, 3, 3, padding=1)).requires_grad_(
            False
        )
    flow = NetFlow(net, (3, 64, 64))
    method = partial(d_flow, inner=partial(adam, iterations=2), iterations=2)
    begin, held = bench.begin(method, 64, "meta"), {"network": [net], "decoder": []}
    peaks = {n: footprint(flow, begin, held, steps=n).peak for n in (5, 10, 20)}
    assert peaks[20] - peaks[10] == 2 * (peaks[10] - peaks[5])
    assert 0 < peaks[20] - peaks[10] <= 10 * 3 * flow.shape[0] * 64 * 64 * 4  # a few states a step
    whole = Ledger()  # the grid as it is, to its end
    whole.hold("weights", net)
    with whole, attention():
        list(begin(Watched(flow, whole), 10))
    assert abs(whole.peak - peaks[10]) <= 3 * 3 * 64 * 64 * 4  # to a few states, where a network is as small as these


def test_a_plan_of_a_bundled_prior_and_a_refusal():
    found = plan("photos", "dps", vram=8, size=(128, 128))
    assert found.fits
    assert found.encoders == "none"
    assert found.peak == pytest.approx(sum(found.held.values()))
    refused = plan("photos", "dps", vram=1.2, size=(512, 512))
    assert not refused.fits
    assert "does not fit" in refused.sentence
    assert "--size" in refused.sentence


GB = 2**30


class Needs:
    """A task whose footprints are known: what is differentiated, and how many bytes settings take."""

    tunes = False

    def __init__(self, rows: int, parts: tuple[str, ...], **sizes: float):
        self.flow, self.rows, self.parts, self.sizes = None, rows, parts, sizes
        self.asked: list[Settings] = []

    def footprint(self, settings: Settings) -> Footprint:
        self.asked.append(settings)
        size = {"none": 20, "int8": 10, "nf4": 5}[settings.quantize]
        size += sum(self.sizes[part] / (10 if part in settings.checkpointing else 1) for part in self.parts)
        size += (settings.chunk or self.rows) * self.sizes.get("row", 0) - settings.tiling * self.sizes.get("tiles", 0)
        return Footprint(int(size * GB), {}, {f"{part} backward": 0 for part in self.parts}, {})


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (60, Settings()),
        (47, Settings(chunk=2)),
        (45, Settings(checkpointing=("decoder",))),
        (37, Settings(checkpointing=("network",))),
        (29.5, Settings(checkpointing=("network",), chunk=2)),
        (23.5, Settings(checkpointing=("network", "decoder"), chunk=1)),
        (20, Settings("int8", checkpointing=("network",), chunk=2)),
        (9, Settings("nf4", checkpointing=("network", "decoder"), chunk=1)),
        (6, Settings("nf4", checkpointing=("network", "decoder"), chunk=1, tiling=True)),
        (1, None),
    ],
)
def test_what_leaves_the_result_as_it_is_comes_first(monkeypatch, budget, expected):
    from flowhelm.app.models import fitting as module

    monkeypatch.setattr(module, "packed", lambda flow, scheme: 0)
    monkeypatch.setattr(module, "_checkpointable", lambda flow, part: True)
    monkeypatch.setattr(module, "_tileable", lambda flow: True)
    task = Needs(4, ("network", "decoder"), network=20, decoder=5, row=1, tiles=3)
    assert module.first(task, budget * GB, ("none", "int8", "nf4")) == expected
    assert all(not each.tiling for each in task.asked) or expected is None or expected.tiling


@pytest.mark.slow
def test_checkpointing_is_chosen_where_it_is_needed():
    configs = bench.configs("flux", wide=False)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    configs["vae"] |= {"block_out_channels": [32, 32], "layers_per_block": 1, **blocks}
    size, given = (64, 64), {"dtype": torch.float32, "words": 16, "reserve": 0.0}
    whole = plan(configs, "dps", vram=4, size=size, **given)
    assert whole.settings.checkpointing == ()
    less = plan(configs, "dps", vram=0.97 * whole.peak, size=size, **given)
    assert less.fits
    assert less.settings.checkpointing
    assert less.settings.quantize == "none"


def test_the_command_prints_json_and_refuses_with_status_2(capsys, refusal):
    assert main(["plan", "photos", "dps", "--vram", "4", "--size", "128x64", "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["fits"]
    assert read["size"] == [128, 64]
    assert main(["plan", "photos", "dps", "--vram", "4", "--size", "64", "--factor", "4", "--step", "2"]) == 0
    assert "peak" in capsys.readouterr().out
    assert "does not fit" in refusal("plan", "photos", "dps", "--vram", "1.001", "--size", "256")
    for bad in (
        ["photos", "dps"],
        ["photos", "nosuch", "--vram", "4"],
        ["photos", "dps", "--vram", "0.5"],
        ["photos", "dps", "--vram", "nan"],
    ):
        assert main(["plan", *bad]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", [each.__name__ for each in METHODS])
def test_every_method_can_be_planned(method):
    found = plan("photos", method, vram=8, size=(64, 64), rows=2)
    assert found.fits
    assert found.peak >= found.weights["network"] > 0


@pytest.mark.parametrize("method", tune.ALL, ids=lambda each: each.__name__)
def test_a_fine_tuning_takes_what_is_foretold(method):
    """Counted without data and in a real run of two updates, adapter, optimiser, value network and old weights included."""
    torch.manual_seed(0)
    net = UNet((32,), blocks=1).requires_grad_(False)
    flow = NetFlow(net, (3, 16, 16))
    task = Task.of(flow, method.__name__, {}, "denoise", {}, 4, 3)
    ledger = Ledger("cpu")
    ledger.hold("network weights", net)
    with ledger:
        walk(Watched(flow, ledger), task.begin("cpu"), 3)
    assert task.footprint(Settings()).peak == pytest.approx(ledger.peak, rel=0.1)


def test_a_fine_tuning_is_planned_by_the_command(capsys):
    assert main(["plan", "fashion", "draft", "--vram", "2", "--particles", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"]
    assert {"network backward", "network forward"} <= {*found["parts"]}
    for bad in (["flow_grpo"], ["draft", "--particles", "4", "--updates", "3"]):
        assert main(["plan", "fashion", *bad, "--vram", "2"]) == 2
    assert "at least 2" in capsys.readouterr().err


FLUX2 = {
    "_class_name": "Flux2Pipeline",
    "transformer": {
        "_class_name": "Flux2Transformer2DModel", "in_channels": 128, "num_layers": 8, "num_single_layers": 48,
        "attention_head_dim": 128, "num_attention_heads": 48, "joint_attention_dim": 15360, "axes_dims_rope": [32] * 4,
        "mlp_ratio": 3.0, "patch_size": 1, "guidance_embeds": True, "timestep_guidance_channels": 256,
    },
    "vae": {
        "_class_name": "AutoencoderKLFlux2", "block_out_channels": [128, 256, 512, 512], "latent_channels": 32, "layers_per_block": 2,
        "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4, "norm_num_groups": 32,
        "use_quant_conv": True, "use_post_quant_conv": True, "patch_size": [2, 2],
    },
    "scheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True},
    "text_encoder": {
        "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3",
        "text_config": {
            "model_type": "mistral", "hidden_size": 5120, "intermediate_size": 32768, "num_hidden_layers": 40,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131072,
        },
        "vision_config": {
            "model_type": "pixtral", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
            "num_attention_heads": 16, "head_dim": 64, "image_size": 1540, "patch_size": 14,
        },
    },
}  # fmt: skip
"""The public configs of FLUX.2 [dev]: 32.2 billion parameters, a text encoder of 24 billion."""


@pytest.mark.parametrize("anew", [False, True])
def test_a_plan_of_five_steps_takes_what_a_run_counts(anew):
    """On a grid of 20 steps: the activations of four evaluations, or, computed anew, of one beside the plan's states."""
    flow = NetFlow(UNet((16, 24), blocks=1).requires_grad_(False), (3, 16, 16))
    options = {"horizon": 5, "recompute": anew}
    physics, x = operators.superres(flow.shape, factor=4), torch.ones(1, 3, 16, 16)
    ledger = Ledger("cpu")
    ledger.hold("network weights", flow.net)
    with ledger:
        y = Measurement(physics.A(x), physics, 0.05)
        next(steer.mpc_flow(flow, y, x, flow.times(20), noise=Noise(0, 1), **options))
    foretold = plan(flow, "mpc_flow", vram=24, options=options, steps=20).peak
    assert foretold == pytest.approx(ledger.peak / 2**30, abs=3e-4)  # GiB; kernels may ask for a little on top


def test_what_is_kept_for_the_backward_pass_is_computed_anew_where_the_plan_says_so():
    whole, anew = (
        plan("photos", "mpc_flow", vram=24, size=(64, 64), options={"horizon": 9, "recompute": each}, reserve=0.0)
        for each in (False, True)
    )
    assert anew.peak < 0.5 * whole.peak
    tight = plan("photos", "mpc_flow", vram=1.2 * anew.peak, size=(64, 64), options={"horizon": 9}, reserve=0.0)
    assert not tight.fits
    assert "--recompute" in tight.sentence


@pytest.mark.slow
def test_flux2_on_24_gib_as_in_the_paper_of_mpc_flow():
    # arXiv:2601.23231 ran it with K = 1 on a card of 24 GB at nf4, the text encoder on the CPU: 17.7 GB unguided at 256 x 256,
    # and 18.4 GB guided (its decoder under autocast, where norms are float32)
    found = plan(FLUX2, "mpc_flow", vram=24, size=(512, 512), operator_options={"factor": 4})
    assert found.fits
    assert (found.settings.quantize, found.settings.checkpointing, found.encoders) == ("nf4", (), "cpu")
    assert found.weights["network"] * 2**30 == pytest.approx(32.223e9 * (0.5 + 4 / 64), rel=2e-3)
    small = plan(FLUX2, "sample", vram=24, size=(256, 256), quantize="nf4")
    assert small.peak == pytest.approx(17.68, rel=0.02)
    refused = plan(FLUX2, "mpc_flow", vram=24, size=(512, 512), quantize="none")
    assert not refused.fits
    assert "--quantize nf4" in refused.sentence


@pytest.mark.slow
def test_flux2_differentiated_needs_checkpointing():
    found = plan(FLUX2, "dps", vram=24, size=(512, 512), quantize="nf4", operator_options={"factor": 4})
    assert found.fits
    assert "network" in found.settings.checkpointing
    assert dict(found.tried)["weights in nf4"] > 35


@pytest.mark.slow
@pytest.mark.parametrize("case", ["flux:dps:network"])
def test_what_is_foretold_is_what_is_used(case):
    (found,) = bench.compare([case])
    assert found.foretold == pytest.approx(found.measured, rel=0.1)
    assert found.activations == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("hub", ["silent", "https://no.such.host.invalid", "http://127.0.0.1:9"])
@pytest.mark.parametrize(
    "words", [["plan", "nobody/nothing", "mpc_flow", "--vram", "24"], ["doctor", "nobody/nothing"]]
)
def test_a_hub_that_cannot_be_reached_is_said_at_once(monkeypatch, capsys, hub, words):
    """One that takes the connection and says nothing, one whose name leads nowhere, and one that refuses."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}" if hub == "silent" else hub
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        assert main(words) == 2  # the test's own time limit is the assertion: it took 53 s
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert "cannot be" in said
