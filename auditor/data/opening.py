"""Opening samples: which reader a path goes to, and the options that may follow it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qsl

from auditor.base.errors import AuditorError
from auditor.data import pairs, text
from auditor.data.audio import AudioRef
from auditor.data.halves import half_of
from auditor.data.image import ImageRef
from auditor.data.sample import Sample
from auditor.data.samples import Samples
from auditor.data.words import holds
from auditor.intake import wav
from auditor.intake.images import ENDINGS

Reader = Callable[[Path, "Options"], Iterable[Sample]]


@dataclass(frozen=True)
class Options:
    """How a file is cut into samples.

    `by` splits plain text (paragraph, line or file); `field` names the text in JSON and CSV rows; `caption` says what
    becomes of an image's caption: ``label`` keeps it beside the image, ``text`` gives it to the network after the
    image; `has` keeps the samples whose text, caption or tags hold one of the words (separated by commas); `half` keeps
    the ``first`` or the ``second`` half (`auditor.data.halves`), one to choose on, one to test on; `limit` takes the
    first so many samples (0: all).
    """

    by: str = "paragraph"
    field: str = "text"
    caption: str = "label"
    has: str = ""
    half: str = ""
    limit: int = 0


CHOICES = {"by": ("paragraph", "line", "file"), "caption": ("label", "text"), "half": ("", "first", "second")}


def open_samples(spec: Path | str, **options: str | int) -> Samples:
    """Samples of a local file or folder.

    Readable are: .txt; .jsonl and .jsonl.gz with a text field; .csv with a header; a folder of images, of .txt files
    or of WAV files, or one of these; a .zip of images with a .jsonl manifest in it, beside it or (the other way round)
    a folder that holds both; a folder of WAV files with such a manifest.
    `spec` may end in options, ``notes.txt?by=line&limit=100``; a name that is no option keeps the samples whose label
    has that value, ``images?split=train`` (the group counts as one). AuditorError says what is wrong and in which line.
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
    found = (s for s in _reader(path)(path, chosen) if _matches(s, wanted) and _chosen(s, chosen))
    samples = Samples(path.name, islice(found, chosen.limit) if chosen.limit else found)
    if not samples:
        narrowed = {k: v for k, v in given.items() if k in wanted or k in ("has", "half")}
        said = f" with {', '.join(f'{k}={v}' for k, v in narrowed.items())}" if narrowed else ""
        raise AuditorError(f"“{path.name}” holds no samples{said}.", "Check the file and the options after its name.")
    return samples


def _reader(path: Path) -> Reader:
    if path.is_dir():
        return _folder
    name = path.name.lower()
    for ending, reader in READERS.items():
        if name.endswith(ending):
            return reader
    raise AuditorError(
        f"“{path.name}” is of no kind that holds samples.",
        f"Use {', '.join(READERS)}, or a folder of images or of WAV files.",
    )


def _folder(path: Path, options: Options) -> Iterable[Sample]:
    manifests = sorted(path.glob("*.jsonl"))
    if len(manifests) == 1 and pairs.names_images(manifests[0]):
        return pairs.beside_manifest(manifests[0], options.caption)
    images = sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
    if images:
        return (_image(p, str(p.relative_to(path))) for p in images)
    sounds = sorted(p for p in path.rglob("*") if p.suffix.lower() in wav.ENDINGS and p.is_file())
    if sounds:
        return (_sound(p, str(p.relative_to(path))) for p in sounds)
    return (sample for p in sorted(path.glob("*.txt")) for sample in _plain(p, options))


def _plain(path: Path, options: Options) -> Iterable[Sample]:
    return text.plain(path, options.by)


def _rows(path: Path, options: Options) -> Iterable[Sample]:
    if pairs.names_images(path):
        return pairs.beside_manifest(path, options.caption)
    return text.json_rows(path, options.field)


def _csv(path: Path, options: Options) -> Iterable[Sample]:
    return text.csv_rows(path, options.field)


def _zip(path: Path, options: Options) -> Iterable[Sample]:
    return pairs.in_archive(path, options.caption)


def _single(path: Path, options: Options) -> Iterable[Sample]:
    return [_image(path, path.name)]


def _image(path: Path, name: str) -> Sample:
    return Sample(id=name, image=ImageRef.at(path), group=_group(name), labels={"file": name})


def _heard(path: Path, options: Options) -> Iterable[Sample]:
    return [_sound(path, path.name)]


def _sound(path: Path, name: str) -> Sample:
    audio = AudioRef(path)
    return Sample(id=name, group=_group(name), labels={"file": name, "seconds": f"{audio.seconds:.2f}"}, audio=audio)


def _group(name: str) -> str:
    # A folder's name is the group: images or sounds of one thing usually lie together.
    return Path(name).parent.as_posix() if "/" in name else Path(name).stem


READERS: dict[str, Reader] = {
    ".txt": _plain,
    ".jsonl": _rows,
    ".jsonl.gz": _rows,
    ".csv": _csv,
    ".zip": _zip,
    **dict.fromkeys(ENDINGS, _single),
    **dict.fromkeys(wav.ENDINGS, _heard),
}


def _split(spec: str) -> tuple[Path, dict[str, str]]:
    if Path(spec).exists() or "?" not in spec:
        return Path(spec), {}
    name, _, query = spec.rpartition("?")
    return Path(name), dict(parse_qsl(query, keep_blank_values=True))


def _options(given: dict[str, str]) -> Options:
    for name, choices in CHOICES.items():
        if given.get(name, choices[0]) not in choices:
            raise AuditorError(f"“{name}={given[name]}” is not an option of samples.", f"Use one of {choices}.")
    limit = given.pop("limit", "0")
    if not limit.isdecimal():
        raise AuditorError(f"“limit={limit}” is not a number of samples.", "Give a whole number.")
    return Options(**given, limit=int(limit))


def _chosen(sample: Sample, options: Options) -> bool:
    if options.has and not holds(sample, options.has):
        return False
    return not options.half or half_of(sample.id, sample.group if sample.image or sample.audio else "") == options.half


def _matches(sample: Sample, wanted: dict[str, str]) -> bool:
    known = {**sample.labels, "group": sample.group}
    return all(str(known.get(name)) == value for name, value in wanted.items())
