#!/usr/bin/env bash
# Installs flowhelm into .venv and restores the pictures of examples/: a blurred, a scratched and a small one.
# Prints where the before/after strips are. Nothing outside this folder is touched.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
[ -x .venv/bin/flowhelm ] || {
  "$python" -m venv .venv
  .venv/bin/pip install --quiet --upgrade pip
  echo "installing (PyTorch is large: a minute or more) ..."
  .venv/bin/pip install --quiet -e .
}
flowhelm=.venv/bin/flowhelm
out=${1:-restored}
mkdir -p "$out"
"$flowhelm" restore examples/astronaut_blurred.png --operator deblur --sigma 1.6 --std 0.05 --out "$out/astronaut.png"
"$flowhelm" restore examples/chelsea_scratched.png --operator inpaint --mask examples/chelsea_mask.png --out "$out/chelsea.png"
"$flowhelm" restore examples/coffee_small.png --operator superres --factor 2 --out "$out/coffee.png"
.venv/bin/python examples/gallery.py "$out/examples.png" "$out"/{astronaut,chelsea,coffee}.strip.png
echo "look at: $out/examples.png"
