"""Captioned images: a manifest of JSON lines and the pictures that it names, in a zip or a folder; sounds in a folder.

A line has ``file``, and may have ``id``, ``caption``, ``concept`` (or ``group``); everything else becomes labels. A
line without ``file`` but with ``text`` is a text, so that one manifest can hold both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from auditor.base.errors import AuditorError
from auditor.data.audio import AudioRef
from auditor.data.image import ImageRef
from auditor.data.sample import Sample
from auditor.data.text import json_object, objects
from auditor.intake import wav
from auditor.intake.archives import members, read_member
from auditor.intake.images import ENDINGS

Rows = Iterable[tuple[int, dict[str, Any]]]
Finder = Callable[[str], ImageRef | None]


def names_images(manifest: Path) -> bool:
    """Whether a line of a manifest names an image file, or a sound."""
    files = (row.get("file") for _, row in objects(manifest))
    return any(isinstance(file, str) and file.lower().endswith(ENDINGS + wav.ENDINGS) for file in files)


def beside_manifest(manifest: Path, caption: str) -> Iterator[Sample]:
    """Images in the zip of the manifest's name, or in the folder of the manifest."""
    archive = manifest.with_name(manifest.name.split(".")[0] + ".zip")
    found = _in_zip(archive) if archive.exists() else _in_folder(manifest.parent)
    return _samples(objects(manifest), found, manifest.name, caption)


def in_archive(archive: Path, caption: str) -> Iterator[Sample]:
    """Images of a zip: by the manifest in it or beside it, else all of its images in order of name."""
    inside = [name for name in members(archive) if name.endswith(".jsonl")]
    beside = archive.with_suffix(".jsonl")
    if len(inside) == 1:
        lines = read_member(archive, inside[0]).decode("utf-8", errors="replace").splitlines()
        rows = ((n, json_object(line, n, inside[0])) for n, line in enumerate(lines, 1) if line.strip())
        return _samples(rows, _in_zip(archive), inside[0], caption)
    if beside.exists():
        return beside_manifest(beside, caption)
    images = sorted(name for name in members(archive) if name.lower().endswith(ENDINGS))
    rows = ((number, {"file": name}) for number, name in enumerate(images, 1))
    return _samples(rows, _in_zip(archive), archive.name, caption)


def _samples(rows: Rows, find: Finder, name: str, caption: str) -> Iterator[Sample]:
    for number, row in rows:
        file = row.get("file")
        if file is None and isinstance(row.get("text"), str):
            labels = {key: value for key, value in row.items() if key not in ("id", "group", "text")}
            yield Sample(
                id=str(row.get("id") or f"line {number}"),
                text=row["text"],
                group=str(row.get("group") or ""),
                labels=labels,
            )
            continue
        image = find(file) if isinstance(file, str) else None
        if image is None:
            raise AuditorError(
                f"Line {number} of “{name}” names the file “{file}”, which is not there.",
                "Keep the manifest and its images together.",
            )
        labels = {key: value for key, value in row.items() if key not in ("id", "group")}
        group = str(row.get("group") or row.get("concept") or Path(str(file)).stem)
        text = str(row["caption"]) if caption == "text" and row.get("caption") else None
        own = str(row.get("id") or Path(str(file)).stem)
        if str(file).lower().endswith(wav.ENDINGS):
            yield Sample(id=own, group=group, labels=labels, audio=_sound(image))
        else:
            yield Sample(id=own, text=text, image=image, group=group, labels=labels)


def _sound(found: ImageRef) -> AudioRef:
    if found.path is None or found.member is not None:
        raise AuditorError(f"The sound “{found.name}” lies in a zip.", "Unpack the sounds into a folder.")
    return AudioRef(found.path)


def _in_zip(archive: Path) -> Finder:
    held = members(archive)
    return lambda name: ImageRef.inside(archive, name) if name in held else None


def _in_folder(folder: Path) -> Finder:
    root = folder.resolve()

    def find(name: str) -> ImageRef | None:
        path = (root / name).resolve()
        # A manifest must not name files outside its folder.
        return ImageRef.at(path) if path.is_relative_to(root) and path.is_file() else None

    return find
