"""Opening samples: which reader a path goes to, and the options that may follow it."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qsl

from auditor.base.errors import AuditorError
from auditor.base.files import limit_behind
from auditor.base.paths import is_text, shown
from auditor.data import pairs
from auditor.data.columns import OPTIONS
from auditor.data.halves import half_of
from auditor.data.reading import Chain, Listed, Reading, Rows
from auditor.data.sample import Sample
from auditor.data.samples import Samples
from auditor.data.skipped import Skips, Unreadable
from auditor.data.tables import JsonLines, Parquet, SeparatedValues
from auditor.data.text import CODE, PROSE, PlainText
from auditor.data.words import holds
from auditor.intake import wav
from auditor.intake.images import ENDINGS
from auditor.intake.spool import bytes_of

MAX_FILES = 1_000_000
_LOOKED_AT = 50
_ABOUT = ("readme", "license", "licence", "notice", "dataset_card")


@dataclass(frozen=True)
class Options:
    """How a file is cut into samples.

    `by` splits plain text (paragraph, line or file; prose by paragraph and code by file where it is not given);
    `field`, `messages_field`, `image_field`, `label_field` and `group_field` name the columns of a table, which are
    guessed otherwise; `endings` narrows a folder to files that end so (separated by commas); `caption` says what
    becomes of an image's caption: ``label`` keeps it beside the image, ``text`` gives it to the network after the
    image; `has` keeps the samples whose text, caption or tags hold one of the words (separated by commas); `half` keeps
    the ``first`` or the ``second`` half (`auditor.data.halves`), one to choose on, one to test on; `limit` takes the
    first so many samples (0: all).
    """

    by: str = ""
    field: str = ""
    messages_field: str = ""
    image_field: str = ""
    label_field: str = ""
    group_field: str = ""
    endings: str = ""
    caption: str = "label"
    has: str = ""
    half: str = ""
    limit: int = 0

    @property
    def asked(self) -> Mapping[str, str]:
        """The column of each role that was chosen."""
        return {role: str(getattr(self, option)) for role, option in OPTIONS.items() if getattr(self, option)}


Reader = Callable[[Path, Options], Reading]

CHOICES = {
    "by": ("", "paragraph", "line", "file"), "caption": ("label", "text"), "half": ("", "first", "second"),
}  # fmt: skip


def open_samples(spec: Path | str, *, strict: bool = False, **options: str | int) -> Samples:
    """Samples of a local file or folder, which are read from it when they are asked for.

    Readable are: text and code files; .jsonl, .csv, .tsv and .parquet with a column of texts, conversations, images or
    texts with images among them (each also as .gz but Parquet); a folder of any of these; images and WAV sounds, a
    folder or a list of them; a .zip of images with a .jsonl manifest in it, beside it or (the other way round) a folder
    that holds both. `spec` may end in options, ``notes.txt?by=line&limit=100``; a name that is no option keeps the
    samples whose label has that value, ``images?split=train`` (the group counts as one).

    Items that cannot be read are left out and counted in `Samples.skips`; with `strict` the first one is an error.
    AuditorError says what is wrong and in which line. The file is read once here, in time that grows with its size
    (2 GB of JSON lines: about a minute); in memory stay 24 bytes an item.
    """
    path, asked = _split(str(spec))
    known = {field.name for field in fields(Options)}
    given = {**asked, **{name: str(value) for name, value in options.items()}}
    chosen = _options({name: value for name, value in given.items() if name in known})
    wanted = {name: value for name, value in given.items() if name not in known}
    if not path.exists():
        raise AuditorError(f"There are no samples at “{path}”.", "Choose a file or folder on this machine.")
    if not path.is_file() and not path.is_dir():
        raise AuditorError(f"“{path.name}” is neither a file nor a folder.", "Copy what it gives into a file.")
    path = path.absolute()
    reading = _reader(path)(path, chosen)
    if chosen.asked and reading.columns is None:
        raise AuditorError(
            f"“{path.name}” has no columns: {next(iter(chosen.asked.values()))!r} cannot be one.",
            "Leave the option out, or choose a table.",
        )
    keys, skips, counts = _scanned(reading, chosen, wanted, strict)
    samples = Samples(path.name, Rows(reading, keys), skips=skips, columns=reading.columns, counts=counts)
    if not samples:
        if skips.count:
            raise skips.of_all(path.name)
        narrowed = {k: v for k, v in given.items() if k in wanted or k in ("has", "half", "endings")}
        said = f" with {', '.join(f'{k}={v}' for k, v in narrowed.items())}" if narrowed else ""
        raise AuditorError(f"“{path.name}” holds no samples{said}.", "Check the file and the options after its name.")
    return samples


def _scanned(
    reading: Reading, options: Options, wanted: Mapping[str, str], strict: bool
) -> tuple[array[int], Skips, Counter[str]]:
    """The keys of the samples that are kept, what was left out, and how many samples have which modality."""
    keys, skips, counts, count = array("q"), Skips(), Counter[str](), 0
    for key, raw in reading.scan():
        if isinstance(raw, AuditorError) and not isinstance(raw, Unreadable):
            raise raw
        try:
            if isinstance(raw, Unreadable):
                raise raw
            sample = reading.sample(key, raw)
        except Unreadable as error:
            if strict:
                raise
            skips.add(error)
            continue
        if not _matches(sample, wanted) or not _chosen(sample, options):
            continue
        keys.extend(key)
        counts.update(sample.modalities)
        count += 1
        if count == options.limit:
            break
    return keys, skips, counts


def _reader(path: Path) -> Reader:
    if path.is_dir():
        return _folder
    name = path.name.lower().removesuffix(".gz")
    for ending, reader in READERS.items():
        if name.endswith(ending):
            return reader
    if name.endswith(".json"):
        raise AuditorError(f"“{path.name}” is one JSON value.", "Write it as .jsonl, with an object on each line.")
    raise AuditorError(
        f"“{path.name}” is of no kind that holds samples.",
        f"Use {', '.join(SHOWN)}, or a folder.",
    )


def _folder(path: Path, options: Options) -> Reading:
    manifests = [] if options.endings else sorted(path.glob("*.jsonl"))
    if len(manifests) == 1 and (table := _manifest(manifests[0], options)) is not None:
        return table
    files = _files(path, options.endings)
    named = [file for file in files if is_text(file.relative_to(path))]
    told = [
        Unreadable(f"“{shown(file.relative_to(path))}” cannot be kept: its name is no UTF-8.", "Rename it.")
        for file in files if not is_text(file.relative_to(path))
    ]  # fmt: skip
    reading = _of_files(path, named, options)
    return Chain([reading, Listed(told)]) if told else reading


def _of_files(path: Path, files: list[Path], options: Options) -> Reading:
    kinds = Counter(_kind(file) for file in files)
    for kind in ("image", "sound"):
        if kinds[kind]:
            chosen = [file for file in files if _kind(file) == kind]
            others = [file for file in files if _kind(file) != kind and _holds_samples(file)]
            captions = {file.with_suffix(".txt") for file in chosen} if others else set()
            others = [file for file in others if file not in captions]
            return _all_of(pairs.in_directory(path, chosen, options.caption), path, others, f"{kind}s")
    if kinds["table"] and kinds["table"] >= kinds["text"]:
        tables = [file for file in files if _kind(file) == "table"]
        first = _ending(tables[0])
        reading = _each(path, [file for file in tables if _ending(file) == first], options, _table_of)
        others = [file for file in tables if _ending(file) != first]
        return _all_of(reading, path, others, f"{first} tables")
    # A README beside nothing else is no set of samples: such a folder is of another kind.
    wanted = ("text", "prose", "document") if kinds["text"] else ("document",)
    return _each(path, [file for file in files if _kind(file) in wanted], options, _text_of)


def _each(folder: Path, files: list[Path], options: Options, read: Callable[[Path, Path, Options], Reading]) -> Reading:
    """Files of one kind, one after the other; one that cannot be read is told like an item. AuditorError where none
    can, or there is no room to unpack them, or no more may be open."""
    parts, failed = list[Reading](), list[AuditorError]()
    for file in files:
        try:
            parts.append(read(folder, file, options))
        except AuditorError as error:
            if limit_behind(error):  # no fault of the file
                raise
            failed.append(error)
            parts.append(Listed([Unreadable(error.message, error.hint)]))
    if failed and len(failed) == len(files):
        raise failed[0]
    return Chain(parts)


def _holds_samples(path: Path) -> bool:
    """Whether a person may take a file of a folder for samples; code and settings beside them are none."""
    prose = _kind(path) == "text" and _ending(path)[1:] in PROSE
    return prose or _kind(path) in ("image", "sound", "table", "document")


def _all_of(reading: Reading, folder: Path, others: list[Path], kind: str) -> Reading:
    """What is read of a folder, and for each file of another kind that it is left out."""
    told = [
        Unreadable(
            f"“{file.relative_to(folder).as_posix()}” is of another kind than the {kind} that this folder is read for.",
            "Open it by itself.",
        )
        for file in others
    ]
    return Chain([reading, Listed(told)]) if told else reading


def _manifest(path: Path, options: Options) -> Reading | None:
    """A table that names images; None for any other."""
    try:
        table = _rows(path, options)
    except AuditorError:
        return None
    return table if table.columns is not None and (table.columns.image or _pictured(table)) else None


def _pictured(table: Reading) -> bool:
    """Whether one of the first rows names a picture among its parts or in its messages."""
    for key, raw in islice(table.scan(), _LOOKED_AT):
        try:
            if not isinstance(raw, AuditorError) and table.sample(key, raw).image is not None:
                return True
        except Unreadable:
            continue
    return False


def _files(folder: Path, endings: str) -> list[Path]:
    """Files of a folder in order of name, without hidden ones and those of other endings."""
    wanted = tuple(f".{ending.strip().lstrip('.').lower()}" for ending in endings.split(",") if ending.strip())
    found = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "__pycache__")) for part in path.relative_to(folder).parts)
        if hidden or not path.is_file() or (wanted and not path.name.lower().endswith(wanted)):
            continue
        found.append(path)
        if len(found) > MAX_FILES:
            raise AuditorError(f"“{folder.name}” holds more than {MAX_FILES:,} files.", "Choose a folder inside it.")
    return found


def _kind(path: Path) -> str:
    """What a file of a folder is by its name; a README does not make a folder of tables one of texts."""
    if path.suffix.lower() in (*ENDINGS, *pairs.OTHER_ENDINGS):
        return "image"
    if path.suffix.lower() in wav.ENDINGS:
        return "sound"
    ending = _ending(path)
    if ending in TABLES:
        return "table"
    if path.suffix.lower() in DOCUMENTS:
        return "document"
    if ending[1:] in PROSE:
        return "prose" if path.name.split(".")[0].lower() in _ABOUT else "text"
    return "text" if ending[1:] in CODE else ""


def _ending(path: Path) -> str:
    """What a file's name ends in, whether it is packed by gzip or not."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _led_out(folder: Path, path: Path) -> Reading | None:
    """What stands for a file whose link leads out of its folder; None for any other."""
    if path.resolve().is_relative_to(folder.resolve()):
        return None
    name = path.relative_to(folder).as_posix()
    return Listed([Unreadable(f"“{name}” is a link that leads out of the folder.", "Copy the file itself.")])


def _table_of(folder: Path, path: Path, options: Options) -> Reading:
    return _led_out(folder, path) or _reader(path)(path, options)


def _text_of(folder: Path, path: Path, options: Options) -> Reading:
    name = path.relative_to(folder).as_posix()
    if path.suffix.lower() in DOCUMENTS:
        return Listed([Unreadable(f"“{name}” is a document, not plain text.", "Save it as .txt.")])
    if (led := _led_out(folder, path)) is not None:
        return led
    if path.parent == folder and _ending(path)[1:] in PROSE:
        return _plain(path, options)
    return _code(path, options, name)


def _plain(path: Path, options: Options) -> Reading:
    source = bytes_of(path)
    if not options.by and pairs.names_of_images(source):
        return pairs.by_list(source, path.parent)
    return PlainText(source, options.by or "paragraph", path.name.split(".")[0], {"file": path.name})


def _code(path: Path, options: Options, name: str = "") -> Reading:
    name = name or path.name
    ending = _ending(path)[1:]
    by = options.by or ("paragraph" if ending in PROSE else "file")
    labels = {"file": name, "language": ending}
    return PlainText(bytes_of(path), by, name, labels, group=name)


def _rows(path: Path, options: Options) -> Reading:
    return JsonLines(bytes_of(path), options.asked, options.caption, pairs.finder(path))


def _separated(path: Path, options: Options) -> Reading:
    return SeparatedValues(bytes_of(path), options.asked, options.caption, pairs.finder(path))


def _parquet(path: Path, options: Options) -> Reading:
    return Parquet(path, options.asked, options.caption, pairs.finder(path))


def _zip(path: Path, options: Options) -> Reading:
    return pairs.in_archive(path, options.asked, options.caption)


def _single(path: Path, options: Options) -> Reading:
    return pairs.one(path)


TABLES = (".jsonl", ".csv", ".tsv", ".parquet")
DOCUMENTS = (".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub", ".ppt", ".pptx", ".xls", ".xlsx")
SHOWN = (".txt", *TABLES, ".zip", "a file of code", *ENDINGS, *wav.ENDINGS)
READERS: dict[str, Reader] = {
    ".jsonl": _rows,
    ".csv": _separated,
    ".tsv": _separated,
    ".parquet": _parquet,
    ".zip": _zip,
    **dict.fromkeys(ENDINGS + wav.ENDINGS, _single),
    **{f".{ending}": _plain for ending in PROSE},
    **{f".{ending}": _code for ending in CODE},
}


def _split(spec: str) -> tuple[Path, dict[str, str]]:
    try:
        whole = Path(spec).exists() or "?" not in spec
    except OSError:  # with its options longer than a name may be
        whole = "?" not in spec
    if whole:
        return Path(spec), {}
    name, _, query = spec.rpartition("?")
    return Path(name), dict(parse_qsl(query, keep_blank_values=True))


def _options(given: dict[str, str]) -> Options:
    for name, choices in CHOICES.items():
        if given.get(name, choices[0]) not in choices:
            known = " or ".join(choice for choice in choices if choice)
            raise AuditorError(f"“{name}={given[name]}” is not an option of samples.", f"Use {known}.")
    limit = given.pop("limit", "0")
    if not limit.isdecimal():
        raise AuditorError(f"“limit={limit}” is not a number of samples.", "Give a whole number.")
    return Options(**given, limit=int(limit))


def _chosen(sample: Sample, options: Options) -> bool:
    if options.has and not holds(sample, options.has):
        return False
    return not options.half or half_of(sample.id, sample.group if sample.image or sample.audio else "") == options.half


def _matches(sample: Sample, wanted: Mapping[str, str]) -> bool:
    known = {**sample.labels, "group": sample.group}
    return all(str(known.get(name)) == value for name, value in wanted.items())
