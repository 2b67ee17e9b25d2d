"""Tables: JSON lines, CSV and TSV, Parquet. A row is a text, a conversation, an image with its caption, several images
with text among them, or a sound."""

from __future__ import annotations

import csv
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from auditor.base.errors import AuditorError
from auditor.data.audio import AudioRef
from auditor.data.columns import Columns, columns_of, holds_bytes, is_media
from auditor.data.image import ImageRef
from auditor.data.messages import messages_of, pictures_in, with_pictures
from auditor.data.parts import MARK, MOST_PICTURES, Picture, held_in, parts_of, side_by_side, together
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
        none = {"id", "group", *columns.unread}
        labels = {name: value for name, value in row.items() if name not in none and not holds_bytes(value)}
        if columns.label:
            labels["label"] = row.get(columns.label)
        if columns.messages and row.get(columns.messages) is not None:
            return self._conversation(number, row, image, labels)
        if (parts := self._parts(number, row.get(columns.text) if columns.text else None, image)) is not None:
            text, places = together(parts)
            if not places and not text.strip():
                raise self.unreadable(number, "has an empty text")
            pictures = self._pictures(number, [part.source for part in parts if isinstance(part, Picture)])
            return self._several(number, row, text, pictures, labels, places)
        if image not in (None, []):
            return self._picture(number, row, image, labels)
        name, group = self._named(number, row)
        # Among images a text stands under this name; without it the row is an image that is missing.
        wanted = "text" if columns.image else columns.text
        said = row.get(wanted)
        if not isinstance(said, str):
            raise self.unreadable(number, f"has nothing under “{columns.image or columns.messages or wanted}”")
        if not said.strip():
            raise self.unreadable(number, "has an empty text")
        labels.pop(wanted)
        return Sample(id=name, text=said, group=group, labels=labels)

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

    def _named(self, number: int, row: Row) -> tuple[str, str]:
        """A row's name and its group."""
        name = _name(row, f"{self.stem}:{number}")
        return name, str((row.get(self.columns.group) if self.columns.group else None) or name)

    def _picture(self, number: int, row: Row, image: Any, labels: dict[str, Any]) -> Sample:
        columns = self.columns
        caption = row.get(columns.text) if columns.text else row.get("caption")
        if caption is None and isinstance(row.get("text"), str) and MARK in row["text"]:
            caption = row["text"]  # beside rows of another form
        said = isinstance(caption, str) and MARK in caption
        if caption and not said and columns.text not in ("", "caption"):
            labels["caption"] = caption
        if isinstance(image, list) and (len(image) != 1 or said):
            text = str(caption) if caption and (said or self._caption == "text") else None
            return self._several(number, row, text, self._pictures(number, image), labels)
        ref, file = self._found(number, image[0] if isinstance(image, list) else image)
        if not isinstance(row.get(columns.image), str) or not file:
            labels.pop(columns.image, None)
        stem = Path(file).stem or f"{self.stem}:{number}"
        group = row.get(columns.group) or row.get("concept") or stem
        if file.lower().endswith(wav.ENDINGS):
            return Sample(id=_name(row, stem), group=str(group), labels=labels, audio=self._sound(number, ref))
        text = str(caption) if caption and (said or self._caption == "text") else None
        return Sample(id=_name(row, stem), text=text, image=ref, group=str(group), labels=labels)

    def _several(
        self, number: int, row: Row, text: str | None, pictures: Sequence[ImageRef], labels: dict[str, Any],
        places: tuple[int, ...] = (),
    ) -> Sample:  # fmt: skip
        """A text with pictures among it."""
        for column in {self.columns.image, self.columns.text} - {"", "caption"}:
            labels.pop(column, None)
        if text is not None and labels.get("text") == text:
            del labels["text"]
        name, group = self._named(number, row)
        group = str(row.get("concept") or group) if group == name else group
        first, more = next(iter(pictures), None), tuple(pictures[1:])
        return Sample(id=name, text=text, image=first, more=more, group=group, labels=labels, places=places)

    def _parts(self, number: int, said: Any, image: Any) -> list[str | Picture] | None:
        """Texts and pictures in order, where a row holds such a list; pictures that it only marks stand beside it."""
        beside = image if isinstance(image, list) else [] if image is None else [image]
        try:
            if not isinstance(said, list) or not said:
                return None
            if isinstance(image, list) and None in [*said, *image]:
                return side_by_side(said, image)
            return self._sourced(number, parts_of(said), beside)
        except ValueError as error:
            raise self.unreadable(number, f"{error}") from None

    def _sourced(self, number: int, parts: Sequence[str | Picture], beside: Sequence[Any]) -> list[str | Picture]:
        """The parts, whose pictures that have no source of their own take those beside them in turn."""
        missing = sum(isinstance(part, Picture) and part.source is None for part in parts)
        if missing != len(beside):
            raise self.unreadable(number, f"marks {missing} pictures, and {len(beside)} stand beside it")
        left = iter(beside)
        return [Picture(next(left)) if isinstance(part, Picture) and part.source is None else part for part in parts]

    def _conversation(self, number: int, row: Row, image: Any, labels: dict[str, Any]) -> Sample:
        value = row[self.columns.messages]
        beside = list(image) if isinstance(image, list) else [] if image is None else [image]
        try:
            messages, inside = messages_of(value), pictures_in(value)
        except ValueError as error:
            raise self.unreadable(number, f"{error}") from None
        if inside:
            sources = [part.source for part in self._sourced(number, inside, beside) if isinstance(part, Picture)]
        else:
            messages, sources = with_pictures(messages, MARK, len(beside)), beside
        pictures = self._pictures(number, sources) if sources else []
        for column in {self.columns.messages, self.columns.image} - {""}:
            if not isinstance(labels.get(column), str):
                labels.pop(column, None)
        name, group = self._named(number, row)
        labels.pop(self.columns.messages, None)
        return Sample(
            id=name, group=group, labels=labels, messages=messages, image=next(iter(pictures), None),
            more=tuple(pictures[1:]),
        )  # fmt: skip

    def _pictures(self, number: int, sources: Sequence[Any]) -> list[ImageRef]:
        if len(sources) > MOST_PICTURES:
            raise self.unreadable(number, f"has {len(sources):,} pictures; at most {MOST_PICTURES} are read")
        found = []
        for source in sources:
            ref, file = self._found(number, source)
            if file.lower().endswith(wav.ENDINGS):
                raise self.unreadable(number, "has a sound among its pictures")
            found.append(ref)
        return found

    def _sound(self, number: int, ref: ImageRef) -> AudioRef:
        if ref.path is None or ref.member is not None:
            raise self.unreadable(number, f"names the sound “{ref.name}”, and sounds are read from folders only")
        return AudioRef(ref.path)

    def _found(self, number: int, image: Any) -> tuple[ImageRef, str]:
        """The file of the image or sound and its name, which may be empty."""
        path = image.get("path") if isinstance(image, dict) else image
        file = path if isinstance(path, str) else ""
        data = image.get("bytes") if isinstance(image, dict) else image
        try:
            data = held_in(file) if isinstance(path, str) and not isinstance(data, bytes) else data
        except ValueError as error:
            raise self.unreadable(number, f"{error}") from None
        if isinstance(data, bytes):
            file = "" if file.startswith("data:") else file
            if not data:
                raise self.unreadable(number, "has an empty image")
            return ImageRef.held(data, file or f"{self.stem}:{number}"), file
        ref = self._find(file) if self._find is not None and file else None
        if ref is None:
            raise self.unreadable(number, f"names the file “{file[:200]}”, which is not there")
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
    whose quotes do not close, or with null bytes, is unreadable. A column without a name, as pandas writes its index,
    is called by its number, and the second of one name “name 2”."""

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
            self._header = _told_apart(next(iter(csv.reader([header], delimiter=self._delimiter)), []))
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
        if any("\0" in held for held in raw):
            raise self.unreadable(key[-1], "holds null bytes, so it is no text")
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


def _told_apart(header: Sequence[str]) -> list[str]:
    """The names of columns, each its own."""
    found, turns = dict[str, None](), Counter[str]()
    for number, given in enumerate(header, 1):
        base = name = given if given.strip() else f"column {number}"
        while name in found:
            turns[base] += 1
            name = f"{base} {turns[base] + 1}"
        found[name] = None
    return list(found)


def _reason(error: Exception, start: int) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8 text (after byte {start})"
    if any(words in str(error) for words in ("limit", "unexpected end", "expected after")):
        return "has a quote out of place, or one that does not close"
    return f"cannot be read ({error})"


def _name(row: Row, otherwise: str) -> str:
    given = row.get("id")
    return otherwise if given in (None, "") else str(given)
