"""Thumbnails of the index: small WebP pictures, taken over as they are where the store's are small WebP already."""

from __future__ import annotations

import io


def thumbnail(image: bytes, px: int, quality: int, name: str) -> bytes:
    """`image` (WebP, PNG or JPEG bytes) as WebP no wider or higher than `px`.

    A WebP of that size is returned as it is, undecoded; anything else is decoded in the jail (AuditorError where it is
    not an image) and made anew.
    """
    size = webp_size(image)
    if size is not None and max(size) <= px:
        return image
    from PIL import Image

    from auditor.intake.images import read_image

    # Only pixels that the jailed child decoded reach Pillow in this process.
    picture = Image.fromarray(read_image(image, name=name))
    picture.thumbnail((px, px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=quality, method=6)
    return buffer.getvalue()


def webp_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) told by a WebP's header (RFC 9649), None where the bytes are no WebP."""
    if len(data) < 30 or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if data[12:16] == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if data[12:16] == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return (int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF)
    return None
