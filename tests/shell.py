"""What a shell would start: its own loops, variables and quotes are bash's."""

import subprocess
from pathlib import Path

STAND_INS = ("flowhelm", "python", "bash", "pip", "curl", "ln", "jq", "git")

STAND_IN = r"""#!/bin/bash
for name in "${!FLOWHELM_@}"; do printf '%s\0' "$name=${!name}"; done >> "$CALLS"
printf '%s\0' '' "${0##*/}" "$@" $'\036' >> "$CALLS"
"""


def stand_ins(folder: Path) -> Path:
    """Programs that write down how they were called, for bash to find."""
    for name in STAND_INS:
        (folder / name).write_text(STAND_IN)
        (folder / name).chmod(0o755)
    return folder


def calls(text: str, programs: Path, folder: Path) -> list[list]:
    """(environment of ours, program, words) of each call."""
    out = folder / "calls.txt"
    out.write_text("")
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "CALLS": str(out), "HOME": str(folder)}
    text = text.replace(".venv/bin/", "")
    done = subprocess.run(["/bin/bash", "-eu", "-c", text], env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = []
    for call in out.read_text().split("\036\0")[:-1]:
        words = call.split("\0")[:-1]
        own = words[: words.index("")]
        found.append([dict(each.split("=", 1) for each in own), *words[len(own) + 1 :]])
    return found
