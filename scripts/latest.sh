#!/usr/bin/env bash
# Do the pipelines still agree with the newest diffusers and transformers, whatever the version window says? For a scheduled job:
# a fresh environment, the newest releases, the parity table and the pipelines' tests. Removes what it creates.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --upgrade pip
"$work/venv/bin/pip" install --quiet -e '.[test]'
"$work/venv/bin/pip" install --quiet --upgrade --upgrade-strategy eager diffusers transformers accelerate
"$work/venv/bin/pip" list 2>/dev/null | grep -E '^(torch|diffusers|transformers|accelerate) '
"$work/venv/bin/python" -m flowhelm.bench.pipelines.parity
"$work/venv/bin/python" -m pytest tests/pipelines tests/contract/test_pipelines.py
