"""The demonstrations on a tiny FLUX.2: what they promise of cost and descent, and their costs by hand."""

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from flowhelm.bench.pipelines import mpc_flux2


@pytest.mark.parametrize("task", ["colour", "superres"])
def test_the_objective_falls_at_every_step_and_the_network_is_never_differentiated(task):
    flow, picture, _ = mpc_flux2._tiny(task)
    told = []
    image, tally = mpc_flux2.run(flow, task, picture, steps=4, say=told.append)
    assert image.shape == (1, 3, 64, 64)
    assert [each.step for each in told] == [1, 2, 3, 4]
    assert all(each.after < each.before for each in told)
    assert (tally.rows, tally.backward_rows) == (4, 0)
    assert tally.decoder == 4 * (mpc_flux2.ITERATIONS + 2)


def test_costs_are_those_of_pictures_from_0_to_1():
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 3 - 1.5
    shown = image.clamp(-1, 1) / 2 + 0.5
    grey = 0.299 * shown[:, :1] + 0.587 * shown[:, 1:2] + 0.114 * shown[:, 2:]
    torch.testing.assert_close(mpc_flux2.luminance(torch.zeros(1, 1, 16, 16))(image), -grey.square().mean((1, 2, 3)))
    small = torch.nn.functional.interpolate(shown, (4, 4), mode="bicubic", align_corners=False)
    torch.testing.assert_close(mpc_flux2.reduced(torch.ones(1, 3, 4, 4))(image), -(small - 1).square().mean((1, 2, 3)))
