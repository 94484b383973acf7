#!/usr/bin/env bash
# Builds the wheel, installs it into an environment of its own, and restores a picture with it in a folder outside the project, with no
# network: the weights, at most 60 MB, have to be in the wheel, and every package that is imported has to be one that it asks for.
# All that it makes lies in a temporary folder, which is removed. PyTorch is a large download.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$root/src" "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$root/NOTICE" "$work/"
cp "$root"/examples/astronaut{,_blurred}.png "$work/"
cd "$work"
unset PYTHONPATH
echo "== build"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip wheel --quiet --no-deps --wheel-dir . .
wheel=$(ls flowhelm-*.whl)
venv/bin/python - "$wheel" <<'CHECK'
import pathlib, sys, zipfile

files = {each.filename: each.file_size for each in zipfile.ZipFile(sys.argv[1]).infolist()}
left = [str(each) for each in pathlib.Path("src").rglob("*")
        if each.is_file() and each.suffix != ".pyc" and str(each.relative_to("src")) not in files]
weights = sum(size for name, size in files.items() if name.endswith(".safetensors"))
print(f"{sys.argv[1]}: {len(files)} files, weights {weights / 1e6:.1f} MB")
sys.exit(f"not in the wheel: {', '.join(left)}" if left else "the weights are more than 60 MB" if weights > 60e6 else 0)
CHECK
rm -r src
echo "== install"
venv/bin/pip install --quiet "$wheel"
venv/bin/pip check
echo "== restore"
export HOME=$work HF_HUB_OFFLINE=1 http_proxy=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9
venv/bin/flowhelm doctor
venv/bin/flowhelm restore astronaut_blurred.png --operator deblur --sigma 1.6 --std 0.05 --out restored.png
venv/bin/python - <<'CHECK'
import flowhelm, numpy, pathlib, PIL.Image, sys
from flowhelm import known

assert pathlib.Path(flowhelm.__file__).is_relative_to(pathlib.Path("venv").resolve()), flowhelm.__file__
names = (*known.NAMES, *known.STUDENTS, *known.BIJECTIONS)
for name in names:
    flowhelm.load(name)
clean, before, after = (
    numpy.asarray(PIL.Image.open(each).convert("RGB"), float)
    for each in ("astronaut.png", "astronaut_blurred.png", "restored.png")
)
gain = 10 * numpy.log10(((before - clean) ** 2).mean() / ((after - clean) ** 2).mean())
print(f"{len(names)} priors load; the restored picture is {gain:.2f} dB nearer to the original than the blurred one")
sys.exit(0 if gain > 2 else "the picture was not restored")
CHECK
