"""Record what flowhelm gives, and compare two recordings: a net for a redesign that must not change a result.

    python scripts/net.py record --out before.json
    python scripts/net.py compare before.json after.json

A recording goes through entry points that stay: the command line, `flowhelm.generate` and `Restorer`, HTTP, and the methods
themselves. What varies by nature (seconds, versions, folders) is left out. Each entry has fields, and a comparison names those
that differ: exit (status), said (what was printed), settings and result (of run files and manifests), pixels (of pictures that were
made), drawn (of figures), data (arrays, tables, other JSON). `--ignore drawn --ignore said` leaves fields out.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}

import argparse
import contextlib
import csv
import hashlib
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

import flowhelm
from flowhelm import inner, operators, restore, steer
from flowhelm.flow import Flow, MixtureFlow
from flowhelm.measure import Linear, Measurement
from flowhelm.path import Path as Course
from flowhelm.path import linear
from flowhelm.rng import Noise
from flowhelm.transition import euler, glass

Entry = dict[str, Any]
METHODS = (*restore.ALL, *steer.ALL)
# these begin anew for each of many passes through the network
FEWER = {
    "flow_priors": ["--inner", "2"], "sitcom": ["--inner", "3"], "stsl": ["--repeats", "2"],
    "oc_flow": ["--iterations", "2"], "flow_grad": ["--iterations", "2"], "d_flow": ["--iterations", "1"],
    "flow_opt": ["--iterations", "2"], "best_of": ["--draws", "2"], "noise_search": ["--iterations", "2", "--draws", "2"],
    "path_search": ["--draws", "2"], "rbf": ["--draws", "3"], "svdd": ["--draws", "3"],
    "afdps": ["--particles", "2"], "tds": ["--particles", "2"], "fk": ["--particles", "2"],
}  # fmt: skip
VARIES = {
    "seconds", "environment", "date", "when", "version", "versions", "key", "memory", "peak", "seconds_per_picture", "command",
    "hours", "began", "ended", "peak_mib", "processor", "flowhelm", "torch", "created", "written",
}  # fmt: skip
FIGURES = ("strip", "sheet", "curve", "samples", "calibration", "progress")


# --- the two entry points of the application: after a redesign only these are changed ---


def command(words: list[str]) -> int:
    """Runs the command line in this process; returns its exit status."""
    from flowhelm.interfaces.cli import main

    return main(words)


def tiny_pipeline(name: str) -> Any:
    """A pipeline of diffusers of a few thousand random weights."""
    from flowhelm.bench.pipelines import tiny

    return tiny.CASES[name][0]()


# --- what is kept of a run ---


def digest(array: np.ndarray) -> dict[str, Any]:
    """The exact bytes as a hash; mean and spread, so that a difference can be judged."""
    array = np.ascontiguousarray(array)
    numbers = array.astype(np.float64) if array.dtype.kind in "fiub" else np.zeros(1)
    return {
        "sha256": hashlib.sha256(array.tobytes()).hexdigest(),
        "shape": f"{array.dtype} {list(array.shape)}",
        "mean": float(numbers.mean()) if numbers.size else None,
        "std": float(numbers.std()) if numbers.size else None,
    }


def of_tensor(x: Tensor) -> dict[str, Any]:
    """In float64, so that a change of type alone is none."""
    return digest(x.detach().cpu().double().numpy())


def plain(value: Any, root: str) -> Any:
    """JSON without what varies by nature."""
    if isinstance(value, dict):
        return {told(name, root): plain(each, root) for name, each in sorted(value.items()) if name not in VARIES}
    if isinstance(value, list):
        return [plain(each, root) for each in value]
    return told(value, root) if isinstance(value, str) else value


def told(text: str, root: str) -> str:
    """Text without folders, times and the bytes of the machine."""
    text = text.replace(root, "HERE").replace(str(Path(flowhelm.__file__).parent), "FLOWHELM")
    text = re.sub(r"\b\d+(\.\d+)?( s\b| seconds\b| ms\b| s/)", r"_\2", text)
    text = re.sub(r"\b[0-9a-f]{64}\b", "HASH", text) if "identical" in text else text
    text = re.sub(r"\d+(\.\d+)? and _ s", "_ and _ s", text)
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    if "| s/picture | MiB |" in text:  # the table of a benchmark: two columns are of the machine
        lines = (line.split("|") for line in text.splitlines())
        text = "\n".join("|".join([*cells[:8], *cells[10:]]) for cells in lines)
    return re.sub(r"[ \t]+$", "", text, flags=re.M)


def document(entry: Entry, name: str, value: Any, root: str) -> None:
    """A run file's settings and result are fields of their own."""
    if isinstance(value, dict) and {"settings", "result"} <= set(value):
        entry.setdefault("settings", {})[name] = plain(value["settings"], root)
        rest = {part: each for part, each in value.items() if part != "settings"}
        entry.setdefault("result", {})[name] = plain(rest, root)
    else:
        entry.setdefault("data", {})[name] = plain(value, root)


def keep(entry: Entry, path: Path, name: str, root: str) -> None:
    """Puts what a file holds into the field where it belongs."""
    kind = path.suffix.lower()
    if kind in (".png", ".tif", ".tiff", ".jpg", ".webp"):
        field = "drawn" if any(word in path.name for word in FIGURES) else "pixels"
        with Image.open(path) as picture:
            entry.setdefault(field, {})[name] = digest(np.asarray(picture))
    elif kind == ".json":
        document(entry, name, json.loads(path.read_text()), root)
    elif kind == ".jsonl":
        for text in sorted(path.read_text().splitlines()):
            line = json.loads(text)
            document(entry, f"{name} {line.get('output', text)}", line, root)
    elif kind == ".csv":
        rows = list(csv.DictReader(path.read_text().splitlines()))
        entry.setdefault("data", {})[name] = [
            {what: told(each or "", root) for what, each in row.items() if what not in VARIES} for row in rows
        ]
    elif kind == ".npy":
        entry.setdefault("data", {})[name] = digest(np.load(path))
    elif kind == ".npz":
        with np.load(path) as file:
            entry.setdefault("data", {})[name] = {each: digest(file[each]) for each in file.files}
    elif kind == ".safetensors":
        with safe_open(path, framework="pt") as file:
            tensors = {each: of_tensor(file.get_tensor(each)) for each in sorted(file.keys())}
            about = {key: _json(text) for key, text in (file.metadata() or {}).items()}
        short = hashlib.sha256(json.dumps(tensors).encode()).hexdigest()
        means = [each["mean"] for each in tensors.values()]
        entry.setdefault("data", {})[name] = {"tensors": short, "mean": sum(means), "about": plain(about, root)}
    else:
        entry.setdefault("data", {})[name] = "a file"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


class Net:
    """Collects entries; each command has a folder of its own below `root` unless it says in which one it runs."""

    def __init__(self, root: Path):
        self.root, self.number = root, 0
        self.entries: dict[str, Entry] = {}
        self.took: dict[str, float] = {}

    def folder(self) -> Path:
        self.number += 1
        folder = self.root / f"{self.number:04}"
        folder.mkdir()
        return folder

    def run(self, name: str, *words: object, folder: Path | None = None, stop: int | None = None) -> Path:
        """One command; `stop`: Ctrl-C at that evaluation of a network."""
        folder, began = folder or self.folder(), time.monotonic()
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
        said, wrong, old = io.StringIO(), io.StringIO(), Path.cwd()
        arguments = [str(word) for word in words]
        sys.argv = ["flowhelm", *arguments]
        os.chdir(folder)
        entry: Entry = {}
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(wrong), stopping(stop):
            try:
                entry["exit"] = command(arguments)
            except BaseException as error:
                entry["exit"] = f"raised {type(error).__name__}: {told(str(error), str(self.root))[:300]}"
            finally:
                os.chdir(old)
        torch.set_num_threads(1)
        text = said.getvalue()
        if entry["exit"] != 0:
            text += "\n".join(line for line in wrong.getvalue().splitlines() if not line.startswith("step "))
        entry["said"] = self.words(text, folder)
        for path in sorted(folder.rglob("*")):
            if path.is_file() and before.get(path) != path.stat().st_mtime_ns:
                keep(entry, path, path.relative_to(folder).as_posix(), str(self.root))
        self.put(name, self.moved(entry, folder), time.monotonic() - began)
        return folder

    def words(self, text: str, folder: Path) -> str:
        return told(told(text, str(folder)), str(self.root))

    def moved(self, entry: Entry, folder: Path) -> Entry:
        """Without the number of its folder, which would be another one if an entry were added."""
        return json.loads(json.dumps(entry).replace(f"HERE/{folder.name}", "HERE"))

    def call(self, name: str, function: Callable[[], Entry]) -> None:
        began = time.monotonic()
        try:
            entry = function()
        except Exception as error:
            entry = {"exit": f"raised {type(error).__name__}: {told(str(error), str(self.root))[:300]}"}
        self.put(name, entry, time.monotonic() - began)

    def put(self, name: str, entry: Entry, seconds: float) -> None:
        assert name not in self.entries, name
        self.entries[name], self.took[name] = entry, seconds


@contextlib.contextmanager
def stopping(at: int | None) -> Iterator[None]:
    """Ctrl-C before evaluation number `at` of a network that has weights: the outermost module that is called."""
    if at is None:
        yield
        return
    depth, calls = [0], [0]

    def before(module: torch.nn.Module, given: Any) -> None:
        if depth[0] == 0:
            calls[0] += 1
            if calls[0] == at:
                os.kill(os.getpid(), signal.SIGINT)
        depth[0] += 1

    def after(module: torch.nn.Module, given: Any, out: Any) -> None:
        depth[0] -= 1

    modules = torch.nn.modules.module
    hooks = [
        modules.register_module_forward_pre_hook(before),
        modules.register_module_forward_hook(after, always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# --- pictures to work on ---


def colours(side: int = 32, kind: int = 0, width: int | None = None) -> np.ndarray:
    y, x = np.mgrid[:side, : width or side] * (32 / side)
    a, b = 5 + kind, 7 - kind
    waves = np.stack([128 + 100 * np.sin(x / a + kind), 128 + 90 * np.cos(y / b), 20 + x * y / 5], -1)
    waves[8 * side // 32 : 16 * side // 32, 10 * side // 32 : 22 * side // 32] = (200 - 40 * kind, 60, 90 + 30 * kind)
    return waves.clip(0, 255).astype(np.uint8)


def clothes() -> np.ndarray:
    grey = np.zeros((32, 32), np.uint8)
    grey[6:28, 9:23], grey[6:14, 4:28] = 170, 120
    grey[10:24:4, 12:20] = 230
    return grey


def prepare(root: Path) -> Path:
    """Everything that the commands read."""
    here = root / "given"
    (here / "many").mkdir(parents=True)
    (here / "data").mkdir()
    Image.fromarray(colours()).save(here / "photo.png")
    Image.fromarray(colours(32, 1, 40)).save(here / "wide.png")
    Image.fromarray(colours(64)).save(here / "large.png")
    Image.fromarray(255 * (colours(64)[..., 0] > 60).astype(np.uint8)).save(here / "large-mask.png")
    Image.fromarray(colours(24)).save(here / "small.jpg", quality=95)
    Image.fromarray(clothes()).save(here / "coat.png")
    Image.fromarray(colours(16).astype(np.uint16)[..., 0] * 257).save(here / "deep.png")
    alpha = np.concatenate([colours(), np.full((32, 32, 1), 128, np.uint8)], -1)
    Image.fromarray(alpha).save(here / "alpha.png")
    mask = np.full((32, 32), 255, np.uint8)
    mask[10:18, 5:25] = 0
    Image.fromarray(mask).save(here / "mask.png")
    kernel = np.zeros((5, 5))
    np.fill_diagonal(kernel, 0.2)
    np.save(here / "kernel.npy", kernel)
    for k in range(3):
        Image.fromarray(colours(24, k)).save(here / "many" / f"p{k}.png")
        Image.fromarray(colours(40, k)).save(here / "data" / f"d{k}.png")
    with tarfile.open(here / "some.tar", "w") as tar:
        for k in range(2):
            tar.add(here / "many" / f"p{k}.png", f"inside/p{k}.png")
    np.save(here / "stack.npy", np.stack([colours(16, k)[..., 0] for k in range(2)]))
    np.save(here / "floats.npy", np.stack([colours(16, k)[..., 0] / 100 for k in range(2)]).astype(np.float32))
    np.savez(here / "named.npz", volume=np.stack([colours(16, k) for k in range(2)]))
    chance = np.random.default_rng(0)
    sets = {f"{part}_images": chance.integers(0, 256, (80, 28, 28), np.uint8) for part in ("train", "test")}
    sets |= {f"{part}_labels": chance.integers(0, 10, 80).astype(np.uint8) for part in ("train", "test")}
    np.savez(here / "fashion_mnist.npz", **sets)
    (here / "mine.py").write_text("def left(image):\n    return image[..., :16].mean((1, 2, 3))\n")
    return here


# --- the commands ---


def methods(net: Net, here: Path) -> None:
    usual = ("--steps", 4, "--simulate", "--threads", 1, "--std", 0.05)
    for method in METHODS:
        name = method.__name__
        words = ("--method", name, *usual, *FEWER.get(name, ()))
        for operator, prior, picture, more in (
            ("deblur", "photos", "photo.png", ("--sigma", 1.2, "--border", "circular")),
            ("random_mask", "photos", "photo.png", ("--missing", 0.5)),
            ("jpeg", "photos", "photo.png", ()),
            ("superres", "photos", "photo.png", ("--factor", 2)),
        ):
            shutil.copy(here / picture, folder := net.folder())
            given = (picture, "--operator", operator, "--prior", prior, *more, *words)
            net.run(f"restore {name} {operator} {prior}", "restore", *given, folder=folder)


def variants(net: Net, here: Path) -> None:
    """Options of methods that lead elsewhere, as the command line takes them."""
    for method, *more in (
        ("mpc_flow", "--horizon", 3, "--inner", "adam:iterations=4"),
        ("mpc_flow", "--horizon", "none", "--inner", "adam:iterations=3"),
        ("mpc_flow", "--renoise", 0.3, "--energy", "flower"),
        ("dps", "--exact"),
        ("pnp_flow", "--draws", 2, "--decay", 0.5),
        ("flower", "--gamma", 1),
        ("diffpir", "--zeta", 0.3),
        ("rebridge", "--transition", "euler"),
        ("daps", "--exact", "false", "--ode", 2, "--langevin", 3),
        ("daps", "--exact", "false", "--variance", 0.3),
        ("flair", "--carry", 1),
        ("tmpd", "--covariance", "diagonal"),
        ("stsl", "--exact"),
        ("flow_chef", "--transition", "euler", "--inner", 1),
        ("fk", "--particles", 3, "--proposal", "gradient", "--transition", "glass"),
        ("fk", "--particles", 2, "--proposal", "control", "--potential", "max"),
        ("svdd", "--draws", 2, "--transition", "glass", "--strength", 2),
        ("rbf", "--draws", 2, "--starts", 2, "--spend-rest"),
        ("afdps", "--particles", 3, "--level", 1, "--softening", 0.5),
    ):
        shutil.copy(here / "photo.png", folder := net.folder())
        words = ("photo.png", "--operator", "superres", "--factor", 2, "--method", method)
        words += (*more, "--steps", 4, "--simulate", "--threads", 1, "--std", 0.05, "--seed", 3)
        net.run(f"variant {method} {' '.join(map(str, more))}", "restore", *words, folder=folder)


def operators_(net: Net, here: Path) -> None:
    """Each operator with the method and steps of its preset, and with a real measurement where a picture can be one."""
    own = {
        "inpaint": ("--mask", here / "mask.png"), "motion": ("--kernel", here / "kernel.npy"), "superres": ("--factor", 2),
        "box": ("--size", 8), "random_mask": ("--missing", 0.6),
    }  # fmt: skip
    for operator in operators.ALL:
        name = operator.__name__
        shutil.copy(here / "photo.png", folder := net.folder())
        words = ("photo.png", "--operator", name, *own.get(name, ()), "--threads", 1, "--steps", 3)
        net.run(f"operator {name} simulated", "restore", *words, "--simulate", folder=folder)
        net.run(f"operator {name} real", "restore", *words, "--out", "real.png", "--std", 0.1, folder=folder)


def ways(net: Net, here: Path) -> None:
    """Options of `restore` itself, kinds of pictures, resuming and running again."""
    few = ("--operator", "deblur", "--sigma", 1, "--border", "circular", "--steps", 3, "--threads", 1)
    for name, picture, *more in (
        ("preset's steps", "small.jpg", "--operator", "denoise", "--threads", 1, "--std", 0.2),
        ("seed", "photo.png", *few, "--seed", 7),
        ("keep", "photo.png", "--operator", "box", "--size", 8, "--steps", 3, "--threads", 1, "--keep"),
        ("warm", "photo.png", *few, "--warm", 0.3),
        ("tile", "wide.png", *few, "--tile", 24),
        ("tile 0", "wide.png", *few, "--tile", 0),
        ("preview", "photo.png", *few, "--preview"),
        ("sixteen bits", "deep.png", *few),
        ("transparency", "alpha.png", *few),
        ("jpeg out", "photo.png", *few, "--out", "out.jpg"),
        ("tiff out", "deep.png", *few, "--out", "out.tiff"),
        ("prefixed options", "photo.png", *few, "--method", "pnp_flow", "--method-decay", 0.4),
        ("grey in a colour prior", "coat.png", *few),
        ("codec error", "photo.png", *few, "--codec-error"),
        ("a grey prior", "coat.png", "--prior", "fashion", *few),
        ("not of the prior's size", "photo.png", "--prior", "aerial", *few),
        ("aerial", "large.png", "--prior", "aerial", "--method", "pnp_flow", *few),
        ("animals", "large.png", "--prior", "animals", "--method", "dps", *few),
    ):
        shutil.copy(here / picture, folder := net.folder())
        net.run(f"way {name}", "restore", picture, *more, folder=folder)
    for method, prior, picture, at, more in (
        ("flow_dps", "photos", "photo.png", 4, ()),
        ("flair", "photos", "photo.png", 4, ()),
        ("fk", "photos", "photo.png", 4, ("--particles", 2)),
        ("afdps", "photos", "photo.png", 4, ("--particles", 2)),
        ("mpc_flow", "photos", "photo.png", 20, ("--horizon", 3, "--inner", "adam:iterations=4")),
        ("flow_priors", "photos", "photo.png", 9, ("--inner", 2)),
        ("rbf", "photos", "photo.png", 8, ("--draws", 3)),
    ):
        shutil.copy(here / picture, folder := net.folder())
        given = (picture, "--prior", prior, "--method", method, *more, *few, "--steps", 5, "--simulate")
        net.run(f"resume {method} whole", "restore", *given, "--out", "whole.png", folder=folder)
        net.run(f"resume {method} stopped", "restore", *given, folder=folder, stop=at)
        left = f"{Path(picture).stem}.resume.safetensors"
        net.run(f"resume {method} goes on", "restore", "--resume", left, folder=folder)
        net.run(f"resume {method} again", "rerun", "whole.run.json", folder=folder)


def batches(net: Net, here: Path) -> None:
    few = ("--operator", "deblur", "--sigma", 1, "--border", "circular", "--std", 0.05, "--steps", 3, "--threads", 1)
    shutil.copytree(here, given := net.folder() / "given")
    base = given.parent
    net.run("batch dry run", "restore", "given/many", *few, "--out", "dry", "--dry-run", folder=base)
    net.run("batch folder stopped", "restore", "given/many", *few, "--out", "folder", folder=base, stop=5)
    net.run("batch folder", "restore", "given/many", *few, "--out", "folder", folder=base)
    net.run("batch folder once more", "restore", "given/many", *few, "--out", "folder", folder=base)
    net.run("batch default out", "restore", "given/many", *few, folder=base)
    net.run("batch rerun", "rerun", "folder/manifest.jsonl", "--item", "p1.png", folder=base)
    net.run("batch rows", "restore", "given/many", *few, "--rows", 2, "--out", "rows", folder=base)
    net.run("batch rows rerun", "rerun", "rows/manifest.jsonl", "--item", "p1.png", folder=base)
    net.run("batch glob", "restore", "given/many/p*.png", *few, "--out", "glob", folder=base)
    net.run("batch two", "restore", "given/many/p0.png", "given/coat.png", *few, "--out", "two", folder=base)
    net.run("batch tar", "restore", "given/some.tar", *few, "--out", "tar", folder=base)
    net.run("batch npy", "restore", "given/stack.npy", *few, "--simulate", "--out", "npy", folder=base)
    net.run("batch npz", "restore", "given/named.npz", *few, "--out", "npz", folder=base)
    net.run("batch range missing", "restore", "given/floats.npy", *few, "--out", "floats", folder=base)
    net.run("batch range", "restore", "given/floats.npy", *few, "--range", "0,2.56", "--out", "range", folder=base)
    net.run("one of a stack", "restore", "given/stack.npy:0001", *few, "--out", "one.png", folder=base)
    for method, more in (("dps", ()), ("afdps", ("--particles", 3)), ("flow_dps", ())):
        words = (
            "given/photo.png",
            *few,
            "--method",
            method,
            *more,
            "--samples",
            3,
            "--simulate",
            "--out",
            f"s-{method}",
        )
        net.run(f"samples {method}", "restore", *words, folder=base)
    words = ("rerun", "s-afdps/manifest.jsonl", "--item", "photo.sample-1.restored.png")
    net.run("samples rerun", *words, folder=base)
    job = {
        "inputs": ["given/many"], "operator": "superres", "operator_options": {"factor": 2}, "method": "flower",
        "method_options": {"gamma": 1.0}, "std": 0.1, "steps": 3, "seeds": [0, 4], "samples": 2, "simulate": True, "threads": 1,
    }  # fmt: skip
    (base / "job.json").write_text(json.dumps({**job, "out": "json"}))
    net.run("batch json", "batch", "job.json", folder=base)
    text = "inputs: [given/many/p2.png, given/coat.png]\nout: yaml\noperator: inpaint\noperator_options: {mask: given/mask.png}\n"
    (base / "job.yaml").write_text(text + "steps: 2\nthreads: 1\n")
    net.run("batch yaml, one of the wrong size", "batch", "job.yaml", folder=base)
    net.run("batch yaml failed before", "batch", "job.yaml", folder=base)
    net.run("batch yaml retried", "batch", "job.yaml", "--retry", folder=base)
    for name, change in (
        ("unknown name", {"opertor": "deblur"}), ("unknown option", {"operator_options": {"factr": 2}}), ("type", {"steps": "x"}),
        ("range", {"std": -1}), ("missing input", {"inputs": ["nothing"]}), ("no operator", {"operator": None}),
        ("twice the same seed", {"seeds": [1, 1]}), ("method's literal", {"method": "fk", "method_options": {"potential": "x"}}),
    ):  # fmt: skip
        (base / "bad.json").write_text(json.dumps({**job, "out": "bad", **change}))
        net.run(f"batch refused: {name}", "batch", "bad.json", folder=base)
    (base / "bad.json").write_text("{not json")
    net.run("batch refused: no JSON", "batch", "bad.json", folder=base)


def spread(net: Net, here: Path) -> None:
    """A batch over workers of Ray, with the pictures of one without."""
    shutil.copytree(here, given := net.folder() / "given")
    few = ("--operator", "deblur", "--sigma", 1, "--border", "circular", "--steps", 3, "--threads", 1)
    words = ("given/many", *few, "--out", "ray", "--ray", "local", "--workers", 1)
    net.run("batch ray", "restore", *words, folder=given.parent)
    net.run("batch ray then without", "restore", "given/many", *few, "--out", "ray", folder=given.parent)


def steered(net: Net, here: Path) -> None:
    bag, one = ("fashion", "--class", "bag"), ("--threads", 1)
    for method in steer.ALL:
        name = method.__name__
        iterations = ("--iterations", 2) if name in ("oc_flow", "flow_grad", "flow_opt") else ()
        iterations = ("--iterations", 1) if name == "d_flow" else iterations
        budget = {"d_flow": 860, "mpc_flow_dt": 64}.get(name, 30)  # the least that one trajectory takes
        words = (*bag, "--reward", "brightness", "--method", name, "--budget", budget, *iterations, *one)
        net.run(f"steer {name}", "steer", *words)
    mine = f"{here}/mine.py:left"
    both = ("--reward", "brightness", "--reward", "0.5*compressibility", "--held-out", mine)
    for name, *words in (
        ("glass", *bag, "--reward", mine, "--strength", 50, "--transition", "glass", "--budget", 40),
        ("proposal", *bag, "--reward", mine, "--proposal", "gradient", "--particles", 2, "--steps", 4),
        ("chains", *bag, *both, "--method", "svdd", "--chains", 2, "--budget", 40),
        ("two of two classes", *bag, "--class", "coat", "-n", 2, *both, "--method", "best_of", "--budget", 12),
        ("guided", *bag, *both, "--method", "rbf", "--scale", 2, "--guidance", "raag", "--budget", 24),
        ("batch", *bag, *both, "--particles", 3, "--steps", 4, "--batch", 2),
        ("seed", *bag, *both, "--method", "path_search", "--budget", 24, "--seed", 5),
        ("aerial", "aerial", "--prompt", "forest", "--reward", "colourfulness", "--method", "svdd", "--budget", 8),
        ("no class", "fashion", "--reward", "brightness", "--budget", 16),
        ("photos", "photos", "--reward", "brightness", "--budget", 16),
        ("unknown reward", *bag, "--reward", "brightnes", "--budget", 16),
        ("reward without gradient", *bag, "--reward", "compressibility", "--method", "mpc_flow", "--budget", 16),
        ("small budget", *bag, "--reward", "brightness", "--budget", 1),
        ("restoring method", *bag, "--reward", "brightness", "--method", "dps"),
    ):
        net.run(f"steer: {name}", "steer", *words, *one)
    words = (*bag, *both, "--method", "svdd", "--budget", 24, *one, "--out", "a")
    folder = net.run("steer before rerun", "steer", *words)
    net.run("steer rerun", "rerun", "a.run.json", folder=folder)
    net.run("steer stopped", "steer", *words[:-1], "b", stop=9)


def drawn(net: Net, here: Path) -> None:
    for name, *words in (
        ("classes", "fashion", "--class", "bag", "--class", "coat", "-n", 2, "--each", "each", "--out", "sheet.png"),
        ("each class", "fashion", "-n", 1, "--each", "each"),
        ("sheet only", "fashion", "--class", "bag", "-n", 2),
        ("scale 1", "fashion", "--class", "bag", "-n", 2, "--scale", 1, "--each", "each"),
        ("cfg", "fashion", "--class", "bag", "-n", 1, "--guidance", "cfg", "--scale", 3, "--each", "each"),
        ("raag", "fashion", "--class", "bag", "-n", 1, "--guidance", "raag", "--each", "each"),
        ("cfg_zero", "fashion", "--class", "bag", "-n", 1, "--guidance", "cfg_zero", "--each", "each"),
        ("midpoint", "fashion", "--class", "bag", "-n", 1, "--solver", "midpoint", "--each", "each"),
        ("heun", "photos", "-n", 2, "--solver", "heun", "--seed", 3, "--each", "each"),
        ("words", "aerial", "--prompt", "forest, river", "--number", "detail=0.06", "-n", 1, "--each", "each"),
        ("animals", "animals", "-n", 1, "--class", "tabby", "--each", "each"),
        ("unknown class", "fashion", "--class", "hat"),
        ("unknown word", "aerial", "--prompt", "xylophone"),
        ("unknown guidance", "fashion", "--class", "bag", "--guidance", "cgf"),
        ("size", "fashion", "--size", "32x32"),
    ):
        net.run(f"sample {name}", "sample", *words, "--steps", 3, "--threads", 1)
    net.run("generate", "generate", "fashion", "--class", "bag", "-n", 1, "--each", "e", "--steps", 3, "--threads", 1)


def calibrated(net: Net, here: Path) -> None:
    small = ("--truths", 20, "--samples", 5, "--threads", 1)
    net.run("calibrate exact", "calibrate", "exact", *small)
    for method, *more in (("flower", "--gamma", 1), ("dps",), ("tds", "--particles", 2), ("flow_dps",)):
        net.run(f"calibrate {method}", "calibrate", method, *more, *small, "--steps", 3, "--seed", 1)
    words = ("calibrate", "dps", "--prior", "fashion", "--size", 32, "--truths", 20, "--samples", 4, "--steps", 2)
    net.run("calibrate dps fashion", *words, "--threads", 1, "--operator", "superres", "--factor", 2)
    net.run("calibrate too few", "calibrate", "flower", "--truths", 3)


def benched(net: Net, here: Path) -> None:
    few = ("--data", here / "data", "--size", 24, "--images", 2, "--threads", 1)
    words = ("--method", "pnp_flow:steps=3,label=ours", "--method", "dps", "--task", "denoise", "--task", "box")
    folder = net.run("bench", "bench", *few, *words, "--steps", 2, "--seeds", 1, "--report", "page.html")
    net.run("bench once more", "bench", *few, *words, "--steps", 2, "--seeds", 1, folder=folder)
    net.run("table", "table", "bench.csv", "--reference", "dps", folder=folder)
    task = ("--method", "flow_dps", "--task", "deblur:sigma=1.2,std=0.05", "--no-baselines")
    net.run("bench own task", "bench", *few, *task, "--evaluations", 6, "--defaults")
    task = ("--method", "pnp_flow", "--operator", "deblur:sigma=1.2", "--std", 0.05)
    folder = net.run("presets search", "presets", "search", *few, *task, "--trials", 2, "--steps", 2)
    net.run("presets list of a file", "presets", "list", "presets.json", folder=folder)
    words = ("presets", "velocity", "photos", *few, "--points", 4, "--out", "velocity.json")
    folder = net.run("presets velocity", *words)
    words = ("train", "fashion", "--data", here / "fashion_mnist.npz", "--batch", 8, "--out", "trained", "--threads", 1)
    net.run("train stopped", *words, "--steps", 4, folder=folder, stop=3)
    net.run("train", *words, "--steps", 4, folder=folder)
    net.run("train with other settings", *words, "--steps", 5, folder=folder)
    for found in sorted((folder / "trained").glob("*.safetensors")):
        if found.stem in ("fashion", "weights", "prior"):
            words = ("sample", found, "--class", "bag", "-n", 1, "--each", "e", "--steps", 2, "--threads", 1)
            net.run("sample what was trained", *words, folder=folder)
            words = (found, "--class", "bag", "--reward", "brightness", "--budget", 8, "--threads", 1)
            net.run("steer what was trained", "steer", *words, folder=folder)
            # the names in the head of a .safetensors file come in any order, so its bytes vary; its numbers do not
            for run in net.entries["steer what was trained"]["result"].values():
                del run["inputs"]["prior sha256"]


def looked(net: Net, here: Path) -> None:
    for words in (
        "methods", "operators", "priors", "presets list", "batch --schema", "--version", "--help",
        *(f"methods {method.__name__}" for method in METHODS), *(f"operators {each.__name__}" for each in operators.ALL),
        *(f"priors {name}" for name in ("photos", "fashion", "aerial", "animals")), "priors photos --terms", "priors --terms",
        *(f"{each} --help" for each in ("restore", "batch", "rerun", "sample", "generate", "steer", "calibrate", "bench", "table",
                                        "presets", "presets search", "presets list", "presets velocity", "train", "methods",
                                        "operators", "priors", "plan", "doctor", "ui", "serve")),
        "plan photos pnp_flow --vram 2 --size 64", "plan photos dps --vram 0.001", "plan fashion mpc_flow --vram 4 --json",
        "plan photos mpc_flow --vram 8 --size 512x512 --operator superres --factor 4 --horizon 3", "plan photos sample --vram 4",
        "plan nothing dps --vram 4", "plan photos", "doctor fashion", "doctor --prior fashion",
        "methods dsp", "operators debluur", "priors nothing", "presets list nothing.json", "nothing", "rerun nothing.run.json",
        "rerun nothing.jsonl --item a", "batch nothing.json", "batch", "table nothing.csv", "train", "train fashion", "steer",
        "restore", "restore nothing.png --operator deblur", "restore --resume nothing.safetensors", "sample nothing", "calibrate",
    ):  # fmt: skip
        net.run(f"look {words}", *words.split())
    shutil.copy(here / "photo.png", folder := net.folder())
    shutil.copy(here / "mask.png", folder)
    for words in (
        "", "--operator debluur", "--operator deblur --method nothing", "--operator deblur --sigm 2", "--operator deblur --sigma x",
        "--operator deblur --sigma -1", "--operator deblur --border sideways", "--operator deblur --std 0", "--operator deblur --std 1e9",
        "--operator deblur --std nan", "--operator deblur --steps 0", "--operator deblur --steps 1000000", "--operator deblur --warm 2",
        "--operator deblur --tile x", "--operator deblur --prior nothing", "--operator deblur --out a.xyz",
        "--operator deblur --out photo.png", "--operator deblur --device cuda:9", "--operator deblur --prompt cat",
        "--operator deblur --quantize int8", "--operator deblur --samples 0", "--operator deblur --preview --samples 2",
        "--operator deblur --range 1,0", "--operator deblur --method mpc_flow --horizon 0",
        "--operator deblur --method mpc_flow --horizon x",
        "--operator deblur --method fk --particles 0", "--operator deblur --method fk --potential maximum",
        "--operator deblur --method fk --every 0", "--operator deblur --method dps --step -1",
        "--operator deblur --method pnp_flow --draws 0", "--operator deblur --method flow_dps --inner 0",
        "--operator deblur --method flower --gamma 5", "--operator inpaint", "--operator inpaint --mask nothing.png", "--operator phase",
        "--operator jpeg --keep", "--operator superres --factor 0", "--operator superres --factor 4.5", "--operator motion",
        "--operator deblur --workers 2", "--operator deblur --ray", "--operator deblur --sigma 1 --sigma 2",
        "--operator deblur extra words",
    ):  # fmt: skip
        net.run(f"refused {words}", "restore", "photo.png", *words.split(), *(["--steps", "2"] * ("--steps" not in words)),
                "--threads", 1, folder=folder)  # fmt: skip
        for path in (path for path in folder.iterdir() if path.name not in ("photo.png", "mask.png")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def pipelines(net: Net, here: Path) -> None:
    """Small pipelines of diffusers: the branch of the application that opens, tells and draws with them."""
    folder = net.folder()
    Image.fromarray(colours()).save(folder / "photo.png")
    for name, size in (("sd3", "32x32"), ("flux", "32x32"), ("sd", "32x32")):
        try:
            torch.manual_seed(0)
            tiny_pipeline(name).save_pretrained(folder / name)
        except Exception as error:
            net.put(f"pipeline {name}", {"exit": f"raised {type(error).__name__}: {error}"[:300]}, 0.0)
            continue
        told_, one = ("--prompt", "a cat"), ("--threads", 1)
        words = (
            "photo.png",
            "--operator",
            "superres",
            "--factor",
            2,
            "--prior",
            name,
            "--steps",
            3,
            "--simulate",
            *one,
        )
        net.run(f"pipeline {name} restore", "restore", *words, *told_, "--out", f"{name}.a.png", folder=folder)
        net.run(f"pipeline {name} dps", "restore", *words, "--method", "dps", "--out", f"{name}.b.png", folder=folder)
        net.run(f"pipeline {name} rerun", "rerun", f"{name}.a.run.json", folder=folder)
        words = (name, *told_, "--size", size, "--steps", 3, "--seed", 2, "-n", 2, *one, "--each", f"{name}.each")
        net.run(f"pipeline {name} sample", "sample", *words, folder=folder)
        words = (name, *told_, "--size", size, "--reward", "brightness", "--method", "svdd", "--budget", 12, *one)
        net.run(f"pipeline {name} steer", "steer", *words, folder=folder)
        net.run(f"pipeline {name} plan", "plan", name, "dps", "--vram", 4, "--size", 32, folder=folder)
        net.run(f"pipeline {name} doctor", "doctor", name, "--parity", "--steps", 2, folder=folder)


# --- programs ---


def restored(restorer: Any, net: Net, *given: Any, **more: Any) -> Entry:
    answer = restorer(*given, **more)
    result = {"sha256": answer.sha256, "residual": answer.residual, "evaluations": answer.evaluations}
    return {
        "pixels": {"picture": digest(answer.picture.numpy()), "png": digest(np.asarray(answer.image))},
        "settings": plain(json.loads(json.dumps(dict(answer.settings), default=str)), str(net.root)),
        "result": result | dict(answer.scores),
    }


def programs(net: Net, here: Path) -> None:
    for prior, picture in (("photos", "photo.png"), ("aerial", "large.png")):
        restorer = flowhelm.Restorer(prior, threads=1)
        image, tensor = Image.open(here / picture), torch.from_numpy(np.array(Image.open(here / picture)))
        tensor = (tensor if tensor.ndim == 3 else tensor[..., None]).permute(2, 0, 1) / 127.5 - 1
        mask = Image.open(here / ("mask.png" if prior == "photos" else "large-mask.png"))
        ask = partial(restored, restorer, net)
        deblur = {"std": 0.05, "steps": 3, "operator_options": {"sigma": 1.2, "border": "circular"}}
        for name, call in (
            ("path", partial(ask, here / picture, "deblur", simulate=True, **deblur)),
            ("image", partial(ask, image, "deblur", **deblur)),
            ("tensor", partial(ask, tensor, "deblur", seed=2, **deblur)),
            ("mask", partial(ask, image, "inpaint", steps=3, operator_options={"mask": mask})),
            ("method", partial(ask, image, method="fk", method_options={"particles": 2}, **deblur)),
            ("warm", partial(ask, image, method="flower", warm=0.4, **deblur)),
            ("unknown operator", partial(ask, image, "blur")),
            ("unknown option", partial(ask, image, "deblur", operator_options={"sgma": 1})),
            ("range of a tensor", partial(ask, 200 * tensor, "deblur", **deblur)),
        ):
            net.call(f"Restorer {prior} {name}", call)
    for name, given in (
        ("fashion", {"prior": "fashion", "classes": ["coat", "bag"], "count": 2}),
        ("guided", {"prior": "fashion", "classes": ["bag"], "scale": 2.0, "guidance": "raag"}),
        ("photos", {"prior": "photos", "solver": "heun", "seed": 4}),
        ("aerial", {"prior": "aerial", "prompt": "forest", "numbers": {"detail": 0.06}}),
        ("flow", {"prior": problem("pixels")[0], "count": 2, "steps": 5}),
        ("unknown class", {"prior": "fashion", "classes": ["hat"]}),
        ("no pictures", {"prior": "fashion", "count": 0}),
    ):
        net.call(
            f"generate {name}",
            lambda given=given: {"pixels": {"all": of_tensor(flowhelm.generate(**{"steps": 3, **given}))}},
        )


def served(net: Net, here: Path) -> None:
    """The HTTP form, asked as a stranger would: a process of its own."""
    import httpx

    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        port = some.getsockname()[1]
    words = [sys.executable, "-m", "flowhelm", "serve", "--prior", "photos", "--threads", "1", "--port", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ask = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
    try:
        for _ in range(300):
            with contextlib.suppress(httpx.HTTPError):
                ask.get("/openapi.json")
                break
            time.sleep(0.1)
        few = {"operator": "deblur", "sigma": "1.2", "border": "circular", "std": "0.05", "steps": "3"}
        for name, fields in (
            ("deblur", few), ("simulated", few | {"simulate": "true"}), ("method", few | {"method": "dps", "seed": "3"}),
            ("method's options", few | {"method": "fk", "particles": "2"}), ("inpaint", {"operator": "inpaint", "steps": "2"}),
            ("unknown operator", {"operator": "blur"}), ("unknown option", few | {"sgma": "1"}), ("not a number", few | {"std": "x"}),
            ("outside", few | {"std": "-1"}), ("no operator", {}),
        ):  # fmt: skip
            net.call(f"http {name}", partial(answered, net, ask, here, fields))
        net.call("http fields", lambda: {"data": {"paths": sorted(ask.get("/openapi.json").json()["paths"])}})
    finally:
        server.terminate()
        server.wait(20)


def answered(net: Net, ask: Any, here: Path, fields: dict[str, str]) -> Entry:
    files = {"picture": ("p.png", (here / "photo.png").read_bytes())}
    if fields.get("operator") == "inpaint":
        files["mask"] = ("m.png", (here / "mask.png").read_bytes())
    answer = ask.post("/restore", data=fields, files=files)
    entry: Entry = {"exit": answer.status_code}
    if answer.status_code == 200:
        entry["pixels"] = {"picture": digest(np.asarray(Image.open(io.BytesIO(answer.content))))}
        facts = json.loads(answer.headers["x-flowhelm-run"])
        entry["settings"] = plain(facts.pop("settings", {}), str(net.root))
        entry["result"] = plain(facts, str(net.root))
        entry["result"] = json.loads(re.sub(r'"/[^"]*/', '"', json.dumps(entry["result"])))
        entry["settings"] = json.loads(re.sub(r'"/[^"]*/', '"', json.dumps(entry["settings"])))
    else:
        entry["said"] = answer.text
    return entry


# --- the methods alone, so that a difference in the application can be told from one in the core ---


@dataclass(frozen=True, eq=False)
class Decoded(Flow):
    """A latent prior with a linear decoder."""

    latent: Flow
    matrix: Tensor  # (pixels, latent)
    pixels: bool = False
    path: Course = linear

    @property
    def shape(self) -> tuple[int, ...]:
        return self.latent.shape

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return self.latent.velocity(x, t)

    def encode(self, image: Tensor) -> Tensor:
        return (image.flatten(1) @ torch.linalg.pinv(self.matrix).T).view(-1, *self.shape)

    def decode(self, clean: Tensor) -> Tensor:
        return (clean.flatten(1) @ self.matrix.T).view(-1, 1, 4, 4)


def law(d: int, shape: tuple[int, ...]) -> MixtureFlow:
    chance = torch.Generator().manual_seed(d)
    root = torch.randn(2, d, d, generator=chance)
    means = 0.5 * torch.randn(2, d, generator=chance)
    return MixtureFlow(torch.tensor([0.4, 0.6]), means, root @ root.mT / d / 2, shape=shape)


def problem(kind: str) -> tuple[Flow, Measurement]:
    """A flow whose velocity is known, and three measurements: every second column, blurred along the rows."""
    kernel = torch.tensor([[[[0.25, 0.5, 0.25]]]])
    operator = Linear(lambda x: torch.nn.functional.conv2d(x, kernel, padding=(0, 1))[..., ::2], (1, 4, 4))
    y = Measurement(0.5 * torch.randn(3, 1, 4, 2, generator=torch.Generator().manual_seed(2)), operator, 0.2)
    if kind == "pixels":
        return law(16, (1, 4, 4)), y
    matrix = torch.linalg.qr(torch.randn(16, 6, generator=torch.Generator().manual_seed(1)))[0]
    return Decoded(law(6, (1, 2, 3)), matrix), y


def cases() -> dict[str, Callable[..., Any]]:
    few, steps = partial(inner.adam, iterations=8), 6
    changed = {
        "mpc_flow K=1": partial(steer.mpc_flow, strength=20.0),
        "mpc_flow K=3": partial(steer.mpc_flow, strength=20.0, horizon=3, inner=few),
        "mpc_flow rest": partial(steer.mpc_flow, strength=20.0, horizon=None, inner=few),
        "mpc_flow renoised": partial(steer.mpc_flow, strength=20.0, renoise=0.3),
        "mpc_flow_dt few": partial(steer.mpc_flow_dt, strength=20.0, inner=few),
        "mpc_flow_dt renoised": partial(steer.mpc_flow_dt, strength=20.0, inner=few, renoise=0.3),
        "dps step": partial(restore.dps, step=0.3),
        "dps exact": partial(restore.dps, exact=True),
        "pnp_flow draws=3": partial(restore.pnp_flow, draws=3, decay=0.5),
        "flow_dps rate": partial(restore.flow_dps, rate=2.0),
        "flower gamma=1": partial(restore.flower, gamma=1.0),
        "diffpir zeta=0.3": partial(restore.diffpir, zeta=0.3),
        "rebridge euler": partial(restore.rebridge, kappa=5.0, transition=euler),
        "fig w": partial(restore.fig, w=1.0, mix=0.0),
        "daps variance": partial(restore.daps, variance=0.3),
        "daps langevin": partial(restore.daps, variance=0.3, exact=False, ode=2),
        "flair carry=1": partial(restore.flair, carry=1.0, inner=3),
        "tmpd diagonal": partial(restore.tmpd, covariance="diagonal"),
        "stsl step": partial(restore.stsl, step=0.3),
        "stsl exact": partial(restore.stsl, exact=True, step=1.0, probe="exact"),
        "flow_priors few": partial(restore.flow_priors, rate=0.1, inner=5),
        "afdps level": partial(restore.afdps, level=1.0, softening=0.5),
        "flow_chef euler": partial(steer.flow_chef, rate=0.5, inner=1, transition=euler),
        "oc_flow few": partial(steer.oc_flow, iterations=steps),
        "flow_grad few": partial(steer.flow_grad, iterations=steps),
        "d_flow few": partial(steer.d_flow, iterations=steps),
        "flow_opt few": partial(steer.flow_opt, iterations=steps, rate=0.3),
        "fk gradient": partial(steer.fk, proposal="gradient"),
        "fk control": partial(steer.fk, proposal="control", potential="max"),
        "svdd soft, glass": partial(steer.svdd, draws=4, strength=2.0, transition=partial(glass, inner=2)),
        "rbf whole": partial(steer.rbf, draws=6, starts=6, spend_rest=True),
        "path_search draws": partial(steer.path_search, draws=4),
        "best_of draws": partial(steer.best_of, draws=steps),
        "noise_search few": partial(steer.noise_search, iterations=steps, draws=3),
    }
    return {**{method.__name__: method for method in METHODS}, **changed}


def traced(moves: Iterator[Any]) -> Entry:
    """The last state, every clean estimate, and what the steps tell."""
    steps = list(moves)
    info: dict[str, list[Tensor]] = {}
    for step in steps:
        for name, value in step.info.items():
            info.setdefault(name, []).append(value.double().flatten())
    return {
        "pixels": {"x": of_tensor(steps[-1].x), "clean": of_tensor(torch.cat([step.clean for step in steps]))},
        "data": {name: of_tensor(torch.cat(values)) for name, values in sorted(info.items())},
        "result": {"steps": len(steps), "times": [float(step.t) for step in steps]},
    }


def core(net: Net, here: Path) -> None:
    for kind in ("pixels", "latent"):
        flow, y = problem(kind)
        for name, method in cases().items():
            net.call(
                f"core {name} {kind}",
                lambda method=method, flow=flow, y=y: traced(
                    method(flow, y, flow.source(Noise(1, 3)), flow.times(6), noise=Noise(0, 3))
                ),
            )
    flow = flowhelm.load("fashion").told(classes=["bag"])
    clean = torch.from_numpy(clothes())[None, None] / 127.5 - 1
    operator = Linear(lambda x: torch.nn.functional.avg_pool2d(x, 2), (1, 32, 32))
    y = flowhelm.simulate(operator, clean, 0.1, noise=Noise(4, 1))
    few: dict[str, dict[str, Any]] = {
        "flow_priors": {"inner": 2}, "sitcom": {"inner": 3}, "oc_flow": {"iterations": 2}, "flow_grad": {"iterations": 2},
        "d_flow": {"iterations": 1}, "flow_opt": {"iterations": 2}, "noise_search": {"iterations": 2, "draws": 2},
        "best_of": {"draws": 2}, "svdd": {"draws": 3}, "rbf": {"draws": 3}, "path_search": {"draws": 2}, "mpc_flow": {"horizon": 2},
    }  # fmt: skip
    for method in METHODS:
        options = few.get(method.__name__, {})
        net.call(
            f"core {method.__name__} fashion",
            lambda method=method, options=options: traced(
                method(flow, y, flow.source(Noise(1, 1)), flow.times(3), noise=Noise(0, 1), **options)
            ),
        )


PARTS: dict[str, Callable[[Net, Path], None]] = {
    part.__name__.rstrip("_"): part
    for part in (
        core, methods, variants, operators_, ways, batches, steered, drawn,
        calibrated, benched, looked, pipelines, programs, served, spread,
    )
}  # fmt: skip


def record(out: Path, parts: list[str]) -> None:
    os.environ["PYTHONPATH"] = str(Path(flowhelm.__file__).parents[1].resolve())  # other processes run the same code
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="flowhelm-net-")).resolve()
    net, began, broken = Net(root), time.monotonic(), 0
    print(f"flowhelm of {Path(flowhelm.__file__).parent}", flush=True)
    try:
        here = prepare(root)
        for name in parts or PARTS:
            before, start = len(net.entries), time.monotonic()
            try:
                PARTS[name](net, here)
            except Exception:
                traceback.print_exc()
                broken = 1
            print(f"{name:11} {len(net.entries) - before:4} entries, {time.monotonic() - start:6.1f} s", flush=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    out.write_text(json.dumps(net.entries, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    print(f"{len(net.entries)} entries in {time.monotonic() - began:.0f} s -> {out}")
    for name in sorted(net.took, key=net.took.__getitem__)[-8:]:
        print(f"  {net.took[name]:6.1f} s  {name}")
    raise SystemExit(broken)


def compare(before: Path, after: Path, ignore: list[str], only: str, show: int) -> None:
    old, new = json.loads(before.read_text()), json.loads(after.read_text())
    names = [name for name in sorted({*old, *new}) if re.search(only, name)]
    missing, added = [n for n in names if n not in new], [n for n in names if n not in old]
    differ: dict[str, list[str]] = {}
    for name in names:
        if name in old and name in new:
            fields = [f for f in sorted({*old[name], *new[name]}) if f not in ignore]
            wrong = [f for f in fields if old[name].get(f) != new[name].get(f)]
            if wrong:
                differ[name] = wrong
    for name, fields in differ.items():
        print(f"different: {name}: {', '.join(fields)}")
        for field in fields:
            for line in [*apart(old[name].get(field), new[name].get(field), field)][:show]:
                print(f"    {line}")
    for word, some in (("missing", missing), ("new", added)):
        for name in some:
            print(f"{word}: {name}")
    counts = {
        field: sum(field in fields for fields in differ.values())
        for field in sorted({f for w in differ.values() for f in w})
    }
    same = len(names) - len(missing) - len(added) - len(differ)
    print(f"{same} same, {len(differ)} different {counts or ''}, {len(missing)} missing, {len(added)} new")
    raise SystemExit(bool(differ or missing))


def apart(old: Any, new: Any, where: str) -> Iterator[str]:
    """Where two values differ, in lines."""
    if isinstance(old, dict) and isinstance(new, dict):
        if "sha256" in old and "mean" in old and "mean" in new:
            if old != new:
                yield f"{where}: mean {old['mean']} -> {new['mean']}, std {old['std']} -> {new['std']}, {old['shape']} -> {new['shape']}"
            return
        for name in sorted({*old, *new}):
            yield from apart(old.get(name, "(nothing)"), new.get(name, "(nothing)"), f"{where}/{name}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, both in enumerate(zip(old, new, strict=True)):
            yield from apart(*both, f"{where}[{number}]")
    elif isinstance(old, str) and isinstance(new, str) and "\n" in old + new:
        one, other = old.splitlines(), new.splitlines()
        yield from (f"{where}: - {line[:200]}" for line in one if line not in other)
        yield from (f"{where}: + {line[:200]}" for line in other if line not in one)
    elif old != new:
        yield f"{where}: {str(old)[:200]} -> {str(new)[:200]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="what", required=True)
    one = kinds.add_parser("record")
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--part", action="append", choices=PARTS, default=[], help="only this one; several may be given")
    two = kinds.add_parser("compare")
    two.add_argument("before", type=Path)
    two.add_argument("after", type=Path)
    two.add_argument(
        "--ignore", action="append", default=[], help="a field: exit, said, settings, result, pixels, drawn, data"
    )
    two.add_argument("--only", default="", help="a regular expression: entries whose name it finds")
    two.add_argument("--show", type=int, default=6, help="lines of each field that differs")
    given = parser.parse_args()
    if given.what == "record":
        record(given.out, given.part)
    else:
        compare(given.before, given.after, given.ignore, given.only, given.show)


if __name__ == "__main__":
    main()
