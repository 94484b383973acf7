"""Stack before/after strips into one picture: python examples/gallery.py OUT.png STRIP.png [STRIP.png ...]"""

import sys
from pathlib import Path

from PIL import Image

out, *strips = map(Path, sys.argv[1:])
rows = [Image.open(path).convert("RGB") for path in strips]
width = max(row.width for row in rows)
rows = [row.resize((width, round(row.height * width / row.width)), Image.Resampling.LANCZOS) for row in rows]
sheet = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
top = 0
for row in rows:
    sheet.paste(row, (0, top))
    top += row.height
sheet.save(out)
