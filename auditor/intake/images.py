"""Image files from anywhere: PNG, JPEG and WebP of bounded size, decoded in the jailed child to raw RGB pixels."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from auditor.base.errors import AuditorError

FORMATS = ("PNG", "JPEG", "WEBP")
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
MAX_PIXELS = 64 << 20
MAX_FILE_BYTES = 256 << 20
_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")


def read_image(source: Path | str | bytes, *, name: str = "") -> npt.NDArray[np.uint8]:
    """Pixels uint8 [H, W, 3] of a file or of its bytes, turned as its EXIF says, transparency laid on white; of 16 bits
    the upper 8, of an animation the first picture.

    AuditorError names the image that is empty, damaged, too large or of another format.
    """
    width, height, pixels = _in_jail("decode", source, name)
    return np.frombuffer(pixels, dtype=np.uint8).reshape(height, width, 3)


def image_digest(source: Path | str | bytes, *, name: str = "") -> str:
    """`pixels_digest` of a file or of its bytes, which are wholly decoded for it; the pixels stay in the child.
    AuditorError as by `read_image`."""
    return str(_in_jail("digest", source, name))


def pixels_digest(width: int, height: int, pixels: bytes) -> str:
    """SHA-256 that names a picture, however its file is written."""
    found = hashlib.sha256(f"{width} {height} ".encode())
    found.update(pixels)
    return found.hexdigest()


def digest(data: bytes, name: str) -> str:
    """Runs in the child."""
    return pixels_digest(*decode(data, name))


def image_facts(source: Path | str | bytes, *, name: str = "") -> tuple[str, int, int]:
    """`image_digest`, and the rows and columns of pixels. AuditorError as by `read_image`."""
    found, rows, columns = _in_jail("facts", source, name)
    return str(found), int(rows), int(columns)


def facts(data: bytes, name: str) -> list[Any]:
    """Runs in the child."""
    width, height, pixels = decode(data, name)
    return [pixels_digest(width, height, pixels), height, width]


def decode(data: bytes, name: str) -> list[Any]:
    """[width, height, RGB bytes]; runs in the child."""
    from PIL import Image, ImageOps

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise _too_large(name, width, height)
            picture.load()
            shown = ImageOps.exif_transpose(picture) or picture
            rgb = _on_white(shown)
    except AuditorError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, 0, 0) from error
    except Exception as error:
        raise AuditorError(
            f"The image “{name}” is damaged and cannot be decoded.", "Leave it out or copy it again."
        ) from error
    return [rgb.width, rgb.height, rgb.tobytes()]


def _in_jail(function: str, source: Path | str | bytes, name: str) -> Any:
    from auditor.intake.jail import shared_jails

    shown = name or (Path(source).name if not isinstance(source, bytes) else "image")
    data = source if isinstance(source, bytes) else _read(Path(source), shown)
    _check(data, shown)
    return shared_jails().call(f"auditor.intake.images:{function}", data, shown)


def _on_white(picture: Any) -> Any:
    from PIL import Image

    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        ground.alpha_composite(picture)
        return ground.convert("RGB")
    if picture.mode.startswith("I"):  # 16 bits of grey, of which Pillow would take all beyond 255 for white
        picture = Image.fromarray((np.asarray(picture).clip(0, 65535) >> 8).astype(np.uint8))
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _read(path: Path, name: str) -> bytes:
    if path.exists() and not path.is_file():
        raise AuditorError(f"“{name}” is not a file.", "Choose an image file.")
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise AuditorError(f"The image “{name}” is larger than {MAX_FILE_BYTES >> 20} MiB.", "Make it smaller.")
        return path.read_bytes()
    except OSError as error:
        raise AuditorError(f"The image “{name}” cannot be read.", "Check that the file is there.") from error


def _check(data: bytes, name: str) -> None:
    if not data:
        raise AuditorError(f"The image “{name}” is empty.", "Leave it out or copy it again.")
    if not data.startswith(_STARTS):
        raise AuditorError(f"“{name}” is not a PNG, JPEG or WebP image.", "Convert it to PNG.")


def _too_large(name: str, width: int, height: int) -> AuditorError:
    size = f" ({width} × {height})" if width else ""
    return AuditorError(f"The image “{name}” has too many pixels{size}.", f"At most {MAX_PIXELS >> 20} megapixels.")
