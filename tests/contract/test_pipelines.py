"""Every method on pipelines: through packing, guidance and a decoder that is no toy of ours.

pytest tests/contract/test_pipelines.py -m "slow or not slow"      every method with all its options on every family
"""

from functools import partial

import pytest
import torch
from every import METHODS

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from flowhelm import Linear, Measurement, Noise, cards, restore, run, steer
from flowhelm.bench.pipelines import tiny
from flowhelm.guide import counted
from flowhelm.priors.pipelines import wrap

STEPS, SIZE, ROWS = 2, (16, 16), 2
EVERYWHERE = ("mpc_flow", "mpc_flow_dt renoised", "dps", "pnp_flow draws=3", "tds")
"""A plan, a gradient through the network, a start from the picture, several draws and particles: by default on each family."""
ONCE = {getattr(method, "func", method): name for name, method in reversed(METHODS.items())}.values()
"""Every method by default on one family, with the first of its options: test_contract.py has all of them behind a decoder."""
CASES = [
    pytest.param(
        family, name, marks=() if (family == "sd3" and name in ONCE) or name in EVERYWHERE else pytest.mark.slow
    )
    for family in ("sd3", "flux2", "flux")
    for name, method in METHODS.items()
    if not cards.pixels_only(getattr(method, "func", method))
]


@pytest.fixture(scope="module")
def pipelines():
    """Of each family, told a prompt for each row."""
    made = {}
    for family in ("sd3", "flux2", "flux"):
        torch.manual_seed(0)
        build, told = tiny.CASES[family]
        prompt = told["prompt"]
        rows = [prompt, "dog"] if isinstance(prompt, str) else tiny.embeddings(48, rows=ROWS)
        made[family] = wrap(build(), size=SIZE).bind(rows, scale=told.get("scale"))
    return made


@pytest.fixture(scope="module")
def halved():
    operator = Linear(lambda image: torch.nn.functional.avg_pool2d(image, 2), (3, *SIZE))
    generator = torch.Generator().manual_seed(2)
    return Measurement(0.5 * torch.randn(ROWS, 3, 8, 8, generator=generator), operator, 0.2)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_method_runs_and_a_row_does_not_see_its_neighbours(pipelines, halved, family, name):
    pipeline, method = pipelines[family], METHODS[name]
    if getattr(method, "func", None) is steer.d_flow:
        method = partial(method, iterations=1)  # quasi-Newton iterations magnify rounding
    if getattr(method, "func", None) in (restore.flow_priors, restore.sitcom):
        method = partial(method, inner=2)
    if getattr(method, "keywords", {}).get("probe") == "exact":
        method = partial(method, probe="jvp")  # a second derivative for each of 192 measured values
    times, noise = pipeline.times(STEPS), Noise(0, ROWS)
    flow, x = counted(pipeline), pipeline.source(Noise(1, ROWS))
    done = list(method(flow, halved, x.clone().requires_grad_(), times, noise=noise))
    assert [step.index for step in done] == list(range(1, len(done) + 1))
    for step in done:
        assert step.x.isfinite().all()
        assert step.clean.isfinite().all()
        assert not any(value.requires_grad for value in (step.x, step.clean, *step.info.values()))
    assert flow.count.rows > 0
    assert pipeline.decode(done[-1].x).shape == (ROWS, 3, *SIZE)
    alone = Measurement(halved.y[1:], halved.operator, halved.std)
    row = run(method(pipeline.rows(torch.tensor([1]), ROWS), alone, x[1:], times, noise=Noise(0, [1])))
    torch.testing.assert_close(row.x, done[-1].x[1:], atol=2e-3, rtol=1e-3)
