"""A network that predicts noise, made a prior. Running this file checks it on a law whose answer is known."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from flowhelm import Ends, GaussianFlow, Pixels
from flowhelm.path import VP, Path, ends_from_source, velocity


@dataclass(frozen=True, eq=False)
class NoisePredictor(Pixels):
    """`net(x, k)` predicts the noise in x; k = 0 ... 999, 999 the noisiest."""

    net: nn.Module
    shape: tuple[int, ...]
    path: Path = field(default_factory=VP)

    def ends(self, x: Tensor, t: Tensor) -> Ends:
        k = (999 * (1 - t)).to(x).expand(len(x))  # the network's clock runs backwards and is longer
        return ends_from_source(self.path, self.net(x, k), x, t)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return velocity(self.path, self.ends(x, t), t)


class ExactNet(nn.Module):
    """Stands for a trained network: the true E[noise | x] of a Gaussian law."""

    def __init__(self, law: GaussianFlow):
        super().__init__()
        self.law = law

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        return self.law.ends(x, 1 - k / 999).source


if __name__ == "__main__":
    law = GaussianFlow(torch.tensor([1.0, -0.5]).double(), torch.tensor([[0.8, 0.3], [0.3, 0.5]]).double(), VP())
    flow, x = NoisePredictor(ExactNet(law), law.shape, law.path), torch.randn(4, 2, dtype=torch.float64)
    for t in torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64):
        torch.testing.assert_close(flow.velocity(x, t), law.velocity(x, t))
    print("the adapter gives the exact velocity")
