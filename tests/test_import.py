"""What an import costs: heavy packages are loaded when they are first needed."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "deepinv", "diffusers", "transformers", "torchvision")


@pytest.mark.parametrize(
    ("module", "unloaded"),
    [("flowhelm", HEAVY), ("flowhelm.steer, flowhelm.restore, flowhelm.operators, flowhelm.metrics", HEAVY[1:])],
)
def test_nothing_heavy_is_loaded(module, unloaded):
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(module.split(", ")) <= set(loaded)
    assert not set(unloaded) & set(loaded)


def test_every_public_name_is_there():
    import flowhelm

    for name in flowhelm.__all__:
        assert getattr(flowhelm, name) is not None
    assert set(flowhelm.__all__) <= set(dir(flowhelm))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = flowhelm.nonsense
