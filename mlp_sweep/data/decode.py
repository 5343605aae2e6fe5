"""One encoded picture to a square uint8 array.

JPEG goes through simplejpeg, five times the rate of Pillow for 64-pixel pictures; both carry libjpeg-turbo and give
the same bits. Pillow takes what simplejpeg does not: other formats, CMYK, EXIF rotation, and JPEGs not quite sound.
"""

import io
import struct
import warnings
from typing import Protocol

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from .. import config

# A JPEG is decoded at 1/2, 1/4 or 1/8 as long as REDUCED x the wanted side is left. On 42 photographs of ImageNet
# at 64 pixels the result is 0.2 grey levels from a full decode's on average (0.9 with 2 in place of 3), 1.6 x as fast.
REDUCED = 3
EXIF_WITHIN = 1024  # bytes; where EXIF comes first, Pillow decodes, whether the picture is to be turned or not
APP1, START_OF_SCAN = 0xE1, 0xDA  # markers of a JPEG's segments; EXIF and XMP lie in an APP1
ORIENTATION = 0x0112  # the tag; 2 to 8: mirrored, turned or both
FILTERS = {name: Image.Resampling[name.upper()] for name in config.INTERPOLATIONS}

# Pillow's limit against decompression bombs, 89 million pixels: an error here, not the warning that it begins with.
warnings.simplefilter("error", Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")  # damaged EXIF, sound picture
TOO_LARGE = f"more than {Image.MAX_IMAGE_PIXELS:,} pixels"


class Rules(Protocol):
    """What of a data set's settings decides a picture's bytes."""

    image_size: int
    resize: str
    interpolation: str
    color: str


def decode(encoded: bytes | np.ndarray, rules: Rules) -> np.ndarray:
    """C x size x size uint8 from a file's bytes or from HW or HWC pixels. ValueError says what is wrong with them."""
    if isinstance(encoded, np.ndarray):
        image = Image.fromarray(encoded)
    else:
        try:
            pixels_HWC = _sound_jpeg(encoded, rules)
            image = _other(encoded, rules) if pixels_HWC is None else None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ValueError(TOO_LARGE) from error
        except UnidentifiedImageError as error:
            raise ValueError("not a picture of a kind that can be decoded") from error
        except (OSError, ValueError, SyntaxError, EOFError, struct.error, IndexError) as error:  # Pillow's many
            raise ValueError(f"not a picture that can be decoded ({_first_line(error)})") from error
        if image is None:
            assert pixels_HWC is not None
            if pixels_HWC.shape[:2] == (rules.image_size, rules.image_size):
                return pixels_HWC.transpose(2, 0, 1)
            image = Image.fromarray(pixels_HWC.squeeze(2) if pixels_HWC.shape[2] == 1 else pixels_HWC)
    pixels = np.asarray(_square(image.convert(_mode(rules)), rules))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _mode(rules: Rules) -> str:
    return "L" if rules.color == "grey" else "RGB"


def _sound_jpeg(encoded: bytes, rules: Rules) -> np.ndarray | None:
    """HWC pixels, at reduced scale where enough is left; None for what Pillow should see."""
    if encoded[:3] != b"\xff\xd8\xff" or b"Exif\0" in encoded[:EXIF_WITHIN] or _turned(encoded):
        return None
    try:
        *size, space, _ = simplejpeg.decode_jpeg_header(encoded)
        height, width = (int(side) for side in size)
        if space not in ("YCbCr", "Gray", "RGB"):
            return None
        if height * width > (Image.MAX_IMAGE_PIXELS or 0):
            raise Image.DecompressionBombError
        scale = 1
        while scale < 8 and min(height, width) >= 2 * scale * REDUCED * rules.image_size:
            scale *= 2
        wanted = "GRAY" if rules.color == "grey" else "RGB"
        return simplejpeg.decode_jpeg(encoded, wanted, min_height=-(-height // scale), min_width=-(-width // scale))
    except ValueError:
        return None


def _turned(encoded: bytes) -> bool:
    """Whether a JPEG's EXIF or XMP, wherever it lies, says that the picture is to be turned or mirrored."""
    if not _may_hold_exif(encoded):
        return False
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return image.getexif().get(ORIENTATION) in range(2, 9)
    except (OSError, ValueError, SyntaxError, struct.error):  # simplejpeg may still decode it
        return False


def _may_hold_exif(encoded: bytes) -> bool:
    """Whether a segment before the first scan is one of EXIF or XMP, or the segments are not in order.

    A walk of 3 us; Pillow's takes 100, and most pictures have no such segment.
    """
    at, end = 2, len(encoded) - 4
    while at < end and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker == APP1:
            return True
        if marker == START_OF_SCAN:
            return False
        # 0xFF before a marker is fill
        at += 1 if marker == 0xFF else 2 + encoded[at + 2] * 256 + encoded[at + 3]
    return True


def _other(encoded: bytes, rules: Rules) -> Image.Image:
    """The first frame, upright, with transparent parts on white and 16 bits brought to 8."""
    image = Image.open(io.BytesIO(encoded))
    side = REDUCED * rules.image_size
    image.draft(None, (side, side))  # JPEG alone knows it; Pillow keeps at least that much
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"no known range of grey levels, mode {image.mode}")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def _square(image: Image.Image, rules: Rules) -> Image.Image:
    """Resized with antialiasing: the shorter side to size and the centre cut out, or squashed to fit."""
    size, resample = rules.image_size, FILTERS[rules.interpolation]
    width, height = image.size
    if (width, height) == (size, size):
        return image
    if rules.resize == "squash":
        return image.resize((size, size), resample)
    # Cut out in the same step: a picture of 1 x 1,000,000 resized whole would be 64 x 64,000,000.
    shorter = min(width, height)
    whole_width, whole_height = size * width // shorter, size * height // shorter
    left, top = round((whole_width - size) / 2), round((whole_height - size) / 2)
    x, y = width / whole_width, height / whole_height
    return image.resize((size, size), resample, box=(left * x, top * y, (left + size) * x, (top + size) * y))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
