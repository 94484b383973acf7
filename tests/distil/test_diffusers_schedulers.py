"""Students draw the same under the schedulers of diffusers: maps, maps to the end with fresh noise, and chords."""

import torch
from diffusers import FlowMapEulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler
from diffusers.schedulers import scheduling_flow_match_lcm as lcm
from maps import Exact, samples
from toys import double

from flowhelm import Noise, run, sample

LEVELS = [1.0, 0.7, 0.25]  # sigma = 1 - t
STUDENT = Exact()
STUDENT.net.off.data.fill_(0.3)  # no exact map, so that no two ways of drawing agree by chance


def times() -> torch.Tensor:
    return double([0.0, 0.3, 0.75, 1.0])


def drawn_by(scheduler, average):
    """diffusers' loop: its velocity is ours with the other sign, since its time goes to the noise."""
    scheduler.set_timesteps(sigmas=LEVELS)
    x = samples(6, seed=3)
    for sigma, after, timestep in zip(scheduler.sigmas[:-1], scheduler.sigmas[1:], scheduler.timesteps, strict=True):
        said = -average(x, 1 - sigma.double(), 1 - after.double())
        x = scheduler.step(said, timestep, x, return_dict=False)[0]
    return x


def test_a_map_of_two_times():
    found = drawn_by(FlowMapEulerDiscreteScheduler(), STUDENT.average)
    wanted = run(sample.jumps(STUDENT, samples(6, seed=3), times())).x
    assert torch.allclose(found, wanted, atol=1e-6)


def test_a_velocity_of_a_student_of_chords():
    found = drawn_by(FlowMatchEulerDiscreteScheduler(), lambda x, s, t: STUDENT.average(x, s, s))
    x = samples(6, seed=3)
    for s, t in zip(times()[:-1], times()[1:], strict=True):
        x = x + (t - s) * STUDENT.velocity(x, s)
    assert torch.allclose(found, x, atol=1e-6)


def test_maps_to_the_end_with_fresh_noise(monkeypatch):
    """`jumps(fresh=100)`, which draws with students of MDT-dist and of consistency distillation, is the step of FlowMatchLCMScheduler."""
    noise = Noise(4, 6)
    monkeypatch.setattr(lcm, "randn_tensor", lambda shape, **_: noise(torch.empty(shape, dtype=torch.float64)))
    found = drawn_by(FlowMatchLCMScheduler(), lambda x, s, t: STUDENT.average(x, s, torch.ones_like(s)))
    wanted = run(sample.jumps(STUDENT, samples(6, seed=3), times(), fresh=100.0, noise=Noise(4, 6))).x
    assert torch.allclose(found, wanted, atol=1e-6)
