"""Writes docs/claims.md and docs/claims/*.md from the rows in docs/data/claims: `python scripts/claims.py`.

One file of JSON for each system whose claims flowhelm answers for; to fill a row, write what a command printed into `measured`, set
`command` and `verdict`, say `why`, and run this again. A test compares the pages with what this writes. `--check` only compares; status 1
if a page is not what it would write.
"""

import argparse
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ROWS = DOCS / "data" / "claims"

Kind = Literal["Restore", "Steer and tune", "Sample", "Distil", "Train", "Beyond flows of pictures"]
Verdict = Literal[
    "holds", "holds partly", "not at our scale", "does not reproduce", "not measured yet", "not built yet"
]
OPEN = ("not measured yet", "not built yet")
MEANING = {
    "holds": "the claim was measured here, and holds",
    "holds partly": "a part of it holds here, or it holds under a condition that its page names",
    "not at our scale": "it does not show on the small priors here, and was made for something larger",
    "does not reproduce": "it was measured here, and does not hold",
    "not measured yet": "no command has printed a figure for the claim yet",
    "not built yet": "flowhelm does not have the method",
}
Line = Annotated[str, Field(min_length=3, pattern=r"^[^\n]+$")]


class Row(BaseModel):
    """One claim. Every field is one line of Markdown; links are relative to docs/claims."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    claim: Line = Field(description="The claim in a sentence.")
    published: str = Field(default="", pattern=r"^[^\n]*$", description="The figure as published, if there is one.")
    command: str = Field(default="", description="What tests it here; lines of a shell.")
    smallest: str = Field(
        default="", description="The same at its smallest size, which a test starts; as it is if not given."
    )
    measured: str = Field(default="", pattern=r"^[^\n]*$", description="What the command printed, with its interval.")
    verdict: Verdict = "not measured yet"
    why: str = Field(default="", pattern=r"^[^\n]*$", description="Why the verdict is this, or what is missing.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.verdict not in OPEN and not (self.command and re.search(r"\d", self.measured) and self.why):
            raise ValueError(f"a verdict of {self.verdict!r} needs a command, a measured figure and a why")
        if self.smallest and not self.command:
            raise ValueError("the smallest size of a command needs the command")
        if self.verdict in OPEN and self.measured:
            raise ValueError(f"what was measured needs another verdict than {self.verdict!r}")
        return self


class System(BaseModel):
    """One system: its paper, what it is called here, and its claims."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    system: Line
    source: Line = Field(description="arXiv:NUMBER, or where it was published.")
    kind: Kind
    parts: tuple[str, ...] = Field(default=(), description="Its names in flowhelm: steer.mpc_flow.")
    more: tuple[str, ...] = Field(default=(), description="Pages that say more, relative to docs/claims.")
    claims: tuple[Row, ...] = Field(min_length=1)

    @property
    def verdict(self) -> str:
        """Of each of its claims, each once."""
        return "; ".join(dict.fromkeys(row.verdict for row in self.claims))


def systems() -> dict[str, System]:
    """Every row, by the name of its page. Exits with a sentence where a file does not fit."""
    found = {}
    for file in sorted(ROWS.glob("*.json")):
        try:
            found[file.stem] = System.model_validate_json(file.read_text(encoding="utf-8"))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            sys.exit(f"{file.name}: {where}: {first['msg']}; see scripts/claims.py for the fields")
    order = get_args(Kind)
    return dict(sorted(found.items(), key=lambda item: (order.index(item[1].kind), item[1].system.lower())))


def linked(text: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


MARK = re.compile(r"<!-- cards: (\w+)(?: [A-Z]+)?(?: (if|unless) ([\w ]+?))? -->")


def part(name: str) -> str:
    """`steer.mpc_flow` as a link to its card; other names as they are."""
    folder, _, function = name.rpartition(".")
    source = ROOT / "src" / "flowhelm" / folder / f"{function}.py"
    card = " ".join(source.read_text(encoding="utf-8").split()) if source.is_file() else ""
    for file in sorted((DOCS / "methods").glob("*.md")):
        for place, word, words in MARK.findall(file.read_text(encoding="utf-8")):
            if place == folder and (not word or (words in card) == (word == "if")):
                return f"[`{name}`](../methods/{file.name}#{function})"
    return f"`{name}`"


def page(system: System) -> str:
    lines = [
        f'---\ndescription: "{system.system}: {system.verdict}."\n---',
        "<!-- made by scripts/claims.py from docs/data/claims; edit the row, not this page -->",
        f"# {system.system}",
        f"{linked(system.source)}. " + f"Here: {', '.join(map(part, system.parts))}." * bool(system.parts),
    ]
    for row in system.claims:
        lines.append(f"## {row.claim.rstrip('.')}")
        if row.published:
            lines.append(f"**Published.** {linked(row.published[0].upper() + row.published[1:])}.")
        if row.command:
            lines += ["**The command here.**", f"```sh\n{row.command}\n```"]
        if row.measured:
            lines.append(f"**Measured here.** {row.measured}")
        lines.append(f"**Verdict: {row.verdict}.** {row.why}".rstrip())
    if system.more:
        lines.append("More: " + ", ".join(system.more) + ".")
    lines.append("[All claims](../claims.md)")
    return "\n\n".join(lines) + "\n"


HEAD = """---
description: "Every system behind flowhelm: its claim, the command that tests it here, and whether it holds."
---

<!-- made by scripts/claims.py from docs/data/claims; edit the rows, not this page -->

# Does it hold?

flowhelm is built from {systems} published systems. Each has a page: its claims with the figures as published, the commands that
test them here, what we measured, and why. The priors here are small and the seconds are of a processor, so that a claim about
a large model may not show. Of {claims} claims: {verdicts}.

{meaning}

{rows}

The rows are in `docs/data/claims`, one file each; `python scripts/claims.py` writes these pages from them. To fill a row, write what a
command printed, with its interval, into `measured`, set `command` and `verdict`, and say `why`; `smallest` is the same command as small
as it goes, which a test starts.
"""


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ("---",) * len(head), *rows))


def index(known: dict[str, System]) -> str:
    count = Counter(row.verdict for each in known.values() for row in each.claims)
    rows = [
        (
            f"[{each.system}](claims/{name}.md)",
            " ".join(f"{linked(row.claim).rstrip('.')}." for row in each.claims),
            "; ".join(row.published for row in each.claims if row.published) or "-",
            each.verdict,
        )
        for name, each in known.items()
    ]
    return HEAD.format(
        systems=len(known),
        claims=count.total(),
        verdicts=", ".join(f"{verdict} {count[verdict]}" for verdict in get_args(Verdict) if count[verdict]),
        meaning=table(("verdict", "what it means"), list(MEANING.items())),
        rows=table(("system", "claim", "published", "here"), rows),
    )


def pages() -> dict[Path, str]:
    """Every page by its file."""
    known = systems()
    return {DOCS / "claims.md": index(known)} | {
        DOCS / "claims" / f"{name}.md": page(each) for name, each in known.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only")
    check, made = parser.parse_args().check, pages()
    stale = [file for file in (DOCS / "claims").glob("*.md") if file not in made]
    wrong = [file for file, text in made.items() if not file.is_file() or file.read_text(encoding="utf-8") != text]
    if check:
        print(
            *(
                f"{file.relative_to(ROOT)} is not what the rows say; run python scripts/claims.py"
                for file in [*wrong, *stale]
            ),
            sep="\n",
        )
        return 1 if wrong or stale else 0
    (DOCS / "claims").mkdir(exist_ok=True)
    for file in stale:
        file.unlink()
    for file in wrong:
        file.write_text(made[file], encoding="utf-8")
    print(f"{len(made)} pages, {len(wrong)} written, {len(stale)} removed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
