"""FLAIR: Stable Diffusion 3.5 medium at 768 x 768, on FFHQ and DIV2K."""

from .paper import Dataset, Paper, Variant, figures

_TASKS = ("superres x8", "superres x12", "box")
_WORDS = dict.fromkeys(_TASKS, "flair:weight=0.5,inner=15,carry=1,stop=1,steps=50")
_HUB = "stabilityai/stable-diffusion-3.5-medium"
ERRORS = ((0.0, 0.646), (0.05, 0.305), (0.225, 0.231), (0.5, 0.293), (0.81, 0.569), (1.0, 1.086))
"""Time and mean square error of the network's velocity there, as the released table has it (its noise level is 1 - t)."""
PROMPT = {"ffhq": "a high quality photo of a face", "div2k": "a high quality photo"}

PAPER = Paper(
    "FLAIR, Erbach et al. 2025, arXiv:2506.02680",
    "settings of the configurations at github.com/prs-eth/FLAIR; figures of the paper's tables",
    "flair",
    {
        "ffhq": Dataset(768, 1024, _HUB, "https://github.com/NVlabs/ffhq-dataset (1024 x 1024)"),
        "div2k": Dataset(768, 768, _HUB, "https://data.vision.ee.ethz.ch/cvl/DIV2K (validation)"),
    },
    {
        "50 steps": Variant(
            {"ffhq": _WORDS, "div2k": _WORDS},
            {
                "ffhq": figures("29.54/.777/.213 27.71/.740/.271 23.69/.828/.184", _TASKS),
                "div2k": figures("23.30/.607/.353 21.39/.525/.421 23.75/.815/.163", _TASKS),
            },
        ),
    },
    (
        "captions are one sentence for all pictures (DIV2K in the paper: tags of each)",
        "the data steps go to the noise level along the gradient, where the paper has a step length for each task",
        "the pipeline's own auto-encoder decodes, not the tiny one",
        "motion blur is left out: its kernels are drawn by another program",
    ),
    pipeline=True,
)
