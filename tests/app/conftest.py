"""A prior that costs nothing, as a file."""

import json

import pytest
import torch
from safetensors.torch import save_file

from flowhelm.priors.unet import UNet


@pytest.fixture(scope="session")
def prior(tmp_path_factory) -> str:
    torch.manual_seed(0)
    net = UNet((8, 8), 1)
    for weight in net.parameters():  # some start at zero, and a network of zeros would hide mistakes
        torch.nn.init.normal_(weight, std=0.1)
    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    save_file(net.state_dict(), path, {"config": json.dumps(net.config)})
    return str(path)
