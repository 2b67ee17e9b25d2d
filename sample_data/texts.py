"""Makes the sample texts: texts.jsonl.gz (dictionary entries, Python code, handbook prose; about 245,000 tokens), which
is recorded, and fresh.jsonl.gz (further dictionary entries), which is not: claims about features are tested on it.

Run ``python sample_data/texts.py --models build/models`` (see README.md beside this file). Which passages are taken is
decided by their hash, so the same packages give the same file.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import hashlib
import html
import json
import re
import sys
import sysconfig
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WORDNET = Path("/usr/share/wordnet")
HANDBOOK = Path("/usr/share/doc/debian-handbook/html/en-US")
# Tokens of SmolLM2 in each group.
BUDGET = {"wordnet": 100_000, "python": 75_000, "handbook": 70_000}
LONGEST = 256
# fresh.jsonl.gz: entries that hold a word of at least so many captions, or one of the names; and others.
CAPTIONS, OF_A_WORD, OTHERS = 20, 40, 800
NAMES = ("france", "french", "paris")
SKIPPED_FOLDERS = {"test", "tests", "site-packages", "idle_test", "lib2to3", "turtledemo", "encodings", "__pycache__"}
Passage = tuple[str, str]


def wordnet_passages(plain: bool = False) -> Iterator[Passage]:
    """Entries with an example sentence: ``strawberry: sweet fleshy red fruit. "she picked strawberries"``; if `plain`,
    those without one too."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (WORDNET / f"data.{part}").read_text(encoding="ascii").splitlines():
            if line.startswith(" "):
                continue
            facts, gloss = line.split(" | ", 1)
            fields = facts.split()
            word = re.sub(r"\(.*\)$", "", fields[4]).replace("_", " ")
            meaning, *examples = re.split(r';\s+(?=")', gloss.strip())
            if examples:
                said = " ".join(example.strip().strip('"').rstrip(";") + "." for example in examples)
                yield f"wordnet-3.0/{part}/{fields[0]}", f"{word}: {meaning}. {said}".replace('"', "")
            elif plain:
                yield f"wordnet-3.0/{part}/{fields[0]}", f"{word}: {meaning}.".replace('"', "")


def python_passages() -> Iterator[Passage]:
    """Functions and small classes of the standard library, each from its first line to its last."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        inside = path.relative_to(library)
        if set(inside.parts) & SKIPPED_FOLDERS:
            continue
        try:
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source)
        except (SyntaxError, UnicodeDecodeError):
            continue
        lines = source.splitlines()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.end_lineno:
                piece = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
                if 4 <= piece.count("\n") <= 40:
                    yield f"Lib/{inside.as_posix()}:{node.name}:{node.lineno}", piece


def handbook_passages() -> Iterator[Passage]:
    """Paragraphs of the Debian Administrator's Handbook, without marks and without code listings."""
    for path in sorted(HANDBOOK.glob("*.html")):
        for number, part in enumerate(
            re.findall(r'<div class="para">(.*?)</div>', path.read_text(encoding="utf-8"), re.S)
        ):
            if "<pre" in part or "<div" in part:
                continue
            text = " ".join(html.unescape(re.sub(r"<[^>]+>", "", part)).split())
            if len(text) > 120:
                yield f"debian-handbook/{path.name}:{number}", text


def choose(passages: Iterator[Passage], group: str, tokenizer: Any) -> list[dict[str, str]]:
    """Passages in the order of their hashes until the group's budget of tokens is spent."""
    spent, rows, seen = 0, [], set()
    for source, text in sorted(passages, key=lambda passage: hashlib.sha256("\n".join(passage).encode()).hexdigest()):
        length = len(tokenizer(text, add_special_tokens=False).input_ids)
        if text in seen or length < 12 or length > LONGEST:
            continue
        if spent + length > BUDGET[group]:
            break
        seen.add(text)
        spent += length
        rows.append({"id": f"{group}-{len(rows):05d}", "group": group, "text": text, "source": source})
    print(f"{group}: {len(rows)} texts, {spent} tokens")
    return rows


def fresh(recorded: list[dict[str, str]]) -> list[dict[str, str]]:
    """Dictionary entries that are not among the recorded ones, in the order of their hashes: up to OF_A_WORD for each
    word of CAPTIONS captions or more and each of NAMES, and OTHERS."""
    counts: Counter[str] = Counter()
    for line in (HERE / "images" / "images.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        counts.update(set(words_of(" ".join([row["caption"], *row["tags"]]))))
    wanted = dict.fromkeys([*NAMES, *(word for word, count in counts.items() if count >= CAPTIONS)], OF_A_WORD)
    others, rows, known = OTHERS, [], {row["source"] for row in recorded}
    for source, text in sorted(wordnet_passages(plain=True), key=lambda p: hashlib.sha256(p[0].encode()).hexdigest()):
        short = [word for word in set(words_of(text)) if wanted.get(word, 0) > 0]
        if source in known or not 30 <= len(text) <= 300 or not (short or others):
            continue
        for word in short:
            wanted[word] -= 1
        others -= 0 if short else 1
        rows.append({"id": f"fresh-{len(rows):05d}", "group": "wordnet", "text": text, "source": source})
    return rows


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z]{3,}", text.lower())


def write(rows: list[dict[str, str]], target: Path) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    # No date and no name inside, so that the same texts give the same bytes.
    target.write_bytes(gzip.compress(lines, 9, mtime=0))
    print(f"{target.name}: {len(rows)} texts, {target.stat().st_size / 1e6:.2f} MB")


def missing(models: Path) -> str:
    """One sentence on the first source that is not there, or ``""``."""
    if not (models / "smollm2-135m" / "tokenizer.json").exists():
        return (
            f"{models} does not hold smollm2-135m: run sample_data/models.py first, or name its folder with --models."
        )
    for folder, package in ((WORDNET, "wordnet-base"), (HANDBOOK, "debian-handbook")):
        if not folder.is_dir():
            return f"{folder} is missing: install the Debian package {package}."
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the sample texts again from their packages.")
    parser.add_argument("--models", type=Path, default=HERE.parent / "build" / "models", help="where models.py wrote")
    parser.add_argument("--output", type=Path, default=HERE / "texts")
    arguments = parser.parse_args()
    if problem := missing(arguments.models):
        print(problem, file=sys.stderr)
        return 1
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(arguments.models / "smollm2-135m")
    groups = {"wordnet": wordnet_passages(), "python": python_passages(), "handbook": handbook_passages()}
    rows = [row for group, passages in groups.items() for row in choose(passages, group, tokenizer)]
    arguments.output.mkdir(parents=True, exist_ok=True)
    write(rows, arguments.output / "texts.jsonl.gz")
    write(fresh(rows), arguments.output / "fresh.jsonl.gz")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
