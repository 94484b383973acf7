"""What a fine-tuning writes of itself: a log, checks, curves, sheets, the adapter and its card."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import __version__
from ...cards import card
from ...priors import adapters
from ...step import Update
from ..draw.conditions import prior_name
from ..draw.rows import draw_flow
from ..draw.solvers import Way
from ..files import atomic as files
from ..models import opening as models
from ..models.batches import batches
from ..run import drive, near
from ..show.curves import reward_curves
from ..show.sheet import sheet
from ..train.keeper import Board, Log, put_table
from . import check
from .problem import Problem
from .state import State

SHOWN = 36  # pictures of a sheet
LOG = ("update", "reward", "loss", "norm", "evaluations", "seconds")


class Keeper:
    """Writes what a run shows of itself."""

    def __init__(self, problem: Problem, state: State, out: Path, writer_of: Callable[..., Any] | None = None):
        """`writer_of`: TensorBoard's, or None."""
        self.problem, self.state, self.out = problem, state, out
        self.board = Board(writer_of, out, state.done)
        request = problem.request
        self.labels = [problem.labels[i % len(problem.labels)] for i in range(request.checked)]
        self.batch = 1 if models.is_pipeline(request.prior) else batches(problem.base, request.checked, problem.guided)
        self.rows: list[dict[str, Any]] = state.about.setdefault("rows", [])
        self.first, self.plotted = self._drawn(problem.base), time.monotonic()
        self.table = Log(out / "log.csv", LOG, state.done)

    def _drawn(self, flow: Any) -> Tensor:
        numbers = [i // len(self.problem.labels) for i in range(len(self.labels))]  # those that `flowhelm sample` draws
        way = Way(self.problem.request.check_steps, seed=self.problem.request.seed)
        told = self.problem.bound(flow, self.labels)
        return drive(draw_flow(told, len(numbers), way, numbers=numbers, size=self.batch))

    def log(self, update: Update) -> None:
        row = {
            "update": update.index, "reward": float(update.info["reward"].mean()), "loss": float(update.loss),
            "norm": float(update.info["norm"]), "evaluations": self.state.spent, "seconds": round(self.state.seconds, 3),
        }  # fmt: skip
        self.table.add(row)
        self.board.add({name: row[name] for name in ("reward", "loss", "norm")}, self.state.done, "update/")

    @torch.no_grad()
    def check(self, last: bool = False) -> None:
        """Draws from the average, measures, writes; a healthy adapter is kept. The curves are drawn now and then, and at the last."""
        problem, state, request = self.problem, self.state, self.problem.request
        if state.done:
            with state.average.used():
                pictures = self._drawn(problem.flow)
        else:
            pictures = self.first
        names = [problem.trained, *problem.held_out]
        rewards = {name: problem.reward(name, self.labels) for name in names}
        row = check.measured(pictures, self.first, rewards, problem.device)
        self.rows.append({"update": state.done, "evaluations": state.spent, **row})
        if state.done and check.healthy(row, self.rows[0], problem.held_out, request.least_diversity):
            with state.average.used():
                adapters.save(problem.flow, self.out / "adapter.safetensors", self.about())
            state.about["kept"] = state.done
        put_table(self.out / "checks.csv", self.rows, list(self.rows[0]))
        if last or self.ended() or time.monotonic() - self.plotted > 20:
            kept = state.about.get("kept")
            curves = reward_curves(self.rows, problem.trained, problem.held_out, kept)
            files.put_picture(self.out / "curves.png", curves)
            self.plotted = time.monotonic()
        order = sorted(range(min(SHOWN, len(pictures))), key=lambda i: (problem.labels.index(self.labels[i]), i))
        shown = sheet([("", pictures[order])])
        files.put_picture(self.out / "samples" / f"{state.done:07d}.png", shown)
        self.board.add(row, state.done, "check/")
        self.board.picture(shown, state.done)

    def spent(self) -> bool:
        budget = self.problem.request.budget
        return budget is not None and self.state.spent >= budget

    def ended(self) -> str:
        """Why it ends before its last update."""
        request = self.problem.request
        if found := check.verdict(self.rows, self.problem.held_out, request.least_diversity, request.patience):
            return found
        return f"the budget of {request.budget} evaluations is spent" if self.spent() else ""

    def about(self) -> dict[str, Any]:
        request, row = self.problem.request, self.rows[-1]
        return {
            "method": request.method, "reward": request.reward, "updates": self.state.done, "flowhelm": __version__,
            "reached": row[self.problem.trained], "diversity": row["diversity"],
        }  # fmt: skip

    def command(self) -> str:
        """That draws with the adapter."""
        request = self.problem.request
        words = ["flowhelm", "sample", request.prior, *(f"--class '{name}'" for name in request.classes)]
        words += [f"--prompt '{request.prompt}'"] if request.prompt else []
        told = self.problem.told and not models.is_pipeline(request.prior)
        scale = request.scale if request.scale is not None else 1 if told and request.guidance is None else None
        words += [f"--scale {scale:g}"] if scale is not None else []
        words += ["--solver euler"] if not models.is_pipeline(request.prior) else []  # as the checks draw
        return " ".join([*words, "--adapter", near(self.out / "adapter.safetensors")])

    def card(self, ended: str) -> None:
        request, first = self.problem.request, self.rows[0]
        last = next((r for r in self.rows if r["update"] == self.state.about.get("kept")), first)
        shown = [self.problem.trained, *self.problem.held_out, "diversity", "frechet", "dark", "edges", "saturation"]
        lines = [
            f"# {prior_name(request.prior)} towards {self.problem.trained}", "",
            f"A LoRA adapter of rank {request.rank} for the prior `{Path(request.prior).name}`, trained by",
            card(self.problem.method).partition("\n")[0],
            "", f"    {self.command()}", "",
            f"| of {request.checked} pictures, the same seeds | the prior | update {last['update']} |", "| --- | --- | --- |",
            *(f"| {name} | {first[name]:.4g} | {last[name]:.4g} |" for name in shown), "",
            f"{self.state.done} updates of {request.rows} pictures, {self.state.spent} evaluations, {self.state.seconds:.0f} s.",
            *([f"It ended early: {ended}."] if ended else []),
            "", "Everything needed to run it again stands in run.json; the licence is that of the prior.", "",
        ]  # fmt: skip
        files.put_text(self.out / "README.md", "\n".join(lines))
