"""Docstrings are plain text, not Markdown: keep `*`, `_`, `[`, `<` and `|` in the reference as they were written."""

import inspect
import re
from typing import Any

from griffe import Docstring, Extension, Object

SPECIAL = re.compile(r"(`[^`\n]+`)|([*_\[\]<>|])")
RAW = str.maketrans({c: f"&#{ord(c)};" for c in "*_[]<>|"})
SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$")


class Plain(Extension):
    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring)


def plain(docstring: Docstring) -> str:
    """Escapes the prose; leaves `code`, indented formulas (four blanks, outside sections) and names of arguments alone."""
    section, lines = False, []
    for line in inspect.cleandoc(docstring.value).splitlines():
        if line and not line.startswith(" "):
            section = SECTION.match(line) is not None
        if not section and line.startswith("    "):
            lines.append(line)
            continue
        lines.append(SPECIAL.sub(lambda m: m[1] or m[2].translate(RAW), line))
    return "\n".join(lines)
