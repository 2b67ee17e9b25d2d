"""A picture that is read when it is needed: from a file, from a member of a zip, or from memory."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from auditor.base.digest import sha256_bytes, sha256_file
from auditor.base.errors import AuditorError

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ImageRef:
    """Where a picture is. Build it by `at`, `inside`, `held` or `of`.

    Loading decodes in the jailed child (see `auditor.intake.images`); AuditorError names the file that cannot be read.
    """

    path: Path | None = None
    member: str | None = None
    array: Pixels | None = field(default=None, repr=False, compare=False)
    data: bytes | None = field(default=None, repr=False)
    label: str = ""

    @classmethod
    def at(cls, path: Path | str) -> ImageRef:
        """The image file at `path`."""
        return cls(path=Path(path))

    @classmethod
    def inside(cls, archive: Path | str, member: str) -> ImageRef:
        """The member of that name in a zip archive."""
        return cls(path=Path(archive), member=member)

    @classmethod
    def held(cls, data: bytes, name: str) -> ImageRef:
        """An encoded image file in memory."""
        return cls(data=data, label=name)

    @classmethod
    def of(cls, array: Pixels) -> ImageRef:
        """Pixels in memory: uint8 [H, W, 3]. AuditorError for another shape or type."""
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
            raise AuditorError(
                f"An image must be uint8 [height, width, 3], not {array.dtype} {list(array.shape)}.",
                "Convert it to 8-bit RGB.",
            )
        return cls(array=np.ascontiguousarray(array))

    @property
    def name(self) -> str:
        """The file or member name, or ``image`` for pixels in memory."""
        return self.label or self.member or (self.path.name if self.path else "image")

    def load(self) -> Pixels:
        """The pixels: uint8 [H, W, 3]; transparency is laid on white."""
        from auditor.intake.images import read_image

        if self.array is not None:
            return self.array
        return read_image(self._source(), name=self.name)

    def pixels_digest(self) -> str:
        """SHA-256 of width, height and pixels; AuditorError as by `load`. Two files of one picture have the same."""
        return self.facts()[0]

    def facts(self) -> tuple[str, int, int]:
        """`pixels_digest`, and the rows and columns of pixels."""
        from auditor.intake.images import image_facts, pixels_digest

        if self.array is not None:
            rows, columns, _ = self.array.shape
            return pixels_digest(columns, rows, self.array.tobytes()), rows, columns
        return image_facts(self._source(), name=self.name)

    def encoded(self) -> bytes:
        """The encoded file as it lies on disk; PNG for pixels in memory."""
        if self.array is not None:
            return _png(self.array)
        if self.data is not None:
            return self.data
        if self.member:
            from auditor.intake.archives import read_member

            return read_member(self._file(), self.member)
        try:
            return self._file().read_bytes()
        except OSError as error:
            raise AuditorError(f"The image “{self._file()}” cannot be read.", "Check the path and rights.") from error

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the encoded file; of shape and pixels for an array."""
        if self.array is not None:
            return sha256_bytes(repr(self.array.shape).encode() + self.array.tobytes())
        if self.member or self.data is not None:
            return sha256_bytes(self.encoded())
        try:
            return sha256_file(self._file())
        except OSError as error:
            raise AuditorError(f"The image “{self._file()}” cannot be read.", "Check the path and rights.") from error

    def thumbnail(self, px: int = 96) -> bytes:
        """PNG no wider or higher than `px`, proportions kept."""
        from PIL import Image

        # Only pixels that the jailed child decoded, or that were made here, reach Pillow in this process.
        picture = Image.fromarray(self.load())
        picture.thumbnail((px, px), Image.Resampling.LANCZOS)
        return _png(np.asarray(picture))

    def _source(self) -> bytes | Path:
        return self.encoded() if self.member or self.data is not None else self._file()

    def _file(self) -> Path:
        if self.path is None:
            raise AuditorError("The image has neither a file nor pixels.", "Open the samples again.")
        return self.path


def _png(array: Pixels) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()
