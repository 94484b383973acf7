"""flowhelm.load: any prior by one name; and one sentence for whatever is wrong with a pipeline."""

import importlib
import json
import shutil
import sys

import pytest
import torch

import flowhelm
from flowhelm import Noise, priors
from flowhelm.bench.pipelines import tiny
from flowhelm.priors import pipelines

place = sys.modules["flowhelm.priors.pipelines.load"]  # the function of that name hides it
errors = pytest.importorskip("huggingface_hub.errors")
httpx = importlib.import_module(errors.HTTPError.__module__.partition(".")[0])  # whose name depends on its version

HALF = torch.tensor(0.5, dtype=torch.float64)


def saved(name, folder):
    torch.manual_seed(0)
    tiny.CASES[name][0]().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    return saved("sd3", tmp_path_factory.mktemp("sd3"))


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return saved("sd", tmp_path_factory.mktemp("sd"))


@pytest.fixture
def copy(sd, tmp_path):
    return shutil.copytree(sd, tmp_path / "copy")


def velocity(flow, prompt="a cat"):
    bound = flow.bind([prompt], scale=3.0)
    return bound.velocity(bound.source(Noise(0, 1)), HALF)


# --- what it takes ---


def test_the_one_way_to_all_priors(sd3, monkeypatch):
    assert flowhelm.load is priors.load
    assert type(flowhelm.load("fashion")).__name__ == "Prior"
    weights = priors.bundled.weights("fashion")
    assert flowhelm.load(weights).shape == (1, 32, 32)
    pipe = tiny.sd()
    flow = flowhelm.load(pipe, size=(32, 48))
    assert flow.pipe is pipe
    assert flow.shape == (4, 16, 24)
    assert flowhelm.load(str(sd3)).size == (64, 64)
    monkeypatch.chdir(sd3.parent)
    assert flowhelm.load(sd3.name).name == "StableDiffusion3Pipeline"


def test_dtypes(sd):
    assert flowhelm.load(sd).net.dtype == torch.float32
    flow = flowhelm.load(sd, dtype=torch.bfloat16)
    assert flow.net.dtype == flow.pipe.vae.dtype == torch.bfloat16
    v = velocity(flow)
    assert v.dtype == torch.float32
    exact = velocity(flowhelm.load(sd))
    assert float((v - exact).norm() / exact.norm()) < 0.05
    half = flowhelm.load(sd, dtype=torch.float16)
    assert half.pipe.vae.dtype == torch.float32  # its configuration says that it overflows
    assert half.net.dtype == torch.float16


@pytest.mark.parametrize("how", ["torchao-int8", "quanto-int8"])
def test_quantized_networks_keep_their_gradient(sd3, how):
    package = place.QUANTIZERS[how]
    pytest.importorskip(package)
    exact, flow = flowhelm.load(sd3, size=(32, 32)), flowhelm.load(sd3, size=(32, 32), quantize=how)
    slopes = []
    for each in (exact, flow):
        bound = each.bind(["a cat"], scale=3.0)
        x = bound.source(Noise(0, 1)).requires_grad_()
        slopes.append(torch.autograd.grad(bound.velocity(x, HALF).square().sum(), x)[0].flatten())
    assert type(flow.net.transformer_blocks[0].attn.to_q.weight) is not torch.nn.Parameter
    assert not torch.equal(*slopes)
    assert torch.nn.functional.cosine_similarity(*slopes, dim=0) > 0.99


def test_a_second_network_for_guidance_is_treated_as_the_first(tmp_path):
    """As its plan counts it."""
    pytest.importorskip("torchao")
    flow = flowhelm.load(saved("ideogram4", tmp_path), size=(32, 32), quantize="torchao-int8", checkpointing=True)
    assert len(flow.nets) == 2
    for net in flow.nets:
        assert net.is_gradient_checkpointing
        assert type(net.layers[0].attention.to_q.weight) is not torch.nn.Parameter


def test_checkpointing_changes_no_gradient(sd3):
    slopes = []
    for on in (False, True):
        flow = flowhelm.load(sd3, size=(32, 32), checkpointing=on)
        assert flow.net.is_gradient_checkpointing is flow.pipe.vae.is_gradient_checkpointing is on
        bound = flow.bind(["a cat"], scale=3.0)
        x = bound.source(Noise(0, 1)).requires_grad_()
        slopes.append(torch.autograd.grad(bound.decode(bound.ends(x, HALF).clean).square().sum(), x)[0])
    torch.testing.assert_close(*slopes)


def test_tiling_is_off_unless_asked_for(sd3):
    assert not flowhelm.load(sd3).pipe.vae.use_tiling
    flow = flowhelm.load(sd3, size=(64, 64), tiling=True)
    assert flow.pipe.vae.use_tiling
    flow.pipe.vae.tile_sample_min_size, flow.pipe.vae.tile_latent_min_size = 16, 8
    z = flow.source(Noise(0, 1))
    assert flow.decode(z).shape == (1, 3, 64, 64)
    assert torch.equal(flow.decode(z), flow.decode(z))


def test_what_is_never_asked_is_not_loaded(copy):
    index = json.loads((copy / "model_index.json").read_text())
    index |= {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
    }
    (copy / "model_index.json").write_text(json.dumps(index))
    assert flowhelm.load(copy).pipe.safety_checker is None


# --- what it refuses ---


def refused(*given, **options):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        flowhelm.load(*given, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


def test_no_model(tmp_path, monkeypatch):
    assert "has no model_index.json" in refused(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    assert "model_index.json cannot be read" in refused(tmp_path)
    (tmp_path / "model_index.json").write_text("[]")
    assert "model_index.json cannot be read" in refused(tmp_path)
    assert "expected one of photos" in refused("nonsense")
    assert "is a pickle" in refused(tmp_path / "weights.ckpt")
    assert "got int" in refused(3)


def test_no_family(copy):
    for name in ("KandinskyPipeline", ["mine.py", "MyPipeline"]):
        (copy / "model_index.json").write_text(json.dumps({"_class_name": name}))
        text = refused(copy)
        assert "there is no family for" in text
        assert "write a subclass" in text


@pytest.mark.parametrize(
    ("part", "file", "pickle"),
    [
        ("unet", "diffusion_pytorch_model", "diffusion_pytorch_model.bin"),
        ("text_encoder", "model", "pytorch_model.bin"),
        ("vae", "diffusion_pytorch_model", "vae.ckpt"),
    ],
)
def test_pickles_are_never_read(copy, part, file, pickle):
    (copy / part / f"{file}.safetensors").unlink()
    trap = copy.parent / "sprung"
    (copy / part / pickle).write_bytes(f"cos\nsystem\n(S'touch {trap}'\ntR.".encode())
    text = refused(copy)
    assert f"its {part} are a pickle ({pickle})" in text
    assert not trap.exists()


def test_damaged_weights(copy):
    whole = copy / "unet" / "diffusion_pytorch_model.safetensors"
    whole.write_bytes(whole.read_bytes()[:1000])
    assert "cannot be loaded" in refused(copy)
    whole.unlink()
    assert "no file named" in refused(copy)
    shutil.rmtree(copy / "vae")
    assert "cannot be loaded" in refused(copy)


def test_wrong_options(sd, sd3):
    assert "variant=fp16" in refused(sd, variant="fp16")
    assert "32 x 32 would do" in refused(sd, size=(31, 32))
    assert "(height, width)" in refused(sd, size=(0, 32))
    assert "expected a dtype of float32, bfloat16, float16" in refused(sd, dtype=torch.float64)
    assert "expected nf4, int8, torchao-int8, quanto-int8 or a .gguf file" in refused(sd, quantize="q4")
    assert "'absent.gguf' does not exist" in refused(sd3, quantize="absent.gguf")
    assert "size is for pipelines" in refused("photos", size=(32, 32))
    assert "a loaded pipeline stays as it is" in refused(tiny.sd(), dtype=torch.float16)
    pipe = tiny.sd()
    pipe.unet._supports_gradient_checkpointing = False
    assert "has no gradient checkpointing" in refused(pipe, checkpointing=True)


def test_a_network_from_a_gguf_file(tmp_path):
    """Half-precision weights from a file of their own; the rest from the folder."""
    gguf = pytest.importorskip("gguf")
    folder = saved("flux", tmp_path / "flux")
    exact = flowhelm.load(folder, size=(32, 32))
    writer = gguf.GGUFWriter(tmp_path / "net.gguf", "flux")
    for name, value in exact.net.state_dict().items():
        matrix = value.ndim == 2 and "norm" not in name
        writer.add_tensor(name, (value.half() if matrix else value).numpy())
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    shutil.rmtree(folder / "transformer")
    (folder / "transformer").mkdir()
    (folder / "transformer" / "config.json").write_text(exact.net.to_json_string())
    flow = flowhelm.load(folder, size=(32, 32), quantize=str(tmp_path / "net.gguf"))
    slopes = []
    for each in (exact, flow):
        bound = each.bind(["a cat"])
        x = bound.source(Noise(0, 1)).requires_grad_()
        slopes.append(torch.autograd.grad(bound.velocity(x, HALF).square().sum(), x)[0])
    away = float((slopes[0] - slopes[1]).norm() / slopes[0].norm())
    assert 0 < away < 2e-3


def test_a_gguf_of_another_network(sd3, tmp_path):
    pytest.importorskip("gguf")
    (tmp_path / "other.gguf").write_bytes(b"GGUFnonsense")
    assert "does not fit" in refused(sd3, quantize=str(tmp_path / "other.gguf"))


@pytest.mark.parametrize("how", ["nf4", "int8"])
def test_bitsandbytes(sd, how, monkeypatch):
    monkeypatch.setattr(place, "find_spec", lambda name: None if name == "bitsandbytes" else object())
    assert "bitsandbytes is not installed; mend it with: pip install 'flowhelm[quant]'" in refused(sd, quantize=how)
    monkeypatch.setattr(place, "find_spec", lambda name: object())
    assert "needs a GPU" in refused(sd, quantize=how)


@pytest.mark.parametrize("package", ["diffusers", "transformers"])
def test_packages_that_are_not_there(sd, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    assert f"{package} is not installed; mend it with: pip install 'flowhelm[models]'" in refused(sd)


# --- the hub; nothing is asked of it here ---


def raising(monkeypatch, error):
    import huggingface_hub

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)


def answer(status):
    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/org/name?token=hf_secret"))


def test_what_the_hub_says(monkeypatch):
    for error, words in [
        (errors.GatedRepoError("gated", response=answer(403)), "accept the licence on its page, https://huggingface.co/org/name"),
        (errors.RepositoryNotFoundError("hf_secret", response=answer(401)), "neither a folder here nor a model of the hub"),
        (errors.RemoteEntryNotFoundError("none", response=answer(404)), "is no pipeline of diffusers"),
        (errors.LocalEntryNotFoundError("none"), "the hub cannot be reached"),
        (errors.OfflineModeIsEnabled("off"), "HF_HUB_OFFLINE is set"),
        (httpx.ConnectError("no route"), "the hub cannot be reached"),
        (httpx.ReadTimeout("slow"), "the hub cannot be reached"),
        (errors.HfHubHTTPError("hf_secret", response=answer(500)), "cannot be fetched (HfHubHTTPError)"),
    ]:  # fmt: skip
        raising(monkeypatch, error)
        text = refused("org/name")
        assert words in text
        assert "hf_secret" not in text
    raising(monkeypatch, errors.GatedRepoError("gated", response=answer(403)))
    assert "hf auth login" in refused("org/name")


def test_offline_and_not_in_the_cache(tmp_path, monkeypatch):
    """The real thing, with the hub switched off."""
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    assert "is no folder here and not in the cache" in refused("org/name")


def test_a_hub_name_in_the_cache(sd, tmp_path, monkeypatch):
    """What the hub would fetch is the folder that it lies in; its family is asked before anything large is."""
    import diffusers
    import huggingface_hub

    fetched = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda model, name, **_: str(sd / name))

    def download(model, **options):
        fetched.append((model, options))
        return str(sd)

    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", download)
    flow = flowhelm.load("org/name", size=(32, 32))
    assert flow.name == "StableDiffusionPipeline"
    ((model, options),) = fetched
    assert model == "org/name"
    assert options["use_safetensors"] is True
    assert options["safety_checker"] is None  # not fetched
    (tmp_path / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda model, name, **_: str(tmp_path / name))
    assert "no family for KandinskyPipeline" in refused("org/name")
    assert len(fetched) == 1

    def only_pickles(*_, **__):
        raise OSError("Could not find the necessary `safetensors` weights in {...} (variant=None)")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda model, name, **_: str(sd / name))
    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", only_pickles)
    assert "no safetensors weights on the hub, only pickles" in refused("org/name")


def test_what_names_a_pipeline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "file").touch()
    assert pipelines.named("stabilityai/sdxl-turbo-1.0")
    assert pipelines.named("runs")
    assert pipelines.named(tmp_path)
    for other in (
        "photos", "runs/file", "a/b.safetensors", "a/b.ckpt", "a/b.py", "a/b/c", "../b", "a.py:f", "mod/a:f", 3,
    ):  # fmt: skip
        assert not pipelines.named(other), other
