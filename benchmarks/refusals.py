"""How long it takes to say what is wrong with a command, beside `python -c "import typer, pydantic"`: CPU seconds, in turns.

    python benchmarks/refusals.py --repeats 10

Prints the median of each, and of the differences with its quartiles.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile

COMMANDS = (
    "restore none.jpg --operator deblur",
    "restore none.jpg",
    "restore none.jpg --operator deblur --sigm 3",
    "restore none.jpg --operator deblur --steps 0",
    "steer fashion --reward brightness --method fkk",
    "methods",
    "operators",
)


def seconds(words: list[str], folder: str) -> float:
    """CPU seconds of a process: a busy machine does not lengthen them much."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], capture_output=True, cwd=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            pairs = [
                (
                    seconds(["-c", "import typer, pydantic"], folder),
                    seconds(["-m", "flowhelm", *command.split()], folder),
                )
                for _ in range(repeats)
            ]
            more = sorted(mine - base for base, mine in pairs)
            low, middle, high = statistics.quantiles(more, n=4)
            base, mine = (statistics.median(each) for each in zip(*pairs, strict=True))
            print(f"{command:48} {mine:.2f} s, {base:.2f} s before; {middle:.2f} s more ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
