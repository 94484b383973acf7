"""Does every family give what its pipeline gives? See `priors.pipelines.parity`.

python -m flowhelm.bench.pipelines.parity                   # tiny random pipelines of all families, made here
python -m flowhelm.bench.pipelines.parity flux2 qwen        # these
flowhelm doctor black-forest-labs/FLUX.2-dev --parity       # one with its weights
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch

from ...priors.pipelines.parity import Parity, compare
from . import tiny as made


def tiny(names: list[str] | None = None) -> Iterator[Parity]:
    """Every family on its tiny pipeline."""
    for name, (build, told) in made.CASES.items():
        if names and name not in names:
            continue
        torch.manual_seed(0)
        yield compare(build(), **told)


def main() -> None:
    print(f"{'pipeline':30} {'latents':>9} {'pixels':>9} {'calls':>6} {'ours':>5} {'gradient':>9} {'graph':>6}")
    bad = False
    for p in tiny(sys.argv[1:]):
        bad |= not p.good
        print(
            f"{p.name:30} {p.latents:9.1e} {p.pixels:9.1e} {p.calls:6d} {p.ours:5d} {'finite' if p.gradient else 'WRONG':>9} "
            f"{'HELD' if p.graph else 'none':>6}{'' if p.good else '   WRONG'}"
        )
    if bad:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
