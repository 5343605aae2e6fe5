"""One encoded picture to a square RGB array. Imports torchvision: import this where pictures are prepared."""

import io

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional


def decode(data: bytes, size: int, name: str) -> np.ndarray:
    """3 x size x size uint8: shorter side to `size` (bilinear, antialiased), centre crop. ValueError names it."""
    try:
        if data[:3] == b"\xff\xd8\xff" or data[:8] == b"\x89PNG\r\n\x1a\n":
            encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            picture = decode_image(encoded, ImageReadMode.RGB, apply_exif_orientation=True)
        else:  # what torchvision has no decoder for
            picture = functional.pil_to_tensor(Image.open(io.BytesIO(data)).convert("RGB"))
    except (RuntimeError, OSError, ValueError) as error:
        raise ValueError(f"{name}: not a picture that can be decoded ({str(error).splitlines()[0]})") from error
    if picture.shape[1:] != (size, size):
        picture = functional.resize(picture, [size], antialias=True)
        picture = functional.center_crop(picture, [size, size])
    return picture.numpy()
