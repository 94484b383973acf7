#!/usr/bin/env bash
# Everything that must hold: installs flowhelm with its tools into .venv, then lint, types, tests and the docs build.
# `scripts/check.sh slow` runs the long tests too.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --upgrade pip
"$venv/bin/pip" install --quiet -e '.[dev]'
bin=$venv/bin
echo "== ruff"
"$bin/ruff" check .
"$bin/ruff" format --check .
echo "== mypy"
"$bin/mypy"
echo "== docs"
NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true "$bin/mkdocs" build --quiet --strict --site-dir "$(mktemp -d)/site"
echo "== pytest"
if [ "${1:-}" = slow ]; then marks=(-m "slow or not slow" --timeout 1800); else marks=(); fi
# two workers of one thread each: the tests are small, and threads of theirs would only wait for one another
OMP_NUM_THREADS=1 "$bin/python" -m pytest -n 2 --dist loadfile ${marks[@]+"${marks[@]}"}
