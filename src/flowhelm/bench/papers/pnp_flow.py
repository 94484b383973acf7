"""PnP-Flow: CelebA and AFHQ-Cat, with one and with five draws of noise per step."""

from .paper import AFHQ, CELEBA, TASKS, Paper, Variant, figures

_CELEBA = dict(zip(TASKS, ((0.8, 100), (0.01, 100), (0.3, 100), (0.01, 100), (0.5, 100)), strict=True))
_AFHQ = dict(zip(TASKS, ((0.8, 100), (0.01, 500), (0.01, 500), (0.01, 200), (0.5, 100)), strict=True))


def _words(draws: int) -> dict[str, dict[str, str]]:
    return {
        name: {task: f"pnp_flow:decay={decay},draws={draws},steps={steps}" for task, (decay, steps) in settings.items()}
        for name, settings in (("celeba", _CELEBA), ("afhq-cat", _AFHQ))
    }


PAPER = Paper(
    "PnP-Flow, Martin et al. 2025, arXiv:2410.02423",
    "settings of github.com/annegnx/PnP-Flow for CelebA, those of later papers for AFHQ-Cat; figures of a re-run by the authors of FIRM",
    "pnp_flow",
    {"celeba": CELEBA, "afhq-cat": AFHQ},
    {
        "1 draw": Variant(
            _words(1),
            {
                "celeba": figures("31.75/.904/.044 34.48/.936/.039 31.04/.901/.045 33.02/.944/.018 30.45/.933/.037"),
                "afhq-cat": figures("31.62/.866/.139 28.71/.779/.285 27.56/.780/.158 33.71/.923/.038 26.45/.895/.111"),
            },
        ),
        "5 draws": Variant(
            _words(5),
            {
                "celeba": figures("32.24/.910/.056 34.80/.941/.046 31.44/.905/.056 33.95/.953/.022 31.06/.939/.043"),
                "afhq-cat": figures("31.87/.868/.170 29.01/.785/.312 28.01/.791/.167 34.44/.932/.045 27.14/.900/.127"),
            },
        ),
    },
    ("the places of the masks and the noise are of another generator", "pixels that a mask hides have no noise"),
)
