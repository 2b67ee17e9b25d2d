"""Image files: what is read, and how what cannot be read is told."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from auditor.base.errors import AuditorError
from auditor.intake.images import image_digest, pixels_digest, read_image


def picture(seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (13, 9)) -> Image.Image:
    channels = len(mode)
    values = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(values.squeeze(), mode=None)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def test_that_lossless_formats_give_back_their_pixels(tmp_path: Path) -> None:
    image = picture()
    assert np.array_equal(read_image(encoded(image, "PNG")), np.asarray(image))
    path = tmp_path / "a.webp"
    path.write_bytes(encoded(image, "WEBP", lossless=True))
    read: npt.NDArray[np.uint8] = read_image(path)
    assert read.dtype == np.uint8 and np.array_equal(read, np.asarray(image))
    assert read_image(encoded(image, "JPEG")).shape == (9, 13, 3)


def test_that_transparency_lies_on_white_and_exif_turns_the_picture() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (read_image(encoded(clear, "PNG")) == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_image(encoded(picture(), "JPEG", exif=exif)).shape == (13, 9, 3)
    grey = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4))
    assert (read_image(encoded(grey, "PNG"))[..., 0] == np.asarray(grey)).all()


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG"),
        (b"GIF89a" + bytes(40), "not a PNG"),
        (encoded(picture(), "PNG")[:60], "damaged"),
        (b"\xff\xd8\xff" + bytes(200), "damaged"),
        (png_claiming(100_000, 100_000), "too many pixels"),
        (png_claiming(9000, 9000), "too many pixels"),
    ],
    ids=["empty", "svg", "gif", "cut", "noise", "bomb", "large"],
)
def test_that_what_is_no_image_is_told_by_name(data: bytes, said: str) -> None:
    with pytest.raises(AuditorError, match=said) as caught:
        read_image(data, name="tiger.png")
    assert "tiger.png" in caught.value.message


def test_that_a_thousand_damaged_images_neither_crash_nor_hang() -> None:
    good = [encoded(picture(), form) for form in ("PNG", "WEBP", "JPEG")]
    random = np.random.default_rng(3)
    for turn in range(300):
        data = bytearray(good[turn % 3])
        for place in random.integers(8, len(data), 4):
            data[place] = int(random.integers(256))
        try:
            read = read_image(bytes(data))
            assert read.ndim == 3 and read.shape[2] == 3
        except AuditorError as error:
            assert error.message


def test_that_a_picture_has_one_digest_however_its_file_is_written() -> None:
    files = [encoded(picture(), "PNG"), encoded(picture(), "PNG", compress_level=0),
             encoded(picture(), "WEBP", lossless=True)]  # fmt: skip
    found = {image_digest(data) for data in files}
    assert found == {pixels_digest(13, 9, picture().tobytes())}
    others = (picture(1), picture(0, size=(9, 13)))
    assert len(found | {image_digest(encoded(other, "PNG")) for other in others}) == 3
    with pytest.raises(AuditorError, match=r"“tiger\.png” is damaged"):
        image_digest(files[0][:60], name="tiger.png")


def test_that_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(AuditorError, match=r"none\.png"):
        read_image(tmp_path / "none.png")


def test_that_of_sixteen_bits_the_upper_eight_are_taken_whatever_the_colours() -> None:
    """Pillow takes all greys beyond 255 of 65,535 for white."""
    ramp = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
    grey = read_image(encoded(Image.fromarray(ramp), "PNG"))
    assert np.array_equal(grey, np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, axis=2))
    rows = b"".join(b"\0" + np.repeat(row[:, None], 3, axis=1).astype(">u2").tobytes() for row in ramp)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 8, 6, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(held)) + kind + held + struct.pack(">I", zlib.crc32(kind + held))
              for kind, held in parts]  # fmt: skip
    assert np.array_equal(read_image(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)), grey)


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_that_the_first_picture_of_an_animation_is_read(form: str, options: dict[str, object]) -> None:
    first, second = picture(1), Image.new("RGB", (13, 9), "red")
    data = encoded(first, form, save_all=True, append_images=[second], duration=50, **options)
    assert np.array_equal(read_image(data), np.asarray(first))
