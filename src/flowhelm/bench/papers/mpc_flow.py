"""MPC-Flow: CelebA with one and three planned steps, and with a horizon of one step."""

from .paper import CELEBA, TASKS, Paper, Variant, figures

_STD = dict(zip(TASKS, (0.2, 0.05, 0.05, 0.01, 0.05), strict=True))
_ADAM = "inner=adam:iterations=20,rate="


def _words(method: str, rate: float, *weights: float) -> dict[str, dict[str, str]]:
    """The paper's weight of |A x - y|^2 / (2 std^2) is the method's strength times std^2."""
    told = zip(_STD.items(), weights, strict=True)
    return {
        "celeba": {
            task: f"{method},strength={weight / std**2:g},{_ADAM}{rate},steps=100" for (task, std), weight in told
        }
    }


PAPER = Paper(
    "MPC-Flow, Webber, Denker, Barbano & Reader 2026, arXiv:2601.23231",
    "weights and rates of the paper's appendix E.2, which a re-implementation gives (its code for CelebA is not published); figures of a "
    "digest of the paper",
    "pnp_flow",
    {"celeba": CELEBA},
    {
        "K = 1": Variant(
            _words("mpc_flow:horizon=1", 0.1, 0.1, 0.063, 1.0, 1.0, 0.04),
            {"celeba": figures("27.30/.708 - 18.02/.421 - -")},
        ),
        "K = 3": Variant(_words("mpc_flow:horizon=3", 0.05, 0.1, 0.063, 0.063, 1.0, 1.0), {"celeba": {}}),
        "one-step value": Variant(
            _words("mpc_flow_dt:energy=algorithm2", 0.1, 15, 7.5, 7.5, 0.5, 5.0),
            {"celeba": figures("31.55/.877 - 31.89/.911 - -")},
        ),
    },
    (
        "100 steps are inferred from the published seconds",
        "the non-linear deblurring of the paper's table is not described well enough to be run",
        "pixels that a mask hides have no noise",
    ),
)
