"""An option that is added to a method is in `--help`, the schema, OpenAPI, the page and ComfyUI, without another line of code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
METHOD = '''
"""SHINY: a method that glitters. Nobody 2026.

Needs   any prior
Cost    nothing
"""

from typing import Annotated

from annotated_types import Ge, Le


def shiny(flow, y, x, times, *, sparkle: Annotated[float, Ge(0.25), Le(3)] = 0.5, noise=None):
    """
    Args:
        sparkle: how much it glitters (stars)
    """
    yield
'''
PROGRAM = """
import contextlib, importlib.util, io, json, sys

from flowhelm.interfaces.cli import main
from flowhelm.restore import shiny

def printed(*words):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(words) == 0
    return said.getvalue()

found = {"help": printed("methods", "shiny"), "schema": json.loads(printed("batch", "--schema"))}

from flowhelm.app.models.request import ModelRequest
from flowhelm.interfaces.http.app import application
found["openapi"] = application(None, ModelRequest()).openapi()

import gradio
from flowhelm.interfaces.ui import fields
with gradio.Blocks():
    found["page"] = fields.options_of(shiny, {}, {})["sparkle"].get_config()

spec = importlib.util.spec_from_file_location("nodes", sys.argv[1], submodule_search_locations=[])
pack = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
inputs = [node.INPUT_TYPES() for node in pack.NODE_CLASS_MAPPINGS.values()]
(found["node"],) = [kinds[part]["sparkle"] for kinds in inputs for part in kinds if "sparkle" in kinds[part]]
print(json.dumps(found, default=str))
"""


def inner(tree: Any, name: str) -> list[Any]:
    """Whatever stands under a name in a tree."""
    own = [tree[name]] if isinstance(tree, dict) and name in tree else []
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return own + [each for part in parts for each in inner(part, name)]


def test_a_new_option_is_everywhere(tmp_path):
    pytest.importorskip("gradio")
    pytest.importorskip("fastapi")
    shutil.copytree(ROOT / "src" / "flowhelm", tmp_path / "flowhelm")
    methods = tmp_path / "flowhelm" / "restore"
    (methods / "shiny.py").write_text(METHOD)
    listed = (methods / "__init__.py").read_text()
    added = listed.replace("\nALL = (\n", "from .shiny import shiny\n\nALL = (\n    shiny,\n")
    assert added != listed
    (methods / "__init__.py").write_text(added)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    nodes = ROOT / "integrations" / "comfyui" / "nodes.py"
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(nodes)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    text = "how much it glitters (stars)"
    line = found["help"][found["help"].index("--sparkle") :]
    assert text in line
    assert "at least 0.25" in line
    (option,) = inner(found["schema"], "sparkle")
    assert (option["minimum"], option["maximum"], option["default"]) == (0.25, 3, 0.5)
    assert text in option["description"]
    (option,) = inner(found["openapi"], "sparkle")
    assert option["anyOf"] == [{"type": "number", "minimum": 0.25, "maximum": 3}]
    assert text in option["description"]
    assert text in found["page"]["info"]
    assert "at least 0.25" in found["page"]["info"]
    kind, said = found["node"]
    assert kind == "FLOAT"
    assert (said["min"], said["max"], said["default"]) == (0.25, 3, 0.5)
    assert text in said["tooltip"]
