"""Some pictures of each class on one sheet, as the model sees them."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .cache import Arrays

PER_CLASS = 8
ROWS = 24  # of classes, before another column begins
CLASSES = 240  # on one sheet
TILE = 48  # pixels a side at least: smaller pictures are shown larger, each pixel as a square
GAP, MARGIN, LETTERS = 2, 16, 13  # pixels


def contact_sheet(arrays: Arrays) -> Image.Image:
    """A strip of training pictures a class, evenly spaced over those it has, under the class's name."""
    size = arrays.train_x.shape[-1]
    tile = size * -(-TILE // size)
    count = min(len(arrays.classes), CLASSES)
    columns = -(-count // ROWS)
    rows = -(-count // columns)
    strip, line = PER_CLASS * (tile + GAP), tile + LETTERS + 3 * GAP
    sheet = Image.new("RGB", (columns * (strip + MARGIN) + MARGIN, rows * line + 2 * MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(LETTERS)
    for label in range(count):
        left = MARGIN + label // rows * (strip + MARGIN)
        top = MARGIN + label % rows * line
        draw.text((left, top), _fitted(_title(arrays, label), font, strip), "black", font)
        of_class = np.flatnonzero(arrays.train_y == label)
        chosen = of_class[np.linspace(0, len(of_class) - 1, min(PER_CLASS, len(of_class))).astype(int)]
        for i, x_CHW in enumerate(arrays.train_x[chosen]):
            pixels = x_CHW[0] if len(x_CHW) == 1 else x_CHW.transpose(1, 2, 0)
            picture = Image.fromarray(np.ascontiguousarray(pixels)).resize((tile, tile), Image.Resampling.NEAREST)
            sheet.paste(picture, (left + i * (tile + GAP), top + LETTERS + 2 * GAP))
    return sheet


def _title(arrays: Arrays, label: int) -> str:
    key, name = arrays.classes[label], arrays.names[label]
    return key if key == name else f"{key}  {name}"


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text} ...") > width:
        text = text[:-1]
    return f"{text.rstrip(', ')} ..."
