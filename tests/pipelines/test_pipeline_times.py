"""Grids of the pipelines."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from families import EACH, bound, flow, pipe, state

from flowhelm.bench.pipelines import tiny
from flowhelm.priors.pipelines.diffusion import Diffusion


@EACH
def test_the_exact_grid_is_the_pipelines_own_shift_once(name, monkeypatch):
    if isinstance(flow(name), Diffusion):
        pytest.skip("its levels are not shifted")
    told, seen = tiny.CASES[name][1], {}

    class Stop(Exception):
        pass

    def note(num_inference_steps=None, device=None, sigmas=None, mu=None, timesteps=None):
        seen["mu"] = mu
        raise Stop

    monkeypatch.setattr(pipe(name).scheduler, "set_timesteps", note)
    given = flow(name).arguments(told["prompt"], told.get("negative"), told.get("scale", 1.0))
    with pytest.raises(Stop):
        pipe(name)(**given, height=told["size"][0], width=told["size"][1], num_inference_steps=5)
    monkeypatch.undo()
    config = pipe(name).scheduler.config
    if config.use_dynamic_shifting:
        factor = seen["mu"] if config.time_shift_type == "linear" else torch.tensor(float(seen["mu"])).double().exp()
    else:
        factor = config.shift
    sigma = torch.linspace(1, 0, 6, dtype=torch.float64)
    mine = replace(flow(name), grid="exact").times(5)
    torch.testing.assert_close(mine, 1 - factor * sigma / (1 + (factor - 1) * sigma), rtol=1e-6, atol=1e-7)


@EACH
@pytest.mark.parametrize("steps", [1, 2, 5, 28])
def test_times_go_up_from_0_to_1(name, steps):
    times = flow(name).times(steps)
    assert times.shape == (steps + 1,)
    assert times.dtype == torch.float64
    assert times[0] == 0
    assert times[-1] == 1
    assert (times.diff() > 0).all()


def test_sd3_is_shifted_twice_by_its_pipeline():
    two = flow("sd3").times(28)
    once = 1 - 3 * (sigma := torch.linspace(1, 0, 29, dtype=torch.float64)) / (1 + 2 * sigma)
    assert abs(float(two[-2] - once[-2])) > 0.05


def test_cogview4_is_told_its_own_clock_between_its_steps(monkeypatch):
    """Off the grid, too, 1000 u with sigma = f u / (1 + (f - 1) u); on it, the whole numbers of its scheduler."""
    mine, x, heard = bound("cogview4"), state("cogview4"), []
    monkeypatch.setattr(mine.net, "forward", lambda **told: heard.append(told["timestep"]) or (told["hidden_states"],))
    scheduler = deepcopy(mine.pipe.scheduler)
    mine._levels(scheduler, 7)
    for t, clock in zip(mine.visited(7)[:-1], scheduler.timesteps, strict=True):
        heard.clear()
        mine.velocity(x, t)
        torch.testing.assert_close(heard[0], clock.expand(1), rtol=0, atol=2e-3)
    factor = mine._mu(1)
    heard.clear()
    mine.velocity(x, torch.tensor(0.3, dtype=torch.float64))
    u = float(heard[0]) / 1000
    assert factor * u / (1 + (factor - 1) * u) == pytest.approx(0.7, abs=1e-6)
