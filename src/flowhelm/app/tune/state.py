"""All that a fine-tuning is in, and its checkpoint: one safetensors file, whole or not at all.

adapter.N, value.NAME      the trained weights, in the optimiser's order; the value network's
average.N, old.N           their moving average; the old policy's
optimizer.N.KEY            of the optimiser
noise                      where the streams stand
metadata                   updates and evaluations made, and the settings
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...learning import Copy
from ...rng import Noise
from ..errors import BadInput
from ..files.atomic import put


@dataclass
class State:
    """Of a run that is under way.

    Attributes:
        adapter: the trained weights of the prior; value: the value network, if the method has one.
        average: what is drawn from and written. old: the method's own second policy, if it has one.
        done: updates made; spent: evaluations of the network; seconds.
        about: what the checks have found, plain JSON.
    """

    adapter: list[nn.Parameter]
    value: nn.Module | None
    optimizer: torch.optim.Optimizer
    average: Copy
    old: Copy | None
    noise: Noise
    done: int = 0
    spent: int = 0
    seconds: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {f"adapter.{i}": each for i, each in enumerate(self.adapter)}
        if self.value is not None:
            found |= {f"value.{name}": each for name, each in self.value.state_dict().items()}
        for name, copy in (("average", self.average), ("old", self.old)):
            found |= {} if copy is None else {f"{name}.{i}": each for i, each in enumerate(copy.kept)}
        for i, kept in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{i}.{key}": each for key, each in kept.items()}
        return found | {"noise": self.noise.state()}

    def save(self, path: Path) -> None:
        tensors = {name: each.detach().to("cpu", copy=True).contiguous() for name, each in self.tensors().items()}
        told = {"done": self.done, "spent": self.spent, "seconds": self.seconds, "about": self.about}
        put(path, lambda temporary: save_file(tensors, temporary, {"run": json.dumps(told)}))

    @torch.no_grad()
    def restore(self, path: Path) -> None:
        """Puts a checkpoint's state back, all of it or nothing.

        Raises:
            BadInput: a file that cannot be read, or is of another run.
        """
        try:
            with safe_open(path, framework="pt") as f:
                told = json.loads((f.metadata() or {})["run"])
                state = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118  (a handle, not a dict)
            done, spent = int(told["done"]), int(told["spent"])
            seconds, about = float(told["seconds"]), dict(told["about"])
        except Exception as error:  # safetensors raises its own type
            raise BadInput(f"{str(path)!r} is no readable checkpoint ({error}); delete it to begin anew") from error
        here = {name: each.shape for name, each in self.tensors().items() if not name.startswith("optimizer.")}
        there = {name: each.shape for name, each in state.items() if not name.startswith("optimizer.")}
        if here != there or done < 0:
            odd = min((n for n in here.keys() | there.keys() if here.get(n) != there.get(n)), default="a count below 0")
            raise BadInput(f"{str(path)!r} is of another run (it differs in {odd}); use another --out")
        old = self.old.kept if self.old else []
        weights: dict[str, Sequence[Tensor]] = {"adapter": self.adapter, "average": self.average.kept, "old": old}
        for name, kept in weights.items():
            for i, each in enumerate(kept):
                each.copy_(state[f"{name}.{i}"])
        if self.value is not None:
            self.value.load_state_dict(
                {k.removeprefix("value."): v for k, v in state.items() if k.startswith("value.")}
            )
        moments: dict[int, dict[str, Tensor]] = {}
        for name, each in state.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                moments.setdefault(int(index), {})[key] = each
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        self.noise.restore(state["noise"])
        self.done, self.spent, self.seconds, self.about = done, spent, seconds, about
