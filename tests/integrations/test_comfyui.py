"""The nodes for ComfyUI, without ComfyUI: its contract, and a graph that is executed by hand as it would be."""

import importlib.util
import inspect
import os
import sys
import tomllib
import types
from pathlib import Path

import pytest
import torch
from toys import randomised

import flowhelm
from flowhelm import operators
from flowhelm.app.options.signature import bind, options, shown
from flowhelm.app.restore.request import PictureRequest
from flowhelm.cards import RESTORE_OR_STEER

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"


@pytest.fixture(scope="module")
def pack():
    """Loaded as ComfyUI loads a folder of custom_nodes: by its path, under a name of its own."""
    spec = importlib.util.spec_from_file_location("custom_nodes_flowhelm", FOLDER / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    for name in [name for name in sys.modules if name.startswith(spec.name)]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def prior_file(tmp_path_factory) -> str:
    from flowhelm.priors import bundled
    from flowhelm.priors.unet import UNet

    torch.manual_seed(0)
    net = randomised(UNet((8, 8), 1))
    bundled.save(net, path := tmp_path_factory.mktemp("prior") / "tiny.safetensors", {})
    return str(path)


@pytest.fixture
def image():
    y, x = torch.meshgrid(torch.linspace(0, 1, 16), torch.linspace(0, 1, 20), indexing="ij")
    return torch.stack([torch.stack([x, y, x * y], -1), torch.stack([y, x, x], -1)])


SOCKETS = {"IMAGE", "MASK", "FLOWHELM_PRIOR", "FLOWHELM_OPERATOR", "FLOWHELM_METHOD"}


def every_input(node):
    kinds = node.INPUT_TYPES()
    return {**kinds["required"], **kinds.get("optional", {})}


def defaults(node):
    """What ComfyUI hands over when nothing was touched."""
    found = {}
    for name, (kind, *about) in every_input(node).items():
        if isinstance(kind, list):
            found[name] = about[0].get("default", kind[0]) if about else kind[0]
        elif kind not in SOCKETS:
            found[name] = about[0]["default"]
    return found


def test_there_is_a_node_for_everything(pack):
    assert len(pack.NODE_CLASS_MAPPINGS) == 3 + len(operators.ALL) + len(RESTORE_OR_STEER)
    assert set(pack.NODE_CLASS_MAPPINGS) == set(pack.NODE_DISPLAY_NAME_MAPPINGS)
    assert len(set(pack.NODE_DISPLAY_NAME_MAPPINGS.values())) == len(pack.NODE_CLASS_MAPPINGS)
    assert all(name.startswith("Flowhelm") for name in pack.NODE_CLASS_MAPPINGS)  # names are shared by all packs


def test_every_node_keeps_the_contract(pack):
    for name, node in pack.NODE_CLASS_MAPPINGS.items():
        kinds = node.INPUT_TYPES()
        assert inspect.ismethod(node.INPUT_TYPES), name
        assert "required" in kinds
        assert set(kinds) <= {"required", "optional", "hidden"}
        assert isinstance(node.RETURN_TYPES, tuple)
        assert len(node.RETURN_NAMES) == len(node.RETURN_TYPES)
        assert all(isinstance(kind, str) for kind in node.RETURN_TYPES)
        assert node.CATEGORY.split("/")[0] == "flowhelm"
        assert node.DESCRIPTION
        for key, (kind, *about) in every_input(node).items():
            assert key.isidentifier()
            assert isinstance(kind, list) or kind in SOCKETS | {"INT", "FLOAT", "STRING", "BOOLEAN"}
            if kind in ("INT", "FLOAT", "STRING", "BOOLEAN"):
                default = about[0]["default"]
                assert type(default) is {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}[kind], (name, key)
                if kind in ("INT", "FLOAT"):
                    assert about[0]["min"] <= default <= about[0]["max"]
            if isinstance(kind, list):
                assert defaults(node)[key] in kind
        # the function takes every required input by name, and works without the optional ones
        function = getattr(node, node.FUNCTION)
        inspect.signature(function).bind(node(), **dict.fromkeys(kinds["required"]))
        inspect.signature(function).bind(node(), **dict.fromkeys(every_input(node)))
        if hasattr(node, "VALIDATE_INPUTS"):
            assert inspect.ismethod(node.VALIDATE_INPUTS)


@pytest.mark.parametrize("part", ["Operator", "Method"])
def test_choices_are_the_functions_options(pack, part):
    for node in pack.NODE_CLASS_MAPPINGS.values():
        if not node.RETURN_TYPES[0].endswith(part.upper()):
            continue
        known = options(node.function)
        files = {f"{name}_file" for name in ("kernel",) if name in known}
        assert set(every_input(node)) - files - {"preset"} == set(known)
        needed = {name: "file" for name, option in known.items() if option.needed}
        (chosen,) = getattr(node(), node.FUNCTION)(**{**defaults(node), **needed, "preset": False})
        assert chosen.name == node.function.__name__
        typed = bind(node.function, chosen.options)
        for name, option in known.items():
            if not option.needed:  # what the widgets say by themselves is what the signature says
                assert shown(typed[name]) == option.default, (chosen.name, name)
        if part == "Method":  # and as a node begins, it leaves all to the preset
            assert getattr(node(), node.FUNCTION)(**defaults(node))[0].options == {}


def test_wrong_inputs_are_told_once(pack):
    """By the node itself: ComfyUI says what VALIDATE_INPUTS returns once for each input."""
    nodes = pack.NODE_CLASS_MAPPINGS
    assert not any(hasattr(node, "VALIDATE_INPUTS") for node in nodes.values())
    choose = nodes["FlowhelmMethodMpcFlow"]().choose
    for given, said in (({"horizon": "many"}, "expected a whole number"), ({"inner": "adamm"}, "did you mean adam")):
        with pytest.raises(ValueError, match=said):
            choose(**given)
    assert choose(horizon="none", inner="adam:iterations=5")[0].options == {
        "horizon": "none",
        "inner": "adam:iterations=5",
    }
    assert nodes["FlowhelmOperatorInpaint"].INPUT_TYPES()["required"]["mask"][0] == "MASK"
    with pytest.raises(ValueError, match="motion needs kernel: connect a picture"):
        nodes["FlowhelmOperatorMotion"]().choose(border="open", kernel_file=" ")


@torch.inference_mode()
def test_a_method_begins_with_the_preset_of_the_operator(pack, prior_file, image):
    nodes = pack.NODE_CLASS_MAPPINGS
    (prior,) = nodes["FlowhelmPrior"]().load("photos", "cpu", other=prior_file)
    (operator,) = nodes["FlowhelmOperatorDeblur"]().choose(sigma=1.2, border="open")
    given = {"image": image[:1], "prior": prior, "operator": operator, "std": 0.05, "steps": 3, "seed": 4}
    restore, node = nodes["FlowhelmRestore"]().restore, nodes["FlowhelmMethodMpcFlow"]
    usual = nodes["FlowhelmMethodHqs"]
    assert torch.equal(restore(**given, method=usual().choose(**defaults(usual))[0])[0], restore(**given)[0])
    method = node().choose(**defaults(node))[0]
    without, _ = restore(**given, method=method)
    paper = node().choose(**{**defaults(node), "preset": False})[0]
    assert not torch.equal(restore(**given, method=paper)[0], without)
    mine = node().choose(**{**defaults(node), "renoise": 0.5})[0]  # what was set is set
    assert mine.options == {"renoise": 0.5}


@torch.inference_mode()
def test_a_kernel_may_be_a_picture(pack, prior_file, image, tmp_path):
    import numpy as np

    nodes = pack.NODE_CLASS_MAPPINGS
    (prior,) = nodes["FlowhelmPrior"]().load("photos", "cpu", other=prior_file)
    kernel = torch.zeros(1, 3, 3, 3)
    kernel[0, 1] = torch.tensor([0.25, 0.5, 0.25])[:, None]
    np.save(tmp_path / "k.npy", kernel[0, ..., 0].numpy())
    made = []
    for given in ({"kernel": kernel, "kernel_file": ""}, {"kernel_file": str(tmp_path / "k.npy")}):
        (operator,) = nodes["FlowhelmOperatorMotion"]().choose(border="circular", **given)
        made.append(nodes["FlowhelmRestore"]().restore(image, prior, operator, std=0.1, steps=2, seed=0)[0])
    assert torch.equal(*made)
    for wrong in (kernel * 0, kernel * float("nan")):
        (operator,) = nodes["FlowhelmOperatorMotion"]().choose(border="circular", kernel=wrong)
        with pytest.raises(ValueError, match="with a positive sum"):
            nodes["FlowhelmRestore"]().restore(image, prior, operator, std=0.1, steps=2, seed=0)


@pytest.mark.parametrize("mask", [torch.zeros(1, 16, 20), torch.zeros(64, 64), torch.full((1, 16, 20), 0.2)])
def test_an_unpainted_mask_is_said(pack, prior_file, image, mask):
    """Also the one of 64 x 64 that ComfyUI hands over for a picture without one."""
    nodes = pack.NODE_CLASS_MAPPINGS
    (prior,) = nodes["FlowhelmPrior"]().load("photos", "cpu", other=prior_file)
    (operator,) = nodes["FlowhelmOperatorInpaint"]().choose(mask=mask)
    with pytest.raises(ValueError, match="nothing is painted in the mask"):
        nodes["FlowhelmRestore"]().restore(image, prior, operator, std=0.1, steps=2, seed=0)
    assert "painted) where something is missing" in every_input(nodes["FlowhelmOperatorInpaint"])["mask"][1]["tooltip"]


def test_ranges_and_helps_are_those_of_the_requests(pack):
    nodes = pack.NODE_CLASS_MAPPINGS
    for node in nodes.values():
        if hasattr(node, "function"):
            for name, option in options(node.function).items():
                kind, about = every_input(node)[name]
                assert kind in ("MASK", "IMAGE") or about["tooltip"] == " ".join(option.help.split())
                if kind in ("INT", "FLOAT"):
                    assert -1e6 <= about["min"] < about["max"] <= 1e6
    inputs = every_input(nodes["FlowhelmRestore"])
    assert set(inputs) - {"image", "prior"} == set(PictureRequest.model_fields) - {"operator_options", "method_options"}
    assert inputs["steps"][1]["max"] == 100_000
    assert (
        every_input(nodes["FlowhelmOperatorSuperres"])["factor"][1]["tooltip"]
        == options(operators.superres)["factor"].help
    )
    fig = every_input(nodes["FlowhelmMethodFig"])
    assert (fig["inner"][1]["min"], fig["mix"][1]["min"], fig["mix"][1]["max"], fig["rate"][1]["min"]) == (1, 0, 1, 0)


@torch.inference_mode()  # as ComfyUI executes every node
def test_a_graph(pack, prior_file, image):
    nodes = pack.NODE_CLASS_MAPPINGS
    run = lambda name, **given: getattr(nodes[name](), nodes[name].FUNCTION)(**{**defaults(nodes[name]), **given})  # noqa: E731
    (prior,) = run("FlowhelmPrior", other=prior_file)
    mask = torch.zeros(1, 16, 20)
    mask[:, 4:8, 6:12] = 1.0
    (operator,) = run("FlowhelmOperatorInpaint", mask=mask)
    (method,) = run("FlowhelmMethodDps")  # asks for gradients of the network
    given = {"image": image, "prior": prior, "operator": operator, "std": 0.05, "steps": 3, "seed": 4}
    restored, report = run("FlowhelmRestore", **given, method=method, keep=True)
    assert restored.shape == image.shape
    assert restored.dtype == torch.float32
    assert 0 <= restored.min() <= restored.max() <= 1
    assert report.count("\n") == 1
    assert "inpaint by dps: " in report
    assert " evaluations in " in report
    # known pixels stay what they were, and what was marked does not
    assert torch.allclose(restored * (1 - mask[..., None]), image * (1 - mask[..., None]), atol=1e-5)
    assert not torch.allclose(restored[:, 4:8, 6:12], image[:, 4:8, 6:12], atol=1e-2)
    # and both are what Python gives, each picture as if alone
    for one, out in zip(image, restored, strict=True):
        alone = flowhelm.Restorer(prior_file)(
            one.movedim(-1, 0) * 2 - 1, "inpaint", method="dps", std=0.05, steps=3, seed=4, keep=True,
            operator_options={"mask": mask[0] < 0.5},
        )  # fmt: skip
        assert torch.equal(((alone.picture + 1) / 2).clamp(0, 1).movedim(0, -1), out)
    usual, _ = run("FlowhelmRestore", **given | {"operator": run("FlowhelmOperatorBox")[0]}, simulate=True)
    assert usual.shape[-1] == 3
    with pytest.raises(ValueError, match="expected one mask or 2"):
        run("FlowhelmRestore", **given | {"operator": run("FlowhelmOperatorInpaint", mask=mask.repeat(3, 1, 1))[0]})


@torch.inference_mode()
def test_sample(pack):
    nodes = pack.NODE_CLASS_MAPPINGS
    (prior,) = nodes["FlowhelmPrior"]().load("fashion", "cpu")
    (drawn,) = nodes["FlowhelmSample"]().draw(prior, 2, 2, "euler", 0, "coat")
    assert drawn.shape == (2, 32, 32, 3)
    expected = flowhelm.generate("fashion", classes=["coat"], count=2, steps=2, solver="euler")
    assert torch.equal(drawn[..., :1], ((expected + 1) / 2).clamp(0, 1).movedim(1, -1))


@torch.inference_mode()
def test_priors_that_are_no_flows_are_taken_or_refused_in_a_sentence(pack):
    """Restored with by their own methods, whose nodes are there; what does not go together says what to take."""
    nodes, x = pack.NODE_CLASS_MAPPINGS, torch.rand(1, 32, 32, 3)
    made = {name: nodes["FlowhelmPrior"]().load(name, "cpu")[0] for name in ("fashion-tokens", "blind", "codec")}
    (denoise,) = nodes["FlowhelmOperatorDenoise"]().choose()
    of = {"operator": denoise, "std": 0.1, "steps": 2, "seed": 0}
    methods = {
        "fashion-tokens": nodes["FlowhelmMethodAps"]().choose(preset=True, inner=1)[0],
        "blind": None,
        "codec": nodes["FlowhelmMethodVble"]().choose(preset=True, answer="centre")[0],
    }
    for name, method in methods.items():
        restored, report = nodes["FlowhelmRestore"]().restore(x, made[name], method=method, **of)
        assert restored.shape == x.shape, report
    for name, method in (("fashion-tokens", "aps"), ("blind", "pmrf"), ("codec", "vble")):
        (hqs,) = nodes["FlowhelmMethodHqs"]().choose(preset=True)
        with pytest.raises(ValueError, match=f"take the method {method}"):
            nodes["FlowhelmRestore"]().restore(x, made[name], method=hqs, **of)
    assert nodes["FlowhelmSample"]().draw(made["fashion-tokens"], 1, 2, "auto", 0)[0].shape == (1, 32, 32, 3)
    for name in ("blind", "codec"):
        with pytest.raises(ValueError, match=f"{name} is a .*, which only restores"):
            nodes["FlowhelmSample"]().draw(made[name], 1, 2, "auto", 0)


def test_progress_and_cancel_are_the_hosts(pack, prior_file, image, monkeypatch):
    """With modules that stand for ComfyUI's."""
    told, previews, state = [], [], {"asked": False}

    class Cancelled(Exception):
        pass

    class Bar:
        def __init__(self, total):
            pass

        def update_absolute(self, value, total=None, preview=None):
            told.append((value, total))
            previews.append(preview)

    def stop_if_asked():
        if state["asked"]:
            raise Cancelled

    comfy = types.ModuleType("comfy")
    monkeypatch.setitem(sys.modules, "comfy", comfy)
    for name, content in (
        ("utils", {"ProgressBar": Bar}),
        ("model_management", {"throw_exception_if_processing_interrupted": stop_if_asked}),
    ):
        monkeypatch.setitem(sys.modules, f"comfy.{name}", module := types.ModuleType(f"comfy.{name}"))
        module.__dict__.update(content)
    nodes = pack.NODE_CLASS_MAPPINGS
    (prior,) = nodes["FlowhelmPrior"]().load("photos", "cpu", other=prior_file)
    (operator,) = nodes["FlowhelmOperatorDenoise"]().choose()
    restore = nodes["FlowhelmRestore"]().restore
    restore(image, prior, operator, std=0.1, steps=2, seed=0)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]  # two pictures of two steps
    kind, shown, most = previews[0]
    assert (kind, shown.size, shown.mode) == ("JPEG", (20, 16), "RGB")
    assert most >= 256
    assert previews[1] is None  # not with every step
    state["asked"] = True
    with pytest.raises(Cancelled):
        restore(image, prior, operator, std=0.1, steps=2, seed=0)
    state["asked"] = False
    restore(image, prior, operator, std=0.1, steps=1, seed=0)


def test_a_file_that_changes_is_read_anew(pack, prior_file):
    changed = pack.NODE_CLASS_MAPPINGS["FlowhelmPrior"].IS_CHANGED
    before = changed("photos", "cpu", other=prior_file)
    assert before == changed("photos", "cpu", other=prior_file)
    os.utime(prior_file, (1, 1))
    assert before != changed("photos", "cpu", other=prior_file)
    assert changed("photos", "cpu") == "photos"


def test_the_folder_is_whole():
    described = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    assert described["project"]["name"] == "flowhelm-nodes"
    assert described["project"]["version"] == flowhelm.__version__
    assert described["tool"]["comfy"]["PublisherId"]
    assert "Apache License" in (FOLDER / described["project"]["license"]["file"]).read_text()
