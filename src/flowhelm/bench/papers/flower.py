"""Flower: the tasks and networks of PnP-Flow, with one run and with the mean of five."""

from .paper import AFHQ, CELEBA, TASKS, Paper, Variant, figures

_STEPS = {
    "celeba": dict.fromkeys(TASKS, 100),
    "afhq-cat": {"denoise": 100, "deblur": 500, "superres": 500, "random": 200, "box": 100},
}
_WORDS = {
    name: {task: f"flower:gamma=0,steps={steps}" for task, steps in settings.items()}
    for name, settings in _STEPS.items()
}

PAPER = Paper(
    "Flower, Pourya, El Rawas & Unser 2026, arXiv:2509.26287",
    "settings of the paper's code; figures of a re-run by the authors of FIRM (the paper's own differ by up to 0.7 dB)",
    "pnp_flow",
    {"celeba": CELEBA, "afhq-cat": AFHQ},
    {
        "1 run": Variant(
            _WORDS,
            {
                "celeba": figures("32.22/.913/.033 34.95/.947/.025 32.30/.922/.034 33.05/.944/.017 31.17/.945/.022"),
                "afhq-cat": figures("32.12/.881/.113 29.38/.793/.237 26.76/.759/.262 33.68/.922/.042 26.67/.914/.065"),
            },
        ),
        "mean of 5 runs": Variant(
            _WORDS,
            {
                "celeba": figures("33.07/.925/.038 35.65/.954/.031 33.03/.931/.039 33.92/.953/.020 31.85/.952/.023"),
                "afhq-cat": figures("32.75/.892/.126 29.73/.801/.264 27.09/.767/.272 34.36/.931/.048 27.32/.922/.067"),
            },
            runs=5,
        ),
    },
    (
        "the refinement is solved exactly where the paper runs at most 50 conjugate gradients",
        "pixels that a mask hides have no noise",
    ),
)
