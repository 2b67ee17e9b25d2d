"""Makes sample_data/images/: captioned drawings from the emoji packages and Debian's openclipart, split by concept.

Run ``python sample_data/images.py --node-modules DIR`` (see README.md beside this file). The result does not depend
on the order of files on disk: every choice is by a hash of the concept's name.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
OPENCLIPART = Path("/usr/share/openclipart/png")
WORDNET = Path("/usr/share/wordnet")
DRAWINGS = ("google", "twitter")
SKIPPED_CATEGORIES = ("Flags", "Component")
# Of a hundred concepts, by the hash of the name: this many are held out, and this many more serve validation.
HELD_OUT, VALIDATION = 12, 5
MOST_PER_CAPTION = 6
WEBP_QUALITY = 82
MOST_PIXELS = 6_000_000

# Folders of openclipart whose drawings show a thing that a caption can name.
CLIP_FOLDERS = (
    "animals", "buildings", "computer", "containers", "decorations", "education", "electronics", "food", "geography",
    "office", "people", "plants", "recreation", "science", "tools", "transportation", "unsorted",
)  # fmt: skip
CLIP_SUBFOLDERS_SKIPPED = (
    "icons", "buttons", "aiga-symbols", "roadsigns", "smilies", "diagrams", "flowchart", "bodypart", "stickmen",
)  # fmt: skip
CLIP_SUBFOLDERS_ADDED = ("signs_and_symbols/weather", "signs_and_symbols/clocks")
LINKING_WORDS = frozenset(["of", "on", "with", "in", "and", "the", "a", "to"])
# Authors' names and style marks that WordNet lists as words and that file names end in.
NOT_CAPTION = frozenset((HERE / "clip_noise.txt").read_text(encoding="ascii").split())
PERSON_WORDS = frozenset(["man", "woman", "person", "men", "women", "people", "boy", "girl", "male", "female"])
EVALUATED = (
    "Objects", "Travel & Places", "Smileys & Emotion", "Animals & Nature", "Food & Drink", "Activities",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One image of the set: a row of images.jsonl."""

    id: str
    file: str
    caption: str
    tags: list[str]
    category: str
    drawing: str
    concept: str
    split: str


def concept_of(label: str) -> str:
    """The name under which variants of one thing are kept on one side of the split ("woman astronaut", "dog face")."""
    words = [word for word in re.findall(r"[a-z0-9]+", label.lower().replace("’", "")) if word not in PERSON_WORDS]
    if len(words) > 1:
        words = [word for word in words if word != "face"] or words
    if "oclock" in words or words[-1:] == ["thirty"]:
        return "clock"
    return " ".join(words) or label.lower()


def split_of(concept: str) -> str:
    """``train``, ``validation`` or ``held-out``, by the hash of the concept alone."""
    part = int(hashlib.sha256(concept.encode()).hexdigest(), 16) % 100
    if part < HELD_OUT:
        return "held-out"
    return "validation" if part < HELD_OUT + VALIDATION else "train"


def emoji_entries(node_modules: Path) -> Iterator[tuple[Entry, Path]]:
    """Both drawings of every emoji but flags, with emojibase's English label and tags."""
    labels = {}
    for row in json.loads((node_modules / "emojibase-data/en/data.json").read_text(encoding="utf-8")):
        labels[row["hexcode"].replace("-FE0F", "")] = row
    for drawing in DRAWINGS:
        package = node_modules / f"emoji-datasource-{drawing}"
        for emoji in json.loads((package / "emoji.json").read_text(encoding="utf-8")):
            row = labels.get(emoji["unified"].replace("-FE0F", ""))
            path = package / "img" / drawing / "64" / emoji["image"]
            if row is None or emoji["category"] in SKIPPED_CATEGORIES or emoji.get("subcategory") == "keycap":
                continue
            if not path.exists():
                continue
            caption = row["label"].lower().replace("“", "").replace("”", "").replace("’", "'")
            concept = concept_of(caption)
            name = f"{drawing}-{emoji['image'].removesuffix('.png')}"
            entry = Entry(
                name, f"{name}.webp", caption, list(row.get("tags", [])), emoji["category"], drawing, concept,
                split_of(concept),
            )  # fmt: skip
            yield entry, path


def wordnet_words(*parts: str) -> frozenset[str]:
    """Every single word of these parts of speech that WordNet lists."""
    words = set()
    for part in parts:
        for line in (WORDNET / f"index.{part}").read_text(encoding="ascii").splitlines():
            if not line.startswith(" "):
                words.add(line.split(" ", 1)[0])
    return frozenset(words)


def clip_caption(stem: str, words: frozenset[str], nouns: frozenset[str]) -> str:
    """What the file's name says before the author's: its leading run of dictionary words, or ``""``."""
    kept: list[str] = []
    for part in re.split(r"[_\s\-.]+", stem.lower()):
        token = re.sub(r"\d+$", "", part)
        singular = token.removesuffix("s")
        known = token in words or singular in words or token in LINKING_WORDS
        if len(token) < 2 or not known or token in NOT_CAPTION:
            if kept:
                break
            continue
        kept.append(token)
    while kept and (kept[-1] in LINKING_WORDS):
        kept.pop()
    if not kept or len(kept) > 5 or not (kept[-1] in nouns or kept[-1].removesuffix("s") in nouns):
        return ""
    return " ".join(kept)


def clip_entries(emoji: list[Entry]) -> Iterator[tuple[Entry, Path]]:
    """Drawings of openclipart whose file name gives a caption, on the emoji's side of the split where both name one
    concept."""
    nouns = wordnet_words("noun")
    words = nouns | wordnet_words("adj")
    apart = {entry.concept: entry.split for entry in emoji if entry.split != "train"}
    named = {entry.concept: entry.split for entry in emoji}
    taken: Counter[str] = Counter()
    for path in sorted(OPENCLIPART.rglob("*.png")):
        folders = path.relative_to(OPENCLIPART).parts[:-1]
        wanted = folders and folders[0] in CLIP_FOLDERS and not set(folders) & set(CLIP_SUBFOLDERS_SKIPPED)
        if not wanted and "/".join(folders) not in CLIP_SUBFOLDERS_ADDED:
            continue
        caption = clip_caption(path.stem, words, nouns)
        if not caption or taken[caption] >= MOST_PER_CAPTION:
            continue
        taken[caption] += 1
        concept, split = clip_side(caption, apart, named)
        name = f"openclipart-{'-'.join(folders)}-{path.stem}"
        name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        tags = sorted({folder.replace("_", " ") for folder in folders} - {"unsorted"})
        yield Entry(name, f"{name}.webp", caption, tags, folders[0], "openclipart", concept, split), path


def clip_side(caption: str, apart: dict[str, str], named: dict[str, str]) -> tuple[str, str]:
    """Concept and split of a caption: a concept that is kept from training, if the caption contains its name."""
    padded = f" {caption} "
    for form in (padded, padded.replace("s ", " ")):
        for concept, split in apart.items():
            if f" {concept} " in form:
                return concept, split
    last = caption.split()[-1]
    for concept in (caption, last, last.removesuffix("s")):
        if concept in named:
            return concept, named[concept]
    return caption, "train"


def small_picture(path: Path) -> bytes:
    """The picture on white, at most 128 px, as WebP (a package's 64-px drawing keeps its size)."""
    with Image.open(path) as opened:
        if opened.width * opened.height > MOST_PIXELS:
            raise ValueError(f"{path} is larger than a small drawing needs")
        picture = opened.convert("RGBA")
        picture.thumbnail((128, 128), Image.Resampling.LANCZOS)
        side = max(picture.size)
        ground = Image.new("RGBA", (side, side), "white")
        ground.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    buffer = io.BytesIO()
    ground.convert("RGB").save(buffer, "WEBP", quality=WEBP_QUALITY, method=6)
    return buffer.getvalue()


def collect(node_modules: Path) -> list[tuple[Entry, bytes]]:
    """All entries with their pictures; a picture that is met twice or is nearly empty is taken once or not at all."""
    emoji = list(emoji_entries(node_modules))
    seen: set[bytes] = set()
    names: Counter[str] = Counter()
    chosen = []
    for entry, path in emoji + list(clip_entries([entry for entry, _ in emoji])):
        try:
            picture = small_picture(path)
        except (OSError, ValueError, Image.DecompressionBombError):
            continue
        digest = hashlib.sha256(picture).digest()
        if digest in seen or len(picture) < 150:
            continue
        seen.add(digest)
        names[entry.id] += 1
        if names[entry.id] > 1:
            unique = f"{entry.id}-{names[entry.id]}"
            entry = replace(entry, id=unique, file=f"{unique}.webp")
        chosen.append((entry, picture))
    return chosen


def write(folder: Path, chosen: list[tuple[Entry, bytes]]) -> None:
    """images.zip (stored, in manifest order, fixed dates: the same bytes each time) and images.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_STORED) as archive:
        for entry, picture in chosen:
            archive.writestr(zipfile.ZipInfo(entry.file, (1980, 1, 1, 0, 0, 0)), picture)
    lines = [json.dumps(asdict(entry), ensure_ascii=False) for entry, _ in chosen]
    (folder / "images.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def missing(node_modules: Path) -> str:
    """One sentence on the first source that is not there, or ``""``."""
    for name in ("emoji-datasource-google", "emoji-datasource-twitter", "emojibase-data"):
        if not (node_modules / name).is_dir():
            return (
                f"{node_modules} does not hold the npm package {name}: install it there, or name another folder with "
                "--node-modules."
            )
    for folder, package in ((OPENCLIPART, "openclipart-png"), (WORDNET, "wordnet-base")):
        if not folder.is_dir():
            return f"{folder} is missing: install the Debian package {package}."
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the sample images again from their packages.")
    parser.add_argument(
        "--node-modules", type=Path, default=Path("node_modules"), help="where npm installed the emoji packages"
    )
    parser.add_argument("--output", type=Path, default=HERE / "images")
    arguments = parser.parse_args()
    if problem := missing(arguments.node_modules):
        print(problem, file=sys.stderr)
        return 1
    chosen = collect(arguments.node_modules)
    write(arguments.output, chosen)
    print(f"{len(chosen)} images, {(arguments.output / 'images.zip').stat().st_size / 1e6:.1f} MB")
    for field in ("drawing", "split"):
        print(dict(Counter(getattr(entry, field) for entry, _ in chosen)))
    for split in ("train", "validation", "held-out"):
        concepts = {
            e.concept for e, _ in chosen if e.split == split and e.drawing in DRAWINGS and e.category in EVALUATED
        }
        print(f"{split}: {len(concepts)} emoji concepts outside people and symbols")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
