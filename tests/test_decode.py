"""Pictures to arrays: what Pillow's antialiased resize gives, and every odd file shown rightly or refused by name."""

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps
from small_sets import arrays, encoded, picture, picture_tree, settings

from mlp_sweep import config
from mlp_sweep.data.decode import _may_hold_exif, decode

PHOTOS = os.environ.get("MLP_SWEEP_PHOTOS")


def rules(**changes: object) -> config.Pictures:
    made = settings("image_folder", **changes)
    assert isinstance(made, config.Pictures)
    return made


def by_pillow(image: Image.Image, size: int) -> np.ndarray:
    """The whole picture decoded, the shorter side brought to size with antialiasing, the centre cut out."""
    image = image.convert("RGB")
    shorter = min(image.size)
    image = image.resize((size * image.width // shorter, size * image.height // shorter), Image.Resampling.BILINEAR)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1).astype(float)


def halves(mode: str = "RGB", size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", size, "red")
    ImageDraw.Draw(image).rectangle((size[0] // 2, 0, size[0], size[1]), fill="blue")
    return image.convert(mode)


def colours(data: bytes, **changes: object) -> list[list[int]]:
    """The pixel in the middle of each quarter: top left, top right, bottom left, bottom right."""
    x_CHW = decode(data, rules(image_size=8, **changes))
    assert x_CHW.shape == (3, 8, 8) and x_CHW.dtype == np.uint8
    return [x_CHW[:, row, column].tolist() for row in (1, 6) for column in (1, 6)]


def close(seen: list[list[int]], *expected: tuple[int, int, int]) -> bool:
    return np.abs(np.array(seen, int) - np.array(expected)).max() <= 8


RED, BLUE, WHITE, GREEN = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 255, 0)


def test_a_jpeg_of_the_right_size_is_what_pillow_decodes():
    data = encoded(picture(1))
    np.testing.assert_array_equal(decode(data, rules()), by_pillow(Image.open(io.BytesIO(data)), 64))


@pytest.mark.parametrize(
    ("width", "height"), [(500, 375), (375, 500), (2400, 1600), (121, 68), (64, 200), (30, 20), (333, 77)]
)
def test_photographs_are_what_pillow_makes_of_them(width, height):
    data = encoded(picture(2, width, height), quality=95)
    assert np.abs(decode(data, rules()) - by_pillow(Image.open(io.BytesIO(data)), 64)).mean() < 0.5
    data = encoded(picture(2, width, height), "PNG")  # whole, so nothing but rounding is left
    assert np.abs(decode(data, rules()) - by_pillow(Image.open(io.BytesIO(data)), 64)).max() <= 1


@pytest.mark.skipif(not PHOTOS, reason="MLP_SWEEP_PHOTOS does not name a folder of photographs")
def test_real_photographs_are_within_two_grey_levels_of_pillow():
    assert PHOTOS
    differences = []
    for path in sorted(Path(PHOTOS).glob("*/*")):
        with Image.open(path) as image:
            differences.append(np.abs(decode(path.read_bytes(), rules()) - by_pillow(image, 64)).mean())
    assert len(differences) > 40 and np.mean(differences) < 0.5 and np.max(differences) < 2


def test_crop_takes_the_middle_and_squash_takes_all():
    image = Image.new("RGB", (300, 100), "red")
    ImageDraw.Draw(image).rectangle((100, 0, 199, 99), fill="blue")
    data = encoded(image, "PNG")
    assert close(colours(data, resize="crop"), BLUE, BLUE, BLUE, BLUE)
    assert close(colours(data, resize="squash"), RED, RED, RED, RED)


@pytest.mark.parametrize("interpolation", config.INTERPOLATIONS)
def test_a_fine_pattern_is_averaged_by_all_filters_but_nearest(interpolation):
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    x_CHW = decode(encoded(Image.fromarray(board), "PNG"), rules(image_size=16, interpolation=interpolation))
    assert (np.abs(x_CHW.astype(int) - 127).max() < 10) == (interpolation != "nearest")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grey_is_one_channel_of_luma(kind):
    x_CHW = decode(encoded(halves(), kind, **({"quality": 95} if kind == "JPEG" else {})), rules(color="grey"))
    assert x_CHW.shape == (1, 64, 64)
    assert abs(int(x_CHW[0, 5, 5]) - 76) <= 2 and abs(int(x_CHW[0, 5, 60]) - 29) <= 2


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("P", "PNG"), ("P", "GIF"), ("RGB", "BMP"), ("RGB", "WEBP")]
    + [("RGB", "TIFF"), ("CMYK", "TIFF"), ("RGB", "PPM")],
)
def test_formats_and_modes(mode, kind):
    assert close(colours(encoded(halves(mode), kind)), RED, BLUE, RED, BLUE)


def test_grey_files_become_three_equal_channels():
    for kind in ("JPEG", "PNG"):
        assert close(colours(encoded(Image.new("L", (20, 20), 99), kind)), *[(99, 99, 99)] * 4)


def test_sixteen_bits_are_brought_to_eight():
    levels = np.repeat([[0x1234, 0xABCD]], 2, 0).repeat(32, 0).repeat(32, 1).astype(np.uint16)
    low, high = (0x12, 0x12, 0x12), (0xAB, 0xAB, 0xAB)
    assert close(colours(encoded(Image.fromarray(levels), "PNG")), low, high, low, high)


def test_transparent_parts_are_white():
    image = halves("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 32, 64))
    assert close(colours(encoded(image, "PNG")), WHITE, BLUE, WHITE, BLUE)
    palette = halves("P")
    red = palette.getpixel((0, 0))
    assert close(colours(encoded(palette, "PNG", transparency=red)), WHITE, BLUE, WHITE, BLUE)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation(kind):
    data = encoded(halves(), kind, save_all=True, append_images=[Image.new("RGB", (64, 64), "lime")], duration=100)
    assert close(colours(data), RED, BLUE, RED, BLUE)


@pytest.mark.parametrize(("tag", "expected"), [(1, (RED, BLUE, RED, BLUE)), (3, (BLUE, RED, BLUE, RED))])
def test_exif_says_which_way_is_up(tag, expected):
    exif = Image.Exif()
    exif[0x0112] = tag
    assert close(colours(encoded(halves(), "JPEG", exif=exif)), *expected)
    exif[0x0112] = 6  # to be turned a quarter clockwise
    assert close(colours(encoded(halves(), "JPEG", exif=exif)), RED, RED, BLUE, BLUE)


def segment(marker: int, body: bytes, fill: int = 0) -> bytes:
    """One segment of a JPEG, with 0xFF bytes before its marker, which the standard allows."""
    return b"\xff" * fill + bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def exif_block(orientation: int, order: str, before: int = 0) -> bytes:
    """An EXIF body with the orientation behind some other tags, in Motorola's or Intel's byte order."""
    mark, end = (b"MM", ">") if order == "MM" else (b"II", "<")
    tags = [struct.pack(f"{end}HHII", 0x0100 + i, 4, 1, 7) for i in range(before)]
    tags.append(struct.pack(f"{end}HHIHH", 0x0112, 3, 1, orientation, 0))
    ifd = struct.pack(f"{end}H", len(tags)) + b"".join(tags) + struct.pack(f"{end}I", 0)
    return b"Exif\0\0" + mark + struct.pack(f"{end}HI", 42, 8) + ifd


def xmp_block(orientation: int) -> bytes:
    packet = f'<rdf:Description tiff:Orientation="{orientation}"/>'
    return b"http://ns.adobe.com/xap/1.0/\0" + packet.encode()


OTHERS = [
    (0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
    (0xED, b"Photoshop 3.0\0" + bytes(range(256)) * 8),  # ImageMagick puts it before EXIF
    (0xE2, b"ICC_PROFILE\0\1\1" + b"\xff\xe1\0\6ab" * 10_000),  # 60 kB, with what looks like a segment of EXIF
    (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"),
    (0xFE, b"a comment, Exif\0\0 and tiff:Orientation in it"),
    (0xED, b"\xff\xda" + bytes(65_531)),  # as long as a segment can be
    (0xE5, b""),
]


@given(
    blocks=st.lists(st.sampled_from(OTHERS), max_size=5),
    places=st.lists(st.integers(0, 5), min_size=1, max_size=2),
    orientation=st.integers(0, 9),
    order=st.sampled_from(["MM", "II", "XMP"]),
    before=st.integers(0, 3),
    fills=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    color=st.sampled_from(["rgb", "grey"]),
)
def test_wherever_exif_lies_the_picture_is_as_upright_as_pillow_makes_it(
    blocks, places, orientation, order, before, fills, color
):
    body = xmp_block(orientation) if order == "XMP" else exif_block(orientation, order, before)
    blocks = list(blocks)
    for place in places:  # twice: Pillow joins the two
        blocks.insert(place, (0xE1, body))
    added = b"".join(segment(marker, body, fill) for (marker, body), fill in zip(blocks, fills, strict=False))
    data = PLAIN[:2] + added + PLAIN[2:]
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    expected = np.asarray(upright if color == "rgb" else upright.convert("L"), int)
    seen = decode(data, rules(image_size=24, color=color))
    assert np.abs(seen - (expected.transpose(2, 0, 1) if color == "rgb" else expected)).max() <= (color == "grey")


PLAIN = encoded(picture(8, 24, 24), quality=95)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_behind_64_kilobytes_turns_the_picture(orientation):
    late = b"".join(segment(*OTHERS[i]) for i in (0, 5, 2)) + segment(0xE1, exif_block(orientation, "II"))
    image = Image.open(io.BytesIO(PLAIN))
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)  # Pillow's Transpose
    expected = image if turn is None else image.transpose(Image.Transpose(turn))
    seen = decode(PLAIN[:2] + late + PLAIN[2:], rules(image_size=24))
    np.testing.assert_array_equal(seen, np.asarray(expected).transpose(2, 0, 1))


@given(st.lists(st.tuples(st.sampled_from(OTHERS), st.integers(0, 3)), max_size=6))
def test_only_a_picture_with_exif_or_xmp_is_shown_to_pillow(blocks):
    """Pillow's walk takes longer than simplejpeg's decoding of a small picture."""
    added = b"".join(segment(marker, body, fill) for (marker, body), fill in blocks)
    app1 = any(marker == 0xE1 for (marker, _), _ in blocks)
    assert _may_hold_exif(PLAIN[:2] + added + PLAIN[2:]) == app1


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # as decode.py has it, before pytest's own
@given(st.binary(max_size=60), st.booleans(), st.booleans())
def test_a_damaged_exif_block_leaves_a_sound_picture(junk, late, plausible):
    """Decoded, turned or not: what is wrong with the block is not wrong with the picture."""
    body = (exif_block(6, "MM")[: 14 + len(junk) // 4] if plausible else b"Exif\0\0") + junk
    blocks = segment(*OTHERS[1]) * late + segment(0xE1, body)
    assert decode(PLAIN[:2] + blocks + PLAIN[2:], rules(image_size=24)).shape == (3, 24, 24)


def jpeg_of(width: int, height: int) -> bytes:
    """A picture with detail at every pixel, so that too small a decode shows."""
    noise = np.random.RandomState(width * 10_000 + height).randint(0, 256, (height, width, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise), quality=90)


@pytest.mark.parametrize(
    ("shorter", "decoded"),
    # REDUCED = 3 times 8 pixels have to be left: 1/2 from 48 pixels on, 1/4 from 96, 1/8 from 192 and beyond
    [(8, 8), (24, 24), (47, 47), (48, 24), (95, 48), (96, 24), (191, 48), (192, 24), (384, 48), (700, 88)],
)
@pytest.mark.parametrize("longer", [1.0, 2.0])
@pytest.mark.parametrize("exif", [False, True])  # through simplejpeg or through Pillow
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_leaves_enough(monkeypatch, shorter, decoded, longer, exif):
    seen = []
    monkeypatch.setattr("mlp_sweep.data.decode._square", lambda image, _: seen.append(image.size) or image)
    data = jpeg_of(shorter, int(shorter * longer))
    if exif:
        data = data[:2] + segment(0xE1, exif_block(1, "MM")) + data[2:]
    if shorter == 8 and longer == 1 and not exif:
        assert decode(data, rules(image_size=8)).shape == (3, 8, 8)  # of the right size: taken as it is
        return
    decode(data, rules(image_size=8))
    [size] = seen
    assert min(size) == decoded and max(size) == pytest.approx(decoded * longer, abs=1)


@pytest.mark.parametrize("side", [23, 24, 25, 47, 48, 49, 95, 96, 97, 191, 192, 193, 400])
def test_simplejpeg_and_pillow_give_the_same_bits_at_every_scale(side):
    data = jpeg_of(side, side + 5)
    by_pillow = decode(data[:2] + segment(0xE1, exif_block(1, "II")) + data[2:], rules(image_size=8))
    np.testing.assert_array_equal(decode(data, rules(image_size=8)), by_pillow)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_one_pixel(kind):
    assert close(colours(encoded(Image.new("RGB", (1, 1), "red"), kind)), RED, RED, RED, RED)


def test_a_very_long_picture():
    assert close(colours(encoded(Image.new("RGB", (1_000_000, 1), "blue"), "PNG")), BLUE, BLUE, BLUE, BLUE)


def bomb() -> bytes:
    """A PNG of a few hundred bytes that says it is 20,000 x 20,000."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def large_jpeg(side: int) -> bytes:
    """A sound JPEG whose header is then made to say side x side."""
    data = bytearray(encoded(picture(3)))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", side, side)
    return bytes(data)


BAD = {
    "empty.jpg": b"",
    "text.jpg": b"this is no picture at all\n" * 20,
    "short.jpg": encoded(picture(4))[:700],
    "head.jpg": encoded(picture(4))[:30],
    "short.png": encoded(picture(5), "PNG")[:900],
    "flipped.png": encoded(picture(5), "PNG").replace(b"IDAT", b"IDAX"),
    "short.gif": encoded(picture(6), "GIF")[:500],
    "bomb.png": bomb(),
    "bomb.jpg": large_jpeg(20_000),
    "large.jpg": large_jpeg(10_000),
    "float.tif": encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_refused(name):
    with pytest.raises(ValueError, match=r"not a picture|pixels") as caught:
        decode(BAD[name], rules())
    assert "\n" not in str(caught.value)


@pytest.fixture
def tree_with_bad_ones(tmp_path):
    tree = picture_tree(tmp_path / "set/train", ["ant", "bee"], 3)
    picture_tree(tmp_path / "set/val", ["ant", "bee"], 2)
    for name, data in BAD.items():
        (tree / "bee" / name).write_bytes(data)
    return tmp_path / "set"


def test_a_bad_picture_is_named(tree_with_bad_ones, tmp_path):
    dataset = settings("image_folder", root=str(tree_with_bad_ones), num_classes=2)
    with pytest.raises(ValueError, match=r"bee/.*dataset\.on_error=skip") as caught:
        arrays(dataset, tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert not [p for p in (tmp_path / "data/cache").iterdir() if p.is_dir()]


def test_bad_pictures_are_skipped_counted_and_listed(tree_with_bad_ones, tmp_path, capfd):
    dataset = settings("image_folder", root=str(tree_with_bad_ones), num_classes=2, on_error="skip")
    made = arrays(dataset, tmp_path / "data")
    assert made.train_x.shape == (6, 3, 64, 64) and np.bincount(made.train_y).tolist() == [3, 3]
    np.testing.assert_allclose(made.mean_C, np.array(made.train_x, float).mean((0, 2, 3)), rtol=1e-12)
    assert {Path(name).name for name in made.skipped} == set(BAD)
    record = json.loads((made.folder / "record.json").read_text())
    assert record["skipped"] == made.skipped and all(record["skipped"].values())
    assert f"{len(BAD)} pictures" in capfd.readouterr().err


def test_a_class_of_bad_pictures_alone_cannot_be_skipped(tmp_path):
    tree = picture_tree(tmp_path / "set", ["ant", "bee"], 4)
    for path in (tree / "bee").iterdir():
        path.write_bytes(b"")
    dataset = settings("image_folder", root=str(tree), num_classes=2, on_error="skip")
    with pytest.raises(ValueError, match="no train picture is left of class bee"):
        arrays(dataset, tmp_path / "data")
