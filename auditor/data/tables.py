"""Tables: JSON lines, CSV and TSV, Parquet. A row is a text, a conversation, an image with its caption, or a sound."""

from __future__ import annotations

import csv
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from auditor.base.errors import AuditorError
from auditor.data.audio import AudioRef
from auditor.data.columns import Columns, columns_of, is_media
from auditor.data.image import ImageRef
from auditor.data.messages import messages_of
from auditor.data.plain_json import plain_json
from auditor.data.reading import Key, Reading
from auditor.data.sample import Sample
from auditor.data.skipped import Unreadable
from auditor.intake import wav
from auditor.intake.parquet import ParquetRows
from auditor.intake.spool import Bytes

MAX_FIELD_CHARACTERS = 8 << 20
_HEAD, _TRIED = 50, 1000
_RESCANS = 100


Row = Mapping[str, Any]
Finder = Callable[[str], ImageRef | None]


class Table(Reading):
    """Rows under column names. `find` finds an image file by the name that a row gives it, where that is known."""

    item = "Line"

    def __init__(self, name: str, asked: Mapping[str, str], caption: str, find: Finder | None = None) -> None:
        self.name, self.stem = name, name.split(".")[0]
        self._caption, self._find = caption, find
        head, faulty = self._head()
        # Where only faulty rows are there, each tells its fault.
        self.columns: Columns = Columns() if faulty and not head else columns_of(head, asked, name)

    @abstractmethod
    def row(self, key: Key, raw: Any) -> Row:
        """The row as an object. Unreadable if it is none."""

    def sample(self, key: Key, raw: Any) -> Sample:
        row, columns, number = self.row(key, raw), self.columns, key[-1]
        file = row.get("file")
        image = row.get(columns.image) if columns.image else None
        if image is None and isinstance(file, str) and is_media(file) and not isinstance(row.get("text"), str):
            image = file
        labels = {name: value for name, value in row.items() if name not in ("id", "group")}
        if columns.label:
            labels["label"] = row.get(columns.label)
        if image is not None:
            return self._picture(number, row, image, labels)
        name = _name(row, f"{self.stem}:{number}")
        group = str(row.get(columns.group) or name) if columns.group else name
        if columns.messages and row.get(columns.messages) is not None:
            labels.pop(columns.messages, None)
            try:
                messages = messages_of(row[columns.messages])
            except ValueError as error:
                raise self.unreadable(number, f"{error}") from None
            return Sample(id=name, group=group, labels=labels, messages=messages)
        # Among images a text stands under this name; without it the row is an image that is missing.
        wanted = "text" if columns.image else columns.text
        text = row.get(wanted)
        if not isinstance(text, str):
            raise self.unreadable(number, f"has nothing under “{columns.image or columns.messages or wanted}”")
        if not text.strip():
            raise self.unreadable(number, "has an empty text")
        labels.pop(wanted)
        return Sample(id=name, text=text, group=group, labels=labels)

    def unreadable(self, number: int, what: str) -> Unreadable:
        return Unreadable(f"{self.item} {number:,} of “{self.name}” {what}.", "Leave it out, or correct the file.")

    def _head(self) -> tuple[list[Row], bool]:
        """The first rows that can be read, with later ones that have another column; whether others are faulty."""
        found: list[Row] = []
        names, faulty = set[str](), False
        for key, raw in islice(self.scan(), _TRIED):
            try:
                if isinstance(raw, AuditorError):
                    raise raw
                row = self.row(key, raw)
            except Unreadable:
                faulty = True
                continue
            if len(found) < _HEAD or row.keys() - names:
                found.append(row)
                names |= row.keys()
        return found, faulty

    def _picture(self, number: int, row: Row, image: Any, labels: dict[str, Any]) -> Sample:
        columns = self.columns
        if isinstance(image, list):
            if len(image) != 1:
                raise self.unreadable(number, f"has {len(image)} images, and a sample takes one")
            image = image[0]
        ref, file = self._found(number, image)
        if not isinstance(row.get(columns.image), str):
            labels.pop(columns.image, None)
        caption = row.get(columns.text) if columns.text else row.get("caption")
        if caption and columns.text not in ("", "caption"):
            labels["caption"] = caption
        stem = Path(file).stem or f"{self.stem}:{number}"
        group = row.get(columns.group) or row.get("concept") or stem
        if file.lower().endswith(wav.ENDINGS):
            return Sample(id=_name(row, stem), group=str(group), labels=labels, audio=self._sound(number, ref))
        text = str(caption) if self._caption == "text" and caption else None
        return Sample(id=_name(row, stem), text=text, image=ref, group=str(group), labels=labels)

    def _sound(self, number: int, ref: ImageRef) -> AudioRef:
        if ref.path is None or ref.member is not None:
            raise self.unreadable(number, f"names the sound “{ref.name}”, and sounds are read from folders only")
        return AudioRef(ref.path)

    def _found(self, number: int, image: Any) -> tuple[ImageRef, str]:
        """The file of the image or sound and its name, which may be empty."""
        path = image.get("path") if isinstance(image, dict) else image
        file = path if isinstance(path, str) else ""
        data = image.get("bytes") if isinstance(image, dict) else image
        if isinstance(data, bytes):
            if not data:
                raise self.unreadable(number, "has an empty image")
            return ImageRef.held(data, file or f"{self.stem}:{number}"), file
        ref = self._find(file) if self._find is not None and file else None
        if ref is None:
            raise self.unreadable(number, f"names the file “{file}”, which is not there")
        return ref, file


class JsonLines(Table):
    """One object a line."""

    def __init__(
        self, source: Bytes, asked: Mapping[str, str], caption: str, find: Finder | None = None, name: str = ""
    ) -> None:
        self._source = source
        super().__init__(name or source.name, asked, caption, find)

    def scan(self) -> Iterator[tuple[Key, Any]]:
        for number, (start, stop, line) in enumerate(self._source.lines(), 1):
            if line is None:
                yield (start, stop, number), self.unreadable(number, "is longer than 64 MiB")
            elif line.strip():
                yield (start, stop, number), line

    def raw(self, key: Key) -> bytes:
        return self._source.at(key[0], key[1])

    def row(self, key: Key, raw: bytes) -> Row:
        number = key[-1]
        try:
            # utf-8-sig: some editors start a file with a mark
            row = plain_json(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise self.unreadable(number, f"is not UTF-8 text (byte {key[0] + error.start})") from None
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise self.unreadable(number, "is not a JSON object")
        return row


class SeparatedValues(Table):
    """CSV or TSV under a header; a field in quotes may hold line ends. A row with other fields than the header, or
    whose quotes do not close, is unreadable."""

    item = "Row"

    def __init__(self, source: Bytes, asked: Mapping[str, str], caption: str, find: Finder | None = None) -> None:
        self._source = source
        first = next((line for _, _, line in source.lines()), None) or b""
        try:
            header = first.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise AuditorError(
                f"“{source.name}” is not UTF-8 text (byte {error.start}).", "Save it as UTF-8."
            ) from None
        tabs = ".tsv" in source.name.lower()
        self._delimiter = "\t" if tabs else max(",;\t", key=header.count)
        csv.field_size_limit(MAX_FIELD_CHARACTERS)
        try:
            self._header = next(iter(csv.reader([header], delimiter=self._delimiter)), [])
        except csv.Error as error:
            raise AuditorError(
                f"The header of “{source.name}” cannot be read ({error}).", "Save it with one header line, as UTF-8."
            ) from None
        self._start = len(first)
        super().__init__(source.name, asked, caption, find)

    def scan(self) -> Iterator[tuple[Key, Any]]:
        lines = _Counted(self._source.lines(self._start), self._start)
        reader, number, failed = self._reader(lines), 0, 0
        while True:
            start = lines.at
            try:
                fields = next(reader, None)
            except (csv.Error, UnicodeDecodeError) as error:
                number += 1
                yield (start, lines.at, number), self.unreadable(number, _reason(error, start))
                # A quote that does not close has swallowed good rows: go on with the line after its own, unless the
                # file is full of such, when that would take for ever.
                failed += 1
                if failed <= _RESCANS:
                    lines.back()
                lines.begin()
                reader = self._reader(lines)
                continue
            if fields is None:
                return
            if fields:
                number += 1
                yield (start, lines.at, number), fields
            lines.begin()

    def raw(self, key: Key) -> list[str]:
        text = self._source.at(key[0], key[1]).decode("utf-8")
        return next(self._reader(line + "\n" for line in text.removesuffix("\n").split("\n")))

    def row(self, key: Key, raw: list[str]) -> Row:
        if any(raw[len(self._header) :]):
            raise self.unreadable(key[-1], f"has {len(raw)} fields, and the header has {len(self._header)}")
        return dict(zip(self._header, raw, strict=False))

    def _reader(self, lines: Iterator[str]) -> Iterator[list[str]]:
        csv.field_size_limit(MAX_FIELD_CHARACTERS)
        return csv.reader(lines, delimiter=self._delimiter, strict=True)


class Parquet(Table):
    """Rows of a Parquet file, parsed in the jail and kept on disk while they are used."""

    item, width = "Row", 1

    def __init__(self, path: Path, asked: Mapping[str, str], caption: str, find: Finder | None = None) -> None:
        self._rows = ParquetRows.of(path)
        super().__init__(path.name, asked, caption, find)

    def scan(self) -> Iterator[tuple[Key, Any]]:
        for number in range(len(self._rows)):
            yield (number + 1,), self._rows[number]

    def raw(self, key: Key) -> Row | None:
        return self._rows[key[0] - 1]

    def row(self, key: Key, raw: Row | None) -> Row:
        if raw is None:
            raise self.unreadable(key[-1], "holds text that is not UTF-8")
        return raw


class _Counted(Iterator[str]):
    """Lines of text, of which those of the present row can be given back. `at` is how far was read."""

    def __init__(self, lines: Iterator[tuple[int, int, bytes | None]], start: int) -> None:
        self.at = start
        self._row: list[tuple[int, bytes | None]] = []
        self._held: deque[tuple[int, bytes | None]] = deque()
        self._lines = ((stop, line) for _, stop, line in lines)

    def begin(self) -> None:
        """The next line is the first of a row."""
        self._row = []

    def back(self) -> None:
        """Read all lines of the row but its first again."""
        self._held.extendleft(reversed(self._row[1:]))
        self.at = self._row[0][0]

    def __next__(self) -> str:
        self.at, line = self._held.popleft() if self._held else next(self._lines)
        self._row.append((self.at, line))
        if line is None:
            raise csv.Error("a line is longer than 64 MiB")
        return line.decode("utf-8")


def _reason(error: Exception, start: int) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8 text (after byte {start})"
    if any(words in str(error) for words in ("limit", "unexpected end", "expected after")):
        return "has a quote out of place, or one that does not close"
    return f"cannot be read ({error})"


def _name(row: Row, otherwise: str) -> str:
    given = row.get("id")
    return otherwise if given in (None, "") else str(given)
