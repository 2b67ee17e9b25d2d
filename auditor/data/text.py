"""Samples of text and code: plain files, cut by paragraph, by line or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from auditor.base.errors import AuditorError
from auditor.data.reading import Key, Reading
from auditor.data.sample import Sample
from auditor.data.skipped import Unreadable
from auditor.intake.spool import MAX_LINE_BYTES, Bytes

CODE = (
    "py", "pyi", "js", "mjs", "jsx", "ts", "tsx", "c", "h", "cc", "cpp", "cxx", "hpp", "cu", "cuh", "java", "kt", "go",
    "rs", "rb", "php", "cs", "fs", "swift", "scala", "hs", "ml", "clj", "ex", "exs", "erl", "jl", "lua", "pl", "pm",
    "r", "sh", "bash", "ps1", "sql", "sol", "vue", "css", "scss", "html", "xml", "yaml", "yml", "toml", "ini", "cfg",
    "cmake", "tex", "ipynb", "asm", "v", "vhd", "f90", "m", "dart", "nix", "tf", "proto",
)  # fmt: skip
PROSE = ("txt", "md", "rst", "text")
_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class PlainText(Reading):
    """One file. `by` is paragraph (text between empty lines; each line where there are none), line or file; `name` what
    its samples are named by, `labels` what they carry."""

    def __init__(self, source: Bytes, by: str, name: str, labels: dict[str, Any], group: str = "") -> None:
        self._source, self._by, self._name, self._labels, self._group = source, by, name, labels, group

    def scan(self) -> Iterator[tuple[Key, Any]]:
        if (mark := _MARKS.get(self._source.at(0, 2))) is not None:
            raise AuditorError(f"“{self._source.name}” is not UTF-8 text but {mark}.", "Save it as UTF-8.")
        spans = {"line": self._lines, "file": self._whole, "paragraph": self._paragraphs}[self._by]()
        for number, (start, stop) in enumerate(spans, 1):
            key = (start, stop, number)
            if stop - start > MAX_LINE_BYTES:
                yield key, Unreadable(f"{self._place(key)} is longer than 64 MiB.", "Cut it by paragraph or line.")
            else:
                yield key, self.raw(key)

    def raw(self, key: Key) -> bytes:
        return self._source.at(key[0], key[1])

    def sample(self, key: Key, raw: bytes) -> Sample:
        try:
            text = raw.decode("utf-8-sig" if not key[0] else "utf-8").replace("\r\n", "\n").strip("\n")
        except UnicodeDecodeError as error:
            raise Unreadable(
                f"{self._place(key)} is not UTF-8 text (byte {key[0] + error.start}).", "Save it as UTF-8."
            ) from None
        if "\x00" in text:
            raise Unreadable(f"{self._place(key)} holds null bytes, so it is no text.", "Leave it out.")
        name = self._name if self._by == "file" and self._group else f"{self._name}:{key[2]}"
        return Sample(id=name, text=text, group=self._group or name, labels=self._labels)

    def _place(self, key: Key) -> str:
        return f"“{self._source.name}”" if self._by == "file" else f"Part {key[2]:,} of “{self._source.name}”"

    def _whole(self) -> Iterator[tuple[int, int]]:
        if self._source.size > MAX_LINE_BYTES or self._source.at(0, self._source.size).strip(b"\xef\xbb\xbf \t\r\n"):
            yield 0, self._source.size

    def _lines(self) -> Iterator[tuple[int, int]]:
        for start, stop, line in self._source.lines():
            if not _blank(line):
                yield start, stop

    def _paragraphs(self) -> Iterator[tuple[int, int]]:
        blocks = self._blocks()
        first, second = next(blocks, None), next(blocks, None)
        if first is None or second is None:
            yield from self._lines()  # editors that wrap lines leave a paragraph on one line
            return
        yield from chain((first, second), blocks)

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """Lines between empty ones."""
        begun, end = -1, 0
        for start, stop, line in self._source.lines():
            if not _blank(line):
                begun, end = (start if begun < 0 else begun), stop
            elif begun >= 0:
                yield begun, end
                begun = -1
        if begun >= 0:
            yield begun, end


def _blank(line: bytes | None) -> bool:
    return line is not None and not line.strip(b"\xef\xbb\xbf \t\r\n")
