"""What the tests of the application share: priors that cost nothing as files, a photograph, and a refusal in one sentence."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from toys import randomised

from flowhelm.app.restore import run as job
from flowhelm.app.restore.observation import misfit
from flowhelm.interfaces.cli import main
from flowhelm.priors.unet import UNet


@pytest.fixture(scope="session")
def prior(tmp_path_factory) -> str:
    torch.manual_seed(0)
    net = randomised(UNet((8, 8), 1))
    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    save_file(net.state_dict(), path, {"config": json.dumps(net.config)})
    return str(path)


def pipeline(name: str, tmp_path_factory) -> str:
    """A tiny random pipeline of diffusers, saved."""
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from flowhelm.bench.pipelines import tiny

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny") / name
    tiny.CASES[name][0]().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def sd3(tmp_path_factory) -> str:
    return pipeline("sd3", tmp_path_factory)


@pytest.fixture(scope="session")
def sd(tmp_path_factory) -> str:
    return pipeline("sd", tmp_path_factory)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def photo(here) -> Path:
    """32 x 32 pixels of waves."""
    y, x = np.mgrid[0:32, 0:32]
    pixels = np.stack([128 + 100 * np.sin(x / 5), 128 + 90 * np.cos(y / 6), (x * y) % 256], -1)
    Image.fromarray(pixels.astype(np.uint8)).save(here / "photo.png")
    return here / "photo.png"


@pytest.fixture
def stopped_after(monkeypatch) -> Callable[..., None]:
    """A signal in the middle of the bookkeeping of a restoration's step."""

    def at(when: int, number: int = signal.SIGINT) -> None:
        calls = []

        def stops(*given):
            calls.append(1)
            if len(calls) == when:
                os.kill(os.getpid(), number)
            return misfit(*given)

        monkeypatch.setattr(job, "misfit", stops)

    return at


@pytest.fixture
def refusal(capsys) -> Callable[..., str]:
    """What a command says of bad input: one sentence, after which nothing is said any more."""

    def said(*words: str) -> str:
        assert main(list(words)) == 2
        told = capsys.readouterr().err
        (line,) = [each for each in told.splitlines() if not each.startswith("step ")]
        assert line.startswith("flowhelm: ")
        assert told.endswith(f"{line}\n")
        return line

    return said
