"""A pipeline's student of two steps: an adapter that straightens its chords, with which diffusers draws under its own scheduler."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from flowhelm import Noise, distil, integrate, priors, rollout, run
from flowhelm.bench.pipelines import tiny
from flowhelm.learning import empty
from flowhelm.priors import adapters
from flowhelm.train import fit

STEPS, FINE = 2, 4


def test_diffusers_draws_with_the_student(tmp_path):
    """Straightening nears two steps without guidance to many of the guided pipeline; from its file, diffusers draws the same latents."""
    torch.manual_seed(0)
    base = priors.load(tiny.sd3(), size=(32, 64))
    with torch.no_grad():
        for weight in base.net.parameters():
            weight.mul_(2)  # a tiny network of random weights hardly bends its paths
    teacher, alone = base.bind(["cat"], scale=3.0), base.bind(["cat"], scale=1.0)
    times, student = base.times(STEPS), base.with_lora(8)

    def loss(flow, batch, generator):
        return distil.straighten(
            flow.bind(["cat"], scale=1.0), batch, generator, teacher=teacher, times=times, fine=FINE
        )

    for _ in fit(student, loss, empty(2), steps=20, rate=2e-2, warmup=3, weight_decay=0.0):
        pass
    student, x = student.bind(["cat"], scale=1.0), base.source(Noise(7, 1))

    @torch.no_grad()
    def drawn(flow):
        return run(integrate(flow, x, times)).x

    with torch.no_grad():
        k = torch.arange(FINE, dtype=torch.float64) / FINE
        fine = torch.cat([(times[:-1, None] + k * times.diff()[:, None]).flatten(), times[-1:]])
        wanted = rollout(teacher, x, fine)
    before, after = ((drawn(flow) - wanted).square().mean() for flow in (alone, student))
    assert after < before / 2
    adapters.save(student, tmp_path / "pytorch_lora_weights.safetensors", {"method": "straighten"})
    pipe = base.pipe
    pipe.load_lora_weights(str(tmp_path))
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
    latents = pipe(**alone.arguments("cat", None, 1.0), latents=base.native(x), num_inference_steps=STEPS, height=32, width=64,
                   output_type="latent").images  # fmt: skip
    assert torch.allclose(base.returned(latents), drawn(student), atol=1e-5 * float(wanted.abs().max()))
