"""Images and sounds with what is known of them: in a folder, a zip, a list of paths or a manifest of JSON lines.

A manifest's line has ``file``, and may have ``id``, ``caption``, ``concept`` (or ``group``); everything else becomes
labels. A line without ``file`` but with ``text`` is a text, so that one manifest can hold both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from auditor.base.errors import AuditorError
from auditor.data.audio import AudioRef
from auditor.data.image import ImageRef
from auditor.data.reading import Listed
from auditor.data.sample import Sample
from auditor.data.skipped import Unreadable
from auditor.data.tables import Finder, JsonLines
from auditor.intake import wav
from auditor.intake.archives import members, read_member
from auditor.intake.images import ENDINGS
from auditor.intake.spool import MAX_LINE_BYTES, Bytes, MemoryBytes, bytes_of

OTHER_ENDINGS = (".gif", ".bmp", ".tif", ".tiff", ".svg", ".heic", ".avif", ".ico", ".psd")
"""Of images that are not read; they are listed as left out."""


def finder(beside: Path) -> Finder:
    """Finds what a manifest names: in the zip of its name, else in its folder, and nowhere else."""
    archive = beside.with_name(beside.name.split(".")[0] + ".zip")
    return in_zip(archive) if archive.exists() else in_folder(beside.parent)


def in_archive(archive: Path, asked: Mapping[str, str], caption: str) -> JsonLines | Listed:
    """Images of a zip: by the manifest in it or beside it, else all of its images in order of name."""
    inside = [name for name in members(archive) if name.endswith(".jsonl")]
    beside = archive.with_suffix(".jsonl")
    if len(inside) == 1:
        source = MemoryBytes(inside[0], read_member(archive, inside[0]))
        return JsonLines(source, asked, caption, in_zip(archive))
    if beside.exists():
        return JsonLines(bytes_of(beside), asked, caption, in_zip(archive))
    items: list[Sample | AuditorError] = []
    for name, size in sorted(members(archive).items()):
        if name.lower().endswith(OTHER_ENDINGS):
            items.append(_of_another_kind(name))
        elif name.lower().endswith(ENDINGS):
            items.append(_member(archive, name) if size else _empty(name))
    return Listed(items)


def in_directory(folder: Path, files: list[Path], caption: str) -> Listed:
    """The images and sounds among `files` of a folder, an image with the caption of the .txt file of its name."""
    root, whole = folder.resolve(), cache(Path.resolve)
    items: list[Sample | AuditorError] = []
    for path in files:
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in OTHER_ENDINGS:
            items.append(_of_another_kind(name))
        elif path.suffix.lower() in ENDINGS + wav.ENDINGS:
            # Of a file that is no link only its folder can lie elsewhere.
            inside = path.resolve() if path.is_symlink() else whole(path.parent)
            items.append(_file(path, name, inside.is_relative_to(root), caption))
    return Listed(items)


def one(path: Path) -> Listed:
    """A single image or sound."""
    return Listed([_file(path, path.name)])


def names_of_images(source: Bytes) -> bool:
    """Whether a text file is a list of image files: all its lines are, as far as the first hundred."""
    names = []
    for _, _, line in source.lines():
        text = (line or b"").strip()
        if text:
            names.append(text.lower().endswith(tuple(ending.encode() for ending in ENDINGS)))
        if len(names) >= 100 or names[-1:] == [False]:
            break
    return bool(names) and all(names)


def by_list(source: Bytes, folder: Path) -> Listed:
    """Images by a list of their paths, one a line, in or below the list's folder."""
    find = in_folder(folder)
    items: list[Sample | AuditorError] = []
    for number, (_, _, line) in enumerate(source.lines(), 1):
        name = (line or b"").decode("utf-8", errors="replace").strip()
        if not name:
            continue
        ref = find(name)
        if ref is None:
            items.append(Unreadable(
                f"Line {number:,} of “{source.name}” names the image “{name}”, which is not there.",
                "Keep the list in the folder that holds its images.",
            ))  # fmt: skip
        else:
            items.append(_single(ref, name))
    return Listed(items)


def in_zip(archive: Path) -> Finder:
    held = members(archive)
    return lambda name: ImageRef.inside(archive, name) if name in held else None


def in_folder(folder: Path) -> Finder:
    root = folder.resolve()

    def find(name: str) -> ImageRef | None:
        try:
            path = (root / name).resolve()
            # A manifest must not name files outside its folder.
            return ImageRef.at(path) if path.is_relative_to(root) and path.is_file() else None
        except (OSError, ValueError, RuntimeError):  # no name of a file, or a ring of links
            return None

    return find


def _file(path: Path, name: str, inside: bool = True, caption: str = "label") -> Sample | AuditorError:
    # A folder from a stranger may hold a link to a file of this machine.
    if not inside:
        return Unreadable(f"“{name}” is a link that leads out of the folder.", "Copy the file itself.")
    try:
        if not path.stat().st_size:
            return _empty(name)
    except OSError:
        return Unreadable(f"“{name}” cannot be read.", "Check the rights.")
    if path.suffix.lower() in wav.ENDINGS:
        return _sound(path, name)
    found = _single(ImageRef.at(path), name)
    told = _beside(path)
    if not told:
        return found
    return replace(found, text=told if caption == "text" else None, labels={**found.labels, "caption": told})


def _sound(path: Path, name: str) -> Sample | AuditorError:
    audio = AudioRef(path)
    try:
        labels = {"file": name, "seconds": f"{audio.seconds:.2f}"}
    except AuditorError as error:
        return Unreadable(error.message, error.hint)
    return Sample(id=name, group=_group(name), labels=labels, audio=audio)


def _beside(image: Path) -> str:
    """What the .txt file of an image's name says: many collections keep captions so."""
    path = image.with_suffix(".txt")
    try:
        if not path.is_file() or path.is_symlink() or path.stat().st_size > MAX_LINE_BYTES:
            return ""
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _single(ref: ImageRef, name: str) -> Sample:
    return Sample(id=name, image=ref, group=_group(name), labels={"file": name})


def _member(archive: Path, name: str) -> Sample:
    stem = Path(name).stem
    return Sample(id=stem, image=ImageRef.inside(archive, name), group=stem, labels={"file": name})


def _group(name: str) -> str:
    # A folder's name is the group: images or sounds of one thing usually lie together.
    return Path(name).parent.as_posix() if "/" in name else Path(name).stem


def _empty(name: str) -> Unreadable:
    return Unreadable(f"“{name}” is empty.", "Leave it out or copy it again.")


def _of_another_kind(name: str) -> Unreadable:
    return Unreadable(f"“{name}” is not a PNG, JPEG or WebP image.", "Convert it to PNG.")
