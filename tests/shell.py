"""What a shell would start: its own loops, variables and quotes are bash's."""

import json
import subprocess
import sys
from pathlib import Path

STAND_INS = ("flowhelm", "python", "bash", "pip", "curl", "ln", "jq", "git")


def stand_ins(folder: Path) -> Path:
    """Programs that write down how they were called, for bash to find."""
    for name in STAND_INS:
        file = folder / name
        file.write_text(
            f"#!{sys.executable} -S\nimport json, os, sys\n"
            f"own = {{name: value for name, value in os.environ.items() if name.startswith('FLOWHELM_')}}\n"
            f"open(os.environ['CALLS'], 'a').write(json.dumps([own, {name!r}, *sys.argv[1:]]) + '\\n')\n"
        )
        file.chmod(0o755)
    return folder


def calls(text: str, programs: Path, folder: Path) -> list[list]:
    """(environment of ours, program, words) of each call."""
    out = folder / "calls.jsonl"
    out.unlink(missing_ok=True)
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "CALLS": str(out), "HOME": str(folder)}
    text = text.replace(".venv/bin/", "")
    done = subprocess.run(["/bin/bash", "-eu", "-c", text], env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in out.read_text().splitlines()]
