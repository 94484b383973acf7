"""Published networks: a checkpoint, converted, gives what its layout's equations say; all else is refused in a sentence."""

import json
import math
import pickle

import pytest
import torch
from layouts import drawn, pnp_flow_shapes, sit_shapes
from safetensors.torch import load_file, save_file
from torch.nn import functional as fn

from flowhelm import Noise, begin, codec, integrate, load, operators, restore, run, simulate
from flowhelm.interfaces.cli import main
from flowhelm.priors import published
from flowhelm.priors.published import checkpoint, models, unet
from flowhelm.priors.published.convert import convert
from flowhelm.priors.published.convert import main as typed

pytest.importorskip("diffusers")

TIME = torch.tensor([0.37, 0.9])


def close(got, want):
    return float(((got - want).abs().max() / want.abs().max()).detach())


# the equations of PnP-Flow's U-Net and of SiT, stated anew


def pnp_flow(w, x, t, widths=(32, 64), blocks=1, attention=(False, True)):
    def conv(name, h, **how):
        return fn.conv2d(h, w[f"{name}.weight"], w[f"{name}.bias"], **how)

    def norm(name, h):
        return fn.group_norm(h, 32, w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)

    def dense(name, h):
        return fn.linear(h, w[f"{name}.weight"], w[f"{name}.bias"])

    def block(name, h):
        new = conv(f"{name}.conv1", fn.silu(norm(f"{name}.norm1", h)), padding=1)
        new = new + dense(f"{name}.temb_proj", fn.silu(time))[:, :, None, None]
        new = conv(f"{name}.conv2", fn.silu(norm(f"{name}.norm2", new)), padding=1)
        return (conv(f"{name}.shortcut", h) if f"{name}.shortcut.weight" in w else h) + new

    def attend(name, h):
        q, k, v = (conv(f"{name}.attn_{each}", norm(f"{name}.norm", h)).flatten(2).mT for each in "qkv")
        seen = fn.scaled_dot_product_attention(q, k, v).mT.reshape(h.shape)  # one head over all channels
        return h + conv(f"{name}.proj_out", seen)

    half, last = widths[0] // 2, len(widths) - 1
    angle = t[:, None] * torch.exp(-math.log(10000) / (half - 1) * torch.arange(half))
    time = dense("temb_net.main.2", fn.silu(dense("temb_net.main.0", torch.cat([angle.sin(), angle.cos()], 1))))
    h = conv("begin_conv", x, padding=1)
    skips = [h]
    for k in range(len(widths)):
        for i in range(blocks):
            h = block(f"down_modules.{k}.{k}a_{i}a_block", h)
            h = attend(f"down_modules.{k}.{k}a_{i}b_attn", h) if attention[k] else h
            skips.append(h)
        if k < last:
            h = conv(f"down_modules.{k}.{k}b_downsample", h, padding=1, stride=2)
            skips.append(h)
    h = block("mid_modules.2", attend("mid_modules.1", block("mid_modules.0", h)))
    for k in reversed(range(len(widths))):
        for i in range(blocks + 1):
            h = block(f"up_modules.{last - k}.{k}a_{i}a_block", torch.cat([h, skips.pop()], 1))
            h = attend(f"up_modules.{last - k}.{k}a_{i}b_attn", h) if attention[k] else h
        if k:
            h = conv(f"up_modules.{last - k}.{k}b_upsample.up_conv", fn.interpolate(h, scale_factor=2.0), padding=1)
    return conv("end_conv.2", fn.silu(norm("end_conv.0", h)), padding=1)


def sit(w, x, t, label, heads=4, blocks=2, patch=2, channels=4):
    def dense(name, h):
        return fn.linear(h, w[f"{name}.weight"], w[f"{name}.bias"])

    def changed(h, shift, scale):
        return fn.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    angle = t[:, None] * torch.exp(-math.log(10000) / 128 * torch.arange(128))
    told = dense("t_embedder.mlp.2", fn.silu(dense("t_embedder.mlp.0", torch.cat([angle.cos(), angle.sin()], 1))))
    told = fn.silu(told + w["y_embedder.embedding_table.weight"][label])
    h = (
        fn.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=patch).flatten(2).mT
        + w["pos_embed"]
    )
    for k in range(blocks):
        at = f"blocks.{k}"
        shift, scale, gate, shift_2, scale_2, gate_2 = dense(f"{at}.adaLN_modulation.1", told).chunk(6, 1)
        q, key, v = (
            dense(f"{at}.attn.qkv", changed(h, shift, scale)).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        )
        seen = fn.scaled_dot_product_attention(q, key, v).transpose(1, 2).flatten(2)
        h = h + gate[:, None] * dense(f"{at}.attn.proj", seen)
        wide = fn.gelu(dense(f"{at}.mlp.fc1", changed(h, shift_2, scale_2)), approximate="tanh")
        h = h + gate_2[:, None] * dense(f"{at}.mlp.fc2", wide)
    h = dense("final_layer.linear", changed(h, *dense("final_layer.adaLN_modulation.1", told).chunk(2, 1)))
    side = round(h.shape[1] ** 0.5)
    tiles = h.view(len(x), side, side, patch, patch, 2 * channels)
    return tiles.permute(0, 5, 1, 3, 2, 4).reshape(len(x), 2 * channels, side * patch, side * patch)


def written(tmp_path, layout, weights, **options):
    """Converted and opened again; from a pickle if the checkpoint holds more than the weights."""
    flat = all(isinstance(each, torch.Tensor) for each in weights.values())
    file = tmp_path / ("from.safetensors" if flat else "from.pt")
    save_file(dict(weights), file) if flat else torch.save(weights, file)
    return load(convert(layout, file, tmp_path / "made.safetensors", **options))


def test_pnp_flows_network_is_carried(tmp_path):
    weights = drawn(pnp_flow_shapes())
    flow = written(tmp_path, "pnp_flow", weights, size=16)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert flow.shape == (3, 16, 16)
    assert flow.pixels
    assert not flow.null
    assert close(flow.velocity(x, TIME.double()), pnp_flow(weights, x, TIME)) < 1e-5


def test_the_transformer_of_sit_is_carried(tmp_path):
    weights = drawn(sit_shapes())
    flow = written(tmp_path, "sit", weights, heads=4)
    x, label = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 10])
    want = sit(weights, x, TIME, label)[:, :4]
    assert close(flow.bind(label).velocity(x, TIME.double()), want) < 1e-5
    assert (
        close(flow.velocity(x, TIME.double()), sit(weights, x, TIME, torch.tensor([10, 10]))[:, :4]) < 1e-5
    )  # the last class is none
    assert close(flow.told(["3", "4"]).velocity(x, TIME.double())[:1], want[:1]) < 1e-5
    held = load_file(tmp_path / "made.safetensors")
    assert sum(each.numel() for each in held.values()) == sum(
        each.numel() for each in weights.values()
    )  # each is there once


def test_latents_want_their_auto_encoder(tmp_path):
    flow = written(tmp_path, "sit", drawn(sit_shapes()), heads=4)
    assert not flow.pixels
    with pytest.raises(ValueError, match="over latents; give it the auto-encoder"):
        flow.decode(torch.zeros(1, 4, 8, 8))

    class Halves:
        def encode(self, image):
            return fn.avg_pool2d(image, 2).repeat(1, 2, 1, 1)[:, :4]

        def decode(self, latent):
            return fn.interpolate(latent[:, :3], scale_factor=2.0)

        def shape(self, height, width):
            return (4, height // 2, width // 2)

    whole = codec.LatentFlow(flow, Halves())
    noise = Noise(0, rows=1)
    assert whole.decode(run(integrate(whole, whole.source(noise), whole.times(2))).x).shape == (1, 3, 16, 16)


VARIANTS = {
    "as torchcfm has it": {"use_scale_shift_norm": False, "resblock_updown": False, "num_head_channels": 32, "out_channels": 3},
    "as ADM has it": {"use_scale_shift_norm": True, "resblock_updown": True, "num_head_channels": 32, "out_channels": 6},
    "by class, queries first": {
        "use_scale_shift_norm": True, "resblock_updown": True, "num_head_channels": 32, "out_channels": 6, "num_classes": 5,
        "use_new_attention_order": True,
    },
    "heads of all widths": {
        "use_scale_shift_norm": True, "resblock_updown": True, "num_heads": 4, "out_channels": 6, "channel_mult": (1, 1, 2),
    },
    "a narrow first level": {
        "use_scale_shift_norm": True, "resblock_updown": True, "num_head_channels": 32, "out_channels": 6, "channel_mult": (0.5, 1),
        "model_channels": 64,
    },
}  # fmt: skip


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_guided_diffusions_network_is_carried(tmp_path, variant):
    """Against azula's copy of it."""
    theirs = pytest.importorskip("azula.plugins.adm._src.unet")
    how = {"channel_mult": (1, 2), "model_channels": 32, **VARIANTS[variant]}
    net = theirs.UNetModel(16, 3, num_res_blocks=2, attention_resolutions={2}, **how).eval()
    weights = drawn({name: tuple(each.shape) for name, each in net.state_dict().items()})
    net.load_state_dict(weights)
    options = {"size": 16, "order": "part" if "use_new_attention_order" in how else "head"}
    options |= {"heads": 4} if "num_heads" in how else {"head_width": 32}
    torchcfm = how["out_channels"] == 3
    held = {"ema_model": {f"module.{name}": each for name, each in weights.items()}, "step": 3} if torchcfm else weights
    flow = written(tmp_path, "torchcfm" if torchcfm else "adm", held, **options)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    told = [torch.tensor([1, 4])] if "num_classes" in how else []
    labels = TIME if torchcfm else torch.tensor([371.0, 20.0])
    want = net(x, labels, *told)
    assert close(flow.net(x, labels, *told), want) < 1e-5
    if torchcfm:
        assert close(flow.velocity(x, TIME.double()), want) < 1e-5
        return
    # what it says of the noise, at a level of its own: alpha x clean + sigma x source on the linear path is its state up to a factor
    level = unet.alphas("linear")[371]
    ratio = (level / (1 - level)).sqrt()
    t = ratio / (1 + ratio)
    state = x * float(level.sqrt() / t)
    flow = flow.bind(*told) if told else flow
    assert close(flow.ends(x, t).source, net(state, torch.full((2,), 371.0), *told)[:, :3]) < 1e-4


def test_a_network_by_class_alone_asks_for_one(tmp_path):
    theirs = pytest.importorskip("azula.plugins.adm._src.unet")
    net = theirs.UNetModel(
        16, 3, 32, 6, 1, {2}, channel_mult=(1, 2), num_classes=5, use_scale_shift_norm=True, resblock_updown=True,
        num_heads=1,
    )  # fmt: skip
    flow = written(tmp_path, "adm", net.state_dict(), size=16, heads=1)
    x = torch.randn(1, 3, 16, 16)
    with pytest.raises(ValueError, match="draws by class alone; name one of its 5 classes: --class 207"):
        flow.velocity(x, torch.tensor(0.5))
    assert flow.told(["4"]).velocity(x, torch.tensor(0.5)).shape == x.shape
    with pytest.raises(ValueError, match="compares with an empty condition"):
        flow.told(["4"], guidance=lambda given, without, t: given)


@pytest.mark.parametrize("kind", ["adm", "ncsn", "ddpm"])
def test_edms_networks_are_carried(tmp_path, kind):
    from deepinv.models import ADMUNet, NCSNpp

    how = {
        "img_resolution": 8, "model_channels": 128, "channel_mult": (1, 1), "num_blocks": 1, "attn_resolutions": (4,),
        "dropout": 0.0,
    }  # fmt: skip
    how |= {"pretrained": None, "_was_trained_on_minus_one_one": True, "pixel_std": 0.5}
    net = ADMUNet(label_dim=5, **how) if kind == "adm" else NCSNpp(model_type=kind, **how)
    own = {name for name, _ in net.named_buffers()}
    weights = drawn({name: tuple(each.shape) for name, each in net.state_dict().items() if name not in own})
    weights |= {name: each for name, each in net.state_dict().items() if name in own}
    net.load_state_dict(weights)
    flow = written(tmp_path, "edm", weights)
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    told = [torch.tensor([1, 4])] if kind == "adm" else []
    one_hot = fn.one_hot(told[0], 5).float() if told else None
    want = net((x + 1) / 2, torch.full((2,), 0.25), class_labels=one_hot) * 2 - 1  # sigma in the unit of [0, 1]
    flow = flow.bind(*told) if told else flow
    t = torch.tensor(1 / 1.5, dtype=torch.float64)
    assert close(flow.ends(x * float(t), t).clean, want) < 1e-4


def test_narrow_networks_of_edm_are_refused(tmp_path):
    """Below 128 channels EDM's norms have fewer groups than deepinv's: the tensors fit, and the answer would be another."""
    from deepinv.models import NCSNpp

    net = NCSNpp(
        img_resolution=8, model_channels=64, channel_mult=(1,), num_blocks=1, attn_resolutions=(), pretrained=None
    )
    with pytest.raises(ValueError, match="at least 128 channels, got 64"):
        written(tmp_path, "edm", dict(net.state_dict()))


# what is wrong is said


def changed(weights, change):
    weights = dict(weights)
    change(weights)
    return weights


FAULTS = {
    "missing": (lambda w: w.pop("mid_modules.1.attn_q.bias"), "'mid_modules.1.attn_q.bias' is missing"),
    "too many": (lambda w: w.update(extra=torch.zeros(2)), "'extra' is not one of them"),
    "several": (
        lambda w: [w.pop("end_conv.0.bias"), w.update(extra=torch.zeros(2))],
        r"'end_conv.0.bias' is missing \(and 1 more",
    ),
    "misshapen": (
        lambda w: w.update({"mid_modules.0.conv2.weight": torch.zeros(64, 64, 1, 1)}),
        r"has the shape \(64, 64, 1, 1\)",
    ),
    "not finite": (
        lambda w: w["end_conv.0.bias"].fill_(math.nan),
        "'end_conv.0.bias' holds numbers that are not finite",
    ),
    "another network": (lambda w: w.pop("begin_conv.weight"), "'begin_conv.weight' is not among the"),
    "no blocks": (lambda w: [w.pop(k) for k in list(w) if k.startswith("down")], "no levels on the way down"),
    "odd widths": (
        lambda w: w.update({"down_modules.0.0a_0a_block.conv1.weight": torch.zeros(33, 32, 3, 3)}),
        "widths that 32 divides",
    ),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_what_does_not_fit_is_one_sentence(tmp_path, fault):
    change, words = FAULTS[fault]
    with pytest.raises(ValueError, match=words) as error:
        written(tmp_path, "pnp_flow", changed(drawn(pnp_flow_shapes()), change), size=16)
    assert str(error.value).startswith("convert: ")
    assert "\n" not in str(error.value)
    assert [each.name for each in tmp_path.iterdir()] == ["from.safetensors"]  # nothing half written


class Code:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_code_in_a_pickle_does_not_run(tmp_path, capfd):
    torch.save({"begin_conv.weight": torch.zeros(2), "more": Code()}, tmp_path / "made.pt")
    with pytest.raises(ValueError, match=r"cannot be read as tensors alone \(it wants to run print\); .*state_dict"):
        convert("pnp_flow", tmp_path / "made.pt", tmp_path / "to.safetensors")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"a": Code()}))
    torch.save({}, tmp_path / "empty.pt")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    for name, words in (
        ("old", "it holds more than tensors"),
        ("empty", "no tensors by name"),
        ("list", "no tensors by name"),
    ):
        assert (
            checkpoint._main([str(tmp_path / f"{name}.pt"), str(tmp_path / "to.safetensors")]) == 1
        )  # what the process does
        assert words in capfd.readouterr().err
    assert "this must not run" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.pt", None, "does not exist"),
        ("page.pt", b"<html>too many people fetch this</html>", "it may be a web page"),
        ("page.safetensors", b"<html>", "not a readable safetensors file"),
        ("cut.pt", b"PK\x03\x04" + bytes(100), "cannot be read as tensors alone"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, name, content, words):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        convert("sit", tmp_path / name, tmp_path / "to.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["celeba", "made.pt", "to.safetensors"], "did you mean"),
        (["pnp-flow-celeba", "made.pt", "to.pt"], "expected the name of a new .safetensors file"),
        (["pnp-flow-celeba", "made.pt", "there.safetensors"], "name another"),
        (["sit", "made.pt", "to.safetensors", "--size", "64"], "sit takes no size; it takes heads"),
        (
            ["edm-ffhq-64", "edm-ffhq-64x64-uncond-ve.pkl", "to.safetensors"],
            "https://huggingface.co/deepinv/edm and convert that",
        ),
    ],
)
def test_words_are_refused_in_a_sentence(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.safetensors").touch()
    monkeypatch.setattr("sys.argv", ["convert", *words])
    assert typed() == 2
    out = capsys.readouterr()
    assert said in out.err
    assert out.err.count("\n") == 1


def test_damaged_headers_are_refused(tmp_path):
    flow = written(tmp_path, "pnp_flow", drawn(pnp_flow_shapes()), size=16)
    held = load_file(tmp_path / "made.safetensors")
    config = json.loads(header(tmp_path / "made.safetensors")["config"])
    for change, words in (
        ({"widths": [32, 4096 * 16 - 32]}, "its tensors are not those"),
        ({"widths": [33, 66]}, "widths that 32 divides"),
        ({"attention": [True]}, "levels of attention"),
        ({"blocks": 10**9}, "blocks"),
        ({"code": "x"}, "code"),
    ):
        save_file(
            held,
            tmp_path / "odd.safetensors",
            {"kind": "published", "layout": "pnp_flow", "config": json.dumps(config | change)},
        )
        with pytest.raises(ValueError, match=words):
            load(tmp_path / "odd.safetensors")
    save_file(held, tmp_path / "odd.safetensors", {"kind": "published", "layout": "os", "config": json.dumps(config)})
    with pytest.raises(ValueError, match="layout 'os', which this version does not know"):
        load(tmp_path / "odd.safetensors")
    assert flow.about["size"] == 16


def header(path):
    with open(path, "rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]


def test_a_converted_network_restores_and_draws(tmp_path, monkeypatch, capsys):
    """By Python and by the command line, of sizes that are no multiple of its stride too."""
    flow = written(tmp_path, "pnp_flow", drawn(pnp_flow_shapes()), size=16)
    noise = Noise(0, rows=1)
    y = simulate(operators.denoise(flow.shape), torch.zeros(1, 3, 16, 16), 0.2, noise)
    x, times = begin(restore.pnp_flow, flow, y, 3, noise)
    assert run(restore.pnp_flow(flow, y, x, times, noise=noise)).x.isfinite().all()
    odd = flow.sized(13, 18)
    assert odd.velocity(torch.randn(1, 3, 13, 18), torch.tensor(0.5)).shape == (1, 3, 13, 18)
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "made.safetensors", "--steps", "2", "--out", "drawn.png"]) == 0
    assert (tmp_path / "drawn.png").is_file(), capsys.readouterr()


def test_every_published_model_names_a_layout_and_its_options():
    for name, model in models.MODELS.items():
        module = published.LAYOUTS[model.layout]
        accepted = module.config.__code__.co_varnames[: module.config.__code__.co_argcount]
        assert set(model.options) <= set(accepted), name
        assert model.where.startswith("https://")
        assert model.file in models.line(name, "to.safetensors")


def test_levels_of_the_schedules():
    """The linear schedule is that of DDPM; the cosine one is f(t) / f(0) with betas of at most 0.999."""
    linear = unet.alphas("linear")
    assert linear[0] == pytest.approx(1 - 1e-4)
    assert linear[-1] == pytest.approx(4.0358e-5, rel=1e-3)
    cosine = unet.alphas("cosine")
    where = torch.arange(1, 1000, dtype=torch.float64) / 1000
    want = ((where + 0.008) / 1.008 * math.pi / 2).cos() ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert torch.allclose(cosine[:-1], want, rtol=1e-9)
    assert (cosine.diff() < 0).all()
