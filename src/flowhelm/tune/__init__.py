"""Fine-tuning towards a reward: method(flow, base, reward, optimizer, *, noise, ...) -> Iterator[Update].

    flow = base.with_lora(8);   adam = torch.optim.AdamW(flow.trained(), 1e-4)
    for update in tune.adjoint_matching(flow, base, reward, adam, noise=Noise(0, rows=32)): ...

`base` stays as it is; `flow` has the weights that `optimizer` trains. Each row of an update is a picture with a stream of its own, and
conditions are bound to both flows, a row each. The whole state of a run lies with the caller: weights, optimiser, copies, value network
and noise. So a run goes on exactly from these and `done`, and conditions that change with every update are a new call for each.
"""

from .adjoint_matching import adjoint_matching
from .diffusion_nft import diffusion_nft
from .draft import draft
from .flow_grpo import flow_grpo
from .nabla_db import nabla_db
from .refl import refl
from .vgg_flow import vgg_flow
from .vgg_pmp import vgg_pmp

ALL = (
    vgg_flow, vgg_pmp, adjoint_matching, nabla_db,  # towards an optimum: of a transport, of the tilt
    flow_grpo, diffusion_nft,  # no gradient of the reward
    draft, refl,  # the reward alone
)  # fmt: skip

__all__ = ["ALL", *(method.__name__ for method in ALL)]
