"""Commands made from requests, and what a terminal shows of a run."""

import os
import signal
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from pydantic import Field

from flowhelm.app.errors import BadInput
from flowhelm.app.options.request import Flag, Request, Untyped
from flowhelm.app.run import Failed, Noted, Planned, Said, Stepped, Stopped, Warned, Written, drive, signals, unbroken
from flowhelm.interfaces.cli.progress import carried_out
from flowhelm.interfaces.cli.words import asks, own


class Below(Request):
    device: str = Field("cpu", description="Where to compute.")


class Asked(Below):
    photo: Path = Field(description="The photograph.")
    steps: int = Field(7, ge=1, le=9, description="Steps of the method.")
    std: float = Field(0.5, gt=0, description="The noise.")
    keep: bool = Field(False, description="Keep what was measured.")
    word: Literal["one", "two"] = "one"
    labels: Annotated[list[str], Flag(("--class",))] = Field([], description="A class.")
    count: Annotated[int | None, Flag(("-n",))] = Field(None, ge=1, description="How many.")
    numbers: Annotated[dict[str, float], Flag(("--number",), "NAME=VALUE")] = Field({}, description="A number.")
    made: Annotated[int, Untyped()] = 3


@pytest.fixture
def typed(capsys):
    """What a command line gives: the values that were typed, and the option of the command alone."""
    app, seen = typer.Typer(), []

    @app.command("ask", help="Ask.")
    @asks(Asked, arguments=("photo",), without=("device",))
    def ask(read, preview: Annotated[bool, typer.Option("--preview", help="Show it.")] = False) -> None:
        seen.append((read(), preview))

    def run(line: str):
        app(line.split(), standalone_mode=False)
        return seen.pop() if seen else capsys.readouterr().out

    run.names = own(ask)
    return run


def test_the_options_are_the_fields(typed):
    assert typed("a.png")[0].stored() == {"photo": "a.png"}  # what was not typed is not set
    request, preview = typed(
        "a.png --steps 3 --std 0.1 --keep --word two --class a --class b -n 2 --number x=1 --number y=-2.5 --preview"
    )
    assert preview
    assert request.stored() == {
        "photo": "a.png", "steps": 3, "std": 0.1, "keep": True, "word": "two", "labels": ["a", "b"], "count": 2,
        "numbers": {"x": 1.0, "y": -2.5},
    }  # fmt: skip
    names = {*Asked.model_fields, "help", "class", "n", "number", "preview"} - {"device", "made"}
    assert set(typed.names) == names


def test_the_help_is_that_of_the_fields(typed):
    said = " ".join(typed("--help").split())
    for text in (
        "The photograph.", "Steps of the method.", "Allowed: above 0.", "default: 7", "NAME=VALUE", "Show it.",
    ):  # fmt: skip
        assert text in said
    assert "--made" not in said
    assert "--device" not in said


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.png --number x", "--number: expected NAME=VALUE such as brightness=0.4, got 'x'"),
        ("a.png --number x=1 --number x=2", "--number x is given twice"),
        ("a.png --std 0", "ask: --std: expected a number above 0, got 0.0"),
        ("a.png --word tow", "ask: --word: there is no 'tow'; did you mean two?"),
    ],
)
def test_what_is_refused(typed, line, message):
    with pytest.raises(BadInput) as error:
        typed(line)
    assert message in str(error.value)


def test_a_terminal_shows_every_event(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def work():
        yield Planned(2, text="two steps")
        for i in (1, 2):
            yield Stepped(i, 2, f"misfit {i}")
        yield Noted("it is small")
        yield Warned("it is dark")
        yield Failed("b.png", "it is no picture")
        yield Written((tmp_path / "a.png", Path("/other/b.png")))
        yield Written(tuple(tmp_path / "each" / f"{i}.png" for i in range(9)))
        yield Said("a: 3 evaluations\nb: 4")  # a table has many lines
        return 5

    assert carried_out(work()) == 5
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "two steps", "note: it is small", "warning: it is dark", "failed: b.png: it is no picture", "wrote a.png, /other/b.png",
        "wrote 9 files to each", "a: 3 evaluations", "b: 4",
    ]  # fmt: skip
    assert said.err.splitlines()[-1].startswith("step 2/2, misfit 2, 0 s left")


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_signal_waits_for_the_end_of_what_is_unbroken(request):
    outer = signal.signal(signal.SIGINT, signal.default_int_handler)  # a program begun in the background ignores it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, outer))
    before, done = signal.getsignal(signal.SIGINT), []

    def work(times: int):
        try:
            with unbroken():
                for _ in range(times):
                    os.kill(os.getpid(), signal.SIGINT)
                done.append("whole")
            done.append("never")
        except Stopped:
            yield Said("stopped")
            raise

    seen = []
    with pytest.raises(Stopped) as stop, signals():
        drive(work(1), seen.append)
    assert (stop.value.code, done, seen) == (130, ["whole"], [Said("stopped")])
    with pytest.raises(KeyboardInterrupt), signals():  # a second one does not wait
        drive(work(2))
    assert done == ["whole"]
    with pytest.raises(KeyboardInterrupt):  # as without: whoever owns the process decides
        drive(work(1))
    assert signal.getsignal(signal.SIGINT) is before
