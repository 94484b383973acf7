"""Pictures side by side with captions: input, result, reference."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..files.pictures import to_pil

_GAP = 4


def strip(panels: Sequence[tuple[str, Tensor]], *, height: int | None = None) -> Image.Image:
    """One RGB picture of (caption, image) panels, each scaled to `height` (default: the tallest).

    Images are (1, c, h, w) or (c, h, w) in [-1, 1] with c 1 or 3. Smaller ones grow by repetition, so that their pixels
    show; larger ones are averaged. A panel narrower than its caption is centred over it.
    """
    if not panels:
        raise ValueError("strip: expected at least one (caption, image) panel, got none")
    height = height or max(image.shape[-2] for _, image in panels)
    font = ImageFont.load_default(max(12, height // 18))
    pictures = [_scaled(to_pil(image).convert("RGB"), height) for _, image in panels]
    widths = [max(p.width, round(font.getlength(c)) + 2 * _GAP) for (c, _), p in zip(panels, pictures, strict=True)]
    foot = round(font.getbbox("Ág")[3]) + 2 * _GAP
    sheet = Image.new("RGB", (sum(widths) + _GAP * (len(widths) - 1), height + foot), "white")
    draw, left = ImageDraw.Draw(sheet), 0
    for (caption, _), picture, width in zip(panels, pictures, widths, strict=True):
        sheet.paste(picture, (left + (width - picture.width) // 2, 0))
        draw.text((left + width / 2, height + _GAP), caption, "black", font, anchor="ma")
        left += width + _GAP
    return sheet


def _scaled(picture: Image.Image, height: int) -> Image.Image:
    if picture.height == height:
        return picture
    width = max(1, round(picture.width * height / picture.height))
    how = Image.Resampling.NEAREST if picture.height < height else Image.Resampling.BOX
    return picture.resize((width, height), how)
