"""Diffusions by name, with options of their own."""

import pytest
import torch

from flowhelm import transition
from flowhelm.app.errors import BadInput
from flowhelm.app.options.signature import bind, plain
from flowhelm.steer import rbf


def test_diffusions_by_name_with_options_of_their_own():
    words = "langevin:diffusion=falling:level=4.5,power=4"
    assert plain(rbf, {"transition": words})["transition"] == words
    t = torch.tensor([0.0, 0.3, 0.9], dtype=torch.float64)
    for text, expected in (
        (words, 4.5 * (1 - t) ** 4),
        ("langevin:diffusion=constant,eta=0.5", torch.ones_like(t)),
        ("langevin:diffusion=hill:level=2", 2 * torch.sin(torch.pi * t) ** 2),
    ):
        chosen = bind(rbf, {"transition": text})["transition"]
        assert chosen.func is transition.langevin
        torch.testing.assert_close(chosen.keywords["diffusion"](t), expected)
    for wrong, said in (("falling:levl=1", "did you mean level"), ("fallin", "did you mean falling")):
        with pytest.raises(BadInput, match=said):
            bind(rbf, {"transition": f"langevin:diffusion={wrong}"})
