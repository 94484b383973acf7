"""Tables of papers: the settings are words that the methods take, the published strengths are theirs, a stand-in runs from end to end."""

import pytest
import torch
from layouts import drawn, pnp_flow_shapes
from safetensors.torch import save_file

from flowhelm.app.options.words import worded
from flowhelm.bench.compare import rows
from flowhelm.bench.compare.command import entry
from flowhelm.bench.papers import command
from flowhelm.bench.papers.paper import TASKS
from flowhelm.cards import METHODS
from flowhelm.interfaces.cli import main


def test_every_setting_is_one_that_its_method_takes():
    count = 0
    for name, paper in command.PAPERS.items():
        for dataset, of in paper.datasets.items():
            tasks = {task.name: task for task in command.TASKS[paper.tasks]((3, of.size, of.size))}
            for label, variant in paper.variants.items():
                assert variant.words[dataset].keys() == tasks.keys(), (name, dataset, label)
                assert variant.figures.get(dataset, {}).keys() <= tasks.keys()
                for task, text in variant.words[dataset].items():
                    made = entry(worded("method", text, METHODS, ("steps",)), label, tasks[task], "prior", None, None)
                    assert 50 <= made.steps <= 500
                    count += 1
    assert count == 2 * 20 + 15 + 6


def test_strengths_are_the_papers_weights_over_the_noise_squared():
    """lambda / std^2 of the three regimes; the value of Algorithm 2 is N times larger for the same problem."""
    want = {
        "K = 1": (2.5, 25.2, 400, 1e4, 16),
        "K = 3": (2.5, 25.2, 25.2, 1e4, 400),
        "one-step value": (375, 3000, 3000, 5000, 2000),
    }
    for label, strengths in want.items():
        words = command.PAPERS["mpc_flow"].variants[label].words["celeba"]
        found = [float(worded("method", words[task], METHODS, ("steps",)).given["strength"]) for task in TASKS]
        assert found == pytest.approx(strengths)


def test_flairs_tasks_and_grid():
    box = command.rectangle((3, 768, 768))
    seen = box.A(torch.ones(1, 3, 768, 768))
    assert float((seen == 0).double().mean()) == pytest.approx(
        512 * 256 / 768**2
    )  # rows 128 to 640, columns 384 to 640
    assert seen[0, 0, 128:640, 384:640].sum() == 0
    factors = [task.options["factor"] for task in command.of_flair((3, 768, 768))[:2]]
    assert factors == [8, 12]


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A converted network of random weights, 16 x 16."""
    from flowhelm.priors.published.convert import convert

    pytest.importorskip("diffusers")
    monkeypatch.chdir(tmp_path)
    save_file(drawn(pnp_flow_shapes()), "made.safetensors")
    return convert("pnp_flow", tmp_path / "made.safetensors", tmp_path / "tiny.safetensors", size=16)


def run(*words):
    return main(["protocol", *words, "--images", "2", "--crop", "18", "--steps", "2", "--batch", "2", "--threads", "1"])


@pytest.mark.parametrize(
    ("paper", "labels", "figure", "tasks"),
    [
        ("pnp_flow", ["1 draw", "5 draws"], "32.24", ("denoise", "box")),
        ("flower", ["1 run", "mean of 5 runs"], "33.07", ("denoise", "superres")),
        ("mpc_flow", ["K = 1", "K = 3", "one-step value"], "31.55", ("denoise",)),
    ],
)
def test_a_table_runs_from_end_to_end(stand_in, archived, capsys, paper, labels, figure, tasks):
    archive = str(archived("a", "b"))
    words = (
        paper,
        "--prior",
        str(stand_in),
        "--data",
        archive,
        "--task",
        "denoise",
        "--task",
        "box",
        "--out",
        "rows.csv",
    )
    assert run(*words) == 0, capsys.readouterr().err
    made = rows.read(stand_in.with_name("rows.csv"))
    assert [row["error"] for row in made] == [""] * len(made)
    assert {(row["task"], row["method"]) for row in made} == {
        (task, label) for task in ("denoise", "box") for label in labels
    }
    assert len(made) == 2 * len(tasks) * len(labels)
    assert {row["settings"] for row in made} == {"paper"}
    out = capsys.readouterr().out
    assert figure in out
    assert "celeba, 2 pictures; published: 100" in out
    line = next(line for line in out.splitlines() if line.startswith(f"| denoise | {labels[0]} |"))
    assert (
        f"{sum(row['psnr'] for row in made if (row['task'], row['method']) == ('denoise', labels[0])) / 2:.2f}" in line
    )
    averaged = {row["evaluations"] for row in made if row["method"] == labels[1]}
    assert (
        averaged == {10.0} if paper != "mpc_flow" else {2 + 2 * 20 * 2}
    )  # N draws or runs; N (1 + M (K - 1)) of K = 3
    assert run(*words) == 0  # goes on where it was: nothing is left
    assert len(stand_in.with_name("rows.csv").read_text().splitlines()) == 1 + len(made)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["pnp_flow"],
            "fetch model_final.pt from https://drive.google.com/file/d/1ZZ6S-PGRx-tOPkr4Gt3A6RN-PChabnD6, run",
        ),
        (
            ["pnp_flow"],
            "python -m flowhelm.priors.published.convert pnp-flow-celeba model_final.pt pnp-flow-celeba.safetensors`",
        ),
        (["flower", "--dataset", "afhq-cat"], "cats of AFHQ"),
        (["mpc_flow", "--prior", "none.safetensors"], "--prior none.safetensors does not exist"),
        (["flair"], "give --prior stabilityai/stable-diffusion-3.5-medium"),
        (["flair", "--dataset", "celeba"], "--dataset: flair has ffhq, div2k"),
        (["mpc_flow", "--row", "K=1"], "did you mean K = 1"),
        (["mpc_flow", "--prior", "tiny.safetensors"], "--data is missing: mpc_flow measures on https://www.kaggle.com"),
        (["flair", "--prior", "tiny.safetensors", "--data", "photos.zip"], "flair takes a pipeline of diffusers"),
        (
            ["pnp_flow", "--prior", "tiny.safetensors", "--data", "photos.zip", "--task", "blur"],
            "--task: expected one of denoise",
        ),
        (["dflow"], "paper"),
    ],
)
def test_what_is_missing_is_one_sentence(stand_in, archived, capsys, words, said):
    archived("a")
    assert main(["protocol", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.strip().count("\n") == 0
    assert not stand_in.with_name("protocol.csv").exists()


@pytest.mark.parametrize("paper", sorted(command.PAPERS))
def test_a_table_can_be_shown_without_anything(capsys, paper):
    assert main(["protocol", paper, "--show"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n| ") >= 2 + 3
    assert "Not as in the paper" in out
    for variant in command.PAPERS[paper].variants.values():
        for dataset, figures in variant.figures.items():
            assert all(f"{figure.psnr:g}" in out for figure in figures.values()), dataset
