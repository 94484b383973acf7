"""What is asked of `aerial` and what is measured: the statistics, and that each kind of description says what it should."""

import math

import pytest
import torch
import typer
from typer.testing import CliRunner

from flowhelm.bench.quality.conditions import agreement, described, drawn, kept_words, main
from flowhelm.priors import load
from flowhelm.recipes.aerial import NUMBERS, WORDS


def test_agreement_is_correlation_and_distance():
    generator = torch.Generator().manual_seed(0)
    asked = torch.randn(4000, 3, generator=generator)
    other = torch.randn(4000, generator=generator)
    found = torch.stack([0.5 * asked[:, 0] + 1, -asked[:, 1], other], 1)
    correlation, off = agreement(asked, found)
    assert correlation[:2].tolist() == pytest.approx([1, -1], abs=1e-5)
    assert abs(float(correlation[2])) < 4 / 4000**0.5
    assert float(off[0]) == pytest.approx(float((0.5 * asked[:, 0] - 1).abs().mean()), rel=1e-5)
    assert float(off[2]) == pytest.approx(2 / math.sqrt(math.pi), rel=0.05)  # two normal draws, as the page says


def test_words_are_kept_by_sign():
    labels = torch.tensor([4, 4])
    asked = torch.tensor([[-1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 2.0]])  # dark, green; detailed
    assert kept_words(labels, asked, asked) == 1
    assert kept_words(labels, asked, -asked) == 0
    assert kept_words(labels, asked, torch.tensor([[-0.1, -0.1, 9.0, 9.0], [9.0, 9.0, 9.0, 0.1]])) == pytest.approx(
        2 / 3
    )


@torch.no_grad()
def test_a_description_says_what_it_should():
    """The conditions that the network is given, read back in the terms of the data."""
    prior = load("aerial")
    labels, asked = torch.tensor([3, 4]), torch.tensor([[-1.0, 1.0, 0.0, 0.2], [0.0, -2.0, 0.0, 2.0]])
    label, words, numbers = described(prior, "class", labels, asked, 2.0).condition
    assert label.tolist() == [3, 4]
    assert (words == 0).all()
    assert numbers.isnan().all()
    label, words, numbers = described(prior, "class and numbers", labels, asked, 2.0).condition
    assert label.tolist() == [3, 4]
    torch.testing.assert_close(numbers, asked, atol=1e-4, rtol=1e-4)
    assert (words == 0).all()
    label, words, numbers = described(prior, "prompt", labels, asked, 2.0).condition
    assert label.tolist() == [7, 7]
    assert numbers.isnan().all()
    said = [[WORDS[w - 1] for w in row.tolist() if w] for row in words]
    assert said == [["river", "lake", "dark", "green"], ["forest", "grey", "detailed"]]
    assert len(NUMBERS) == 4


def test_a_picture_is_drawn_for_each_description():
    prior = load("aerial")
    labels, asked = torch.tensor([3, 4, 0]), torch.zeros(3, 4)
    three = drawn(prior, "class", labels, asked, scale=2.0, steps=1, seed=0, batch=2)
    assert three.shape == (3, 3, 64, 64)
    alone = drawn(prior, "class", labels[:2], asked[:2], scale=2.0, steps=1, seed=0, batch=2)
    assert torch.equal(alone, three[:2])


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--prior", "fashion"], "such as aerial; 'fashion' does not"), (["--told", "colour"], "got 'colour'")],
)
def test_what_cannot_be_asked_is_refused(words, said, tmp_path):
    app = typer.Typer()
    app.command()(main)
    given = ["--data", str(tmp_path / "a.zip"), "--split", str(tmp_path / "b.json"), "--work", str(tmp_path)]
    made = CliRunner().invoke(app, [*given, *words], env={"COLUMNS": "300"})
    assert made.exit_code == 2
    assert said in made.output
    assert not list(tmp_path.iterdir())
