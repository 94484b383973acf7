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

import flowhelm
from flowhelm import operators
from flowhelm.app.options.signature import bind, options, shown
from flowhelm.app.restore.request import PictureRequest
from flowhelm.cards import METHODS

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
    net = UNet((8, 8), 1)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.1)
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
    assert len(pack.NODE_CLASS_MAPPINGS) == 3 + len(operators.ALL) + len(METHODS)
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
        assert set(every_input(node)) == set(known)
        (chosen,) = getattr(node(), node.FUNCTION)(**defaults(node))
        assert chosen.name == node.function.__name__
        needed = {name: "file" for name, option in known.items() if option.needed}
        typed = bind(node.function, {**needed, **chosen.options})
        for name, option in known.items():
            if not option.needed:  # what the widgets say by themselves is what the signature says
                assert shown(typed[name]) == option.default, (chosen.name, name)
        assert node.VALIDATE_INPUTS(**defaults(node)) is True or needed


def test_wrong_inputs_are_told_before_anything_runs(pack):
    nodes = pack.NODE_CLASS_MAPPINGS
    assert "expected a whole number" in nodes["FlowhelmMethodMpcFlow"].VALIDATE_INPUTS(horizon="many")
    assert nodes["FlowhelmMethodMpcFlow"].VALIDATE_INPUTS(horizon="none", inner="adam:iterations=5") is True
    assert "did you mean adam" in nodes["FlowhelmMethodMpcFlow"].VALIDATE_INPUTS(inner="adamm")
    assert nodes["FlowhelmOperatorInpaint"].VALIDATE_INPUTS(mask=None) is True  # linked: not known yet
    assert nodes["FlowhelmOperatorInpaint"].INPUT_TYPES()["required"]["mask"][0] == "MASK"


def test_ranges_and_helps_are_those_of_the_requests(pack):
    nodes = pack.NODE_CLASS_MAPPINGS
    for node in nodes.values():
        if hasattr(node, "function"):
            for name, option in options(node.function).items():
                assert every_input(node)[name][1]["tooltip"] == " ".join(option.help.split())
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
    assert "inpaint by dps: misfit" in report
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
    expected = flowhelm.generate("fashion", classes=["coat"], count=2, steps=2)
    assert torch.equal(drawn[..., :1], ((expected + 1) / 2).clamp(0, 1).movedim(1, -1))


def test_progress_and_cancel_are_the_hosts(pack, prior_file, image, monkeypatch):
    """With modules that stand for ComfyUI's."""
    told, state = [], {"asked": False}

    class Cancelled(Exception):
        pass

    class Bar:
        def __init__(self, total):
            pass

        def update_absolute(self, value, total=None, preview=None):
            told.append((value, total))

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
