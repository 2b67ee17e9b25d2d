"""Samples from files: what is read, how it is named and grouped, and how faults are told."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import re
import resource
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
from PIL import Image

from auditor.base import files
from auditor.base.errors import AuditorError
from auditor.base.paths import sample_data
from auditor.data import ImageRef, Sample, Samples, chunks, open_samples, text_sample
from auditor.data.reading import Chain, Listed
from auditor.models import Model


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_that_plain_text_is_cut_by_paragraph_line_or_not_at_all(tmp_path: Path) -> None:
    path = write(tmp_path / "notes.txt", "One\nand more.\n\n \nTwo.\n")
    assert [s.text for s in open_samples(path)] == ["One\nand more.", "Two."]
    assert [s.text for s in open_samples(f"{path}?by=line")] == ["One", "and more.", "Two."]
    assert len(open_samples(path, by="file")) == 1
    assert [s.id for s in open_samples(path)] == ["notes:1", "notes:2"]
    assert len(open_samples(f"{path}?by=line&limit=2")) == 2


def test_that_each_line_is_a_paragraph_where_no_line_is_empty(tmp_path: Path) -> None:
    path = write(tmp_path / "notes.txt", "\nThe first paragraph.\nThe second.\n\n")
    assert [s.text for s in open_samples(path)] == ["The first paragraph.", "The second."]


def test_that_a_column_is_not_chosen_where_there_are_none(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a\nb\n", encoding="utf-8")
    for spec in (tmp_path / "notes.txt", tmp_path):
        with pytest.raises(AuditorError, match="has no columns: 'body' cannot be one"):
            open_samples(f"{spec}?field=body")


def test_that_json_lines_and_csv_keep_id_group_and_labels(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "Hello", "group": "g", "label": 1}, {"text": "World", "label": 2}]
    lines = "\n".join(json.dumps(row) for row in rows)
    plain = open_samples(write(tmp_path / "a.jsonl", lines))
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.encode()))
    assert [dict(s.labels) for s in plain] == [{"label": 1}, {"label": 2}]
    assert open_samples(packed).digest == plain.digest
    assert (plain[0].id, plain[0].group, plain[1].id) == ("a", "g", "a:2")
    table = open_samples(write(tmp_path / "b.csv", 'body,split\n"one, two",train\nthree,test\n'), field="body")
    assert [s.text for s in table] == ["one, two", "three"]
    assert [s.text for s in open_samples(f"{tmp_path / 'b.csv'}?field=body&split=test")] == ["three"]


def test_that_samples_are_kept_by_a_whole_word_of_text_caption_or_tags(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "text": "The clock."},
        {"id": "b", "text": "Clockwork"},
        {"id": "c", "text": "x", "tags": ["clock"]},
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert [s.id for s in open_samples(f"{path}?has=clock")] == ["a", "c"]
    assert [s.id for s in open_samples(f"{path}?has=clockwork, nothing")] == ["b"]
    with pytest.raises(AuditorError, match="holds no samples with has=tower"):
        open_samples(f"{path}?has=tower")


def test_that_halves_leave_nothing_out_and_part_texts_but_no_drawings_of_one_thing(tmp_path: Path) -> None:
    texts = [{"id": str(n), "text": f"t{n}", "group": "one source"} for n in range(200)]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, texts)))
    images = tmp_path / "images"
    images.mkdir()
    rows = [{"id": str(n), "file": f"{n}.png", "concept": f"g{n % 20}"} for n in range(60)]
    write(images / "all.jsonl", "\n".join(map(json.dumps, rows)))
    for n in range(60):
        (images / f"{n}.png").write_bytes(png(n))
    for source, count in ((path, 200), (images, 60)):
        first, second = (open_samples(source, half=half) for half in ("first", "second"))
        assert len(first) + len(second) == count and min(len(first), len(second)) >= count // 5
    assert not {s.group for s in first} & {s.group for s in second}
    with pytest.raises(AuditorError, match="half=third") as caught:
        open_samples(path, half="third")
    assert caught.value.hint == "Use first or second."


def test_that_captioned_images_are_read_from_zip_or_folder(tmp_path: Path) -> None:
    row = {"id": "x", "file": "cat.png", "caption": "a cat", "concept": "cat", "split": "train"}
    manifest = json.dumps(row) + "\n" + json.dumps({"file": "dog.png"})
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for seed, name in enumerate(("cat.png", "dog.png")):
            archive.writestr(name, png(seed))
    write(tmp_path / "set.jsonl", manifest)
    found = [open_samples(tmp_path / "set.zip"), open_samples(tmp_path / "set.jsonl"), open_samples(tmp_path)]
    assert len({samples.digest for samples in found}) == 1
    first = found[0][0]
    assert (first.id, first.group, first.labels["caption"], first.text) == ("x", "cat", "a cat", None)
    assert first.image is not None and first.image.load().shape == (40, 30, 3)
    assert open_samples(f"{tmp_path / 'set.zip'}?caption=text")[0].text == "a cat"
    folder = tmp_path / "loose" / "cats"
    folder.mkdir(parents=True)
    (folder / "one.png").write_bytes(png(0))
    loose = open_samples(tmp_path / "loose")
    assert (loose[0].id, loose[0].group) == ("cats/one.png", "cats")
    assert loose[0].image is not None and loose[0].image.digest == first.image.digest


@pytest.mark.skipif(not (sample_data() / "images" / "images.zip").exists(), reason="sample images not made")
def test_that_the_sample_images_open_with_captions_and_splits() -> None:
    samples = open_samples(sample_data() / "images")
    held_out = open_samples(f"{sample_data() / 'images'}?split=held-out")
    assert samples.modalities == {"image"} and 0 < len(held_out) < len(samples)
    assert all(s.image is not None and s.labels["caption"] and s.group for s in samples)
    assert not {s.group for s in held_out} & {s.group for s in samples if s.labels["split"] == "train"}
    image = samples[7].image
    assert image is not None and image.thumbnail(32)[:4] == b"\x89PNG"


FAULTS = {
    "missing": ("none.txt", None, "no samples at"),
    "empty": ("a.txt", b"\n \n", "holds no samples"),
    "kind": ("a.xyz", b"x", "of no kind"),
    "one value": ("a.json", b'[{"text": "x"}]', "is one JSON value"),
    "latin": ("a.txt", b"caf\xe9", "not UTF-8"),
    "json": ("a.jsonl", b'{"text": "x"}\n{oops', "Line 2"),
    "list": ("a.jsonl", b"[1]", "Line 1"),
    "field": ("a.jsonl?field=text", b'{"body": "x"}', "no column “text”"),
    "column": ("a.csv?field=text", b"body\nx", "no column “text”"),
    "no rows": ("a.csv", b"text,label\n", "“a.csv” has no rows"),
    "no bytes": ("a.jsonl", b"", "“a.jsonl” has no rows"),
    "no text": ("a.jsonl", b'{"n": 1}', "can be a text, an image or a conversation"),
    "utf-16": ("a.txt", "x".encode("utf-16"), "UTF-16"),
    "parquet": ("a.parquet", b"PAR1 and no more", "not a sound Parquet"),
    "gzip": ("a.jsonl.gz", gzip.compress(b'{"text": "x"}')[:20], "damaged"),
    "not gzip": ("a.jsonl.gz", b"hello", "damaged"),
    "zip": ("a.zip", b"PK\x03\x04", "not a sound zip"),
    "image gone": ("a.jsonl", b'{"file": "gone.png"}', "not there"),
    "image outside": ("a.jsonl", b'{"file": "../../secret.png"}', "not there"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_that_a_fault_is_told_with_its_place(tmp_path: Path, name: str) -> None:
    file, data, said = FAULTS[name]
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(png(0))
    name, mark, options = file.partition("?")
    path = tmp_path / "in" / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(AuditorError, match=said) as caught:
        open_samples(f"{path}{mark}{options}", strict=True)
    assert name in str(caught.value)


def test_that_a_file_of_a_folder_that_cannot_be_read_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    for name, data in (
        ("tables/a.csv", b"text\none\n"), ("tables/b.csv", b"text\n"),
        ("tables/c.csv.gz", gzip.compress(b"text\ntwo\n")),
        ("tables/d.csv", "text\nx\n".encode("utf-16")), ("texts/a.txt", b"one"), ("texts/b.txt", "x".encode("utf-16")),
        ("texts/c.txt.gz", gzip.compress(b"two")), ("texts/d.py.gz", b"no gzip"), ("none/a.csv", b"n\n"),
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    for folder, told in (
        ("tables", ["“b.csv” has no rows.", "“d.csv” is not UTF-8 text (byte 0)."]),
        ("texts", ["“b.txt” is not UTF-8 text but UTF-16.", "“d.py.gz” is damaged or cannot be read."]),
    ):
        samples = open_samples(tmp_path / folder)
        assert [sample.text for sample in samples] == ["one", "two"] and samples.skips.first == told
        with pytest.raises(AuditorError, match=re.escape(told[0])):
            open_samples(tmp_path / folder, strict=True)
    with pytest.raises(AuditorError, match=r"“a\.csv” has no rows"):
        open_samples(tmp_path / "none")
    with pytest.raises(AuditorError, match="has no column “nope”"):
        open_samples(f"{tmp_path / 'tables'}?field=nope")


def test_that_a_folder_may_have_more_packed_files_than_a_program_may_have_open_at_first(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number:03d}.txt.gz").write_bytes(gzip.compress(f"text {number}".encode()))
    some, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(free := os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 140, most))
    try:
        assert [sample.text for sample in open_samples(tmp_path)] == [f"text {number}" for number in range(200)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (some, most))


def test_that_a_full_disk_is_no_fault_of_the_file_that_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.csv.gz", "b.csv.gz"):
        (tmp_path / name).write_bytes(gzip.compress(f"text\n{name}\n".encode()))
    own, left = os.pwrite, [1]

    def full(handle: int, data: bytes, at: int) -> int:
        if not left:
            raise OSError(errno.ENOSPC, "full")
        left.pop()
        return own(handle, data, at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(AuditorError, match="The disk is full"):
        open_samples(tmp_path)
    monkeypatch.setattr(os, "pwrite", own)

    class Fills(Listed):
        def scan(self) -> Iterator[tuple[tuple[int, ...], Any]]:
            yield from super().scan()
            try:
                raise OSError(errno.ENOSPC, "full")
            except OSError as error:
                raise files.told(error, tmp_path / "a") from error

    with pytest.raises(AuditorError, match="The disk is full"):
        list(Chain([Fills([Sample("a", text="b")])]).scan())


def test_that_options_may_be_longer_than_a_file_s_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat\n\na dog", encoding="utf-8")
    words = ",".join(f"word{number}" for number in range(800))
    assert [sample.text for sample in open_samples(f"{tmp_path / 'a.txt'}?has={words},dog")] == ["a dog"]


def test_that_the_digest_follows_text_pixels_and_order() -> None:
    first, second = ImageRef.of(np.zeros((4, 4, 3), np.uint8)), ImageRef.of(np.ones((4, 4, 3), np.uint8))
    digests = {
        Samples("a", samples).digest
        for samples in (
            [text_sample("x"), text_sample("y")], [text_sample("y"), text_sample("x")], [Sample("i", image=first)],
            [Sample("i", image=second)], [Sample("i", image=second, labels={"a": 1})],
        )
    }  # fmt: skip
    assert len(digests) == 5


def test_that_thumbnails_keep_proportions() -> None:
    image = ImageRef.of(np.zeros((100, 50, 3), np.uint8))
    assert Image.open(io.BytesIO(image.thumbnail(20))).size == (10, 20)


def test_that_chunks_hold_all_the_text_within_the_context(tiny_llama: Model) -> None:
    words = np.random.default_rng(1).choice(["alpha", "beta", "naïve", "x=1;", "東京", "the"], 700)
    long = Sample("doc", text=" ".join(words), labels={"k": 1})
    pieces = chunks([long, text_sample("short", "s")], tiny_llama.tokenizer, 32)
    assert "".join(piece.text or "" for piece in pieces[:-1]) == long.text
    assert pieces[-1].id == "s" and {piece.group for piece in pieces[:-1]} == {"doc"}
    assert pieces[0].labels == {"k": 1}
    counted = [len(tiny_llama.tokenizer(piece.text, add_special_tokens=False)["input_ids"]) for piece in pieces]
    assert list(pieces.tokens) == counted and list(pieces.characters) == [len(piece.text or "") for piece in pieces]
    whole = tiny_llama.encode([long]).ids[0, 1:].tolist()
    rows = [tiny_llama.encode([piece]).ids[0] for piece in pieces[:-1]]
    assert max(len(row) for row in rows) <= 32
    assert [token for row in rows for token in row[1:].tolist()] == whole
    with pytest.raises(AuditorError, match="holds no text"):
        chunks([long], tiny_llama.tokenizer, 1)


def test_that_a_folder_gives_its_pictures_tables_texts_or_code(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    write(folder / "README.md", "What this is.")
    with pytest.raises(AuditorError, match="holds no samples"):
        open_samples(folder)
    for part in (1, 0):
        write(folder / "data" / f"part-{part}.jsonl", json.dumps({"text": f"row of part {part}"}))
    assert [s.text for s in open_samples(folder)] == ["row of part 0", "row of part 1"]
    code = tmp_path / "code"
    (code / "src" / ".git").mkdir(parents=True)
    write(code / "src" / "a.py", "x = 1\n\ny = 2\n")
    write(code / "src" / ".git" / "b.py", "hidden")
    write(code / "settings.jsonl", json.dumps({"text": "a table beside code"}))
    write(code / "c.rs", "fn main() {}\n")
    (code / "plan.docx").write_bytes(b"PK")
    found = open_samples(code)
    told = [(s.id, s.group, s.labels["language"]) for s in found]
    assert told == [("c.rs", "c.rs", "rs"), ("src/a.py", "src/a.py", "py")]
    assert found[1].text == "x = 1\n\ny = 2" and found.skips.first == ["“plan.docx” is a document, not plain text."]
    assert [s.id for s in open_samples(code, endings="py", by="line")] == ["src/a.py:1", "src/a.py:2"]
    assert [s.id for s in open_samples(code / "src" / "a.py")] == ["a.py"]


def test_that_what_is_of_another_kind_in_a_folder_is_told_to_be_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(png(0))
    for name in ("a.txt", "README.md", "code.py", "notes.txt", "labels.csv", "more.pdf"):
        write(folder / name, "text\nA few words.")
    samples = open_samples(folder)
    assert [s.image is not None for s in samples] == [True, True] and samples[0].labels["caption"]
    assert samples.skips.count == 3
    assert [said.split(" is ")[0] for said in samples.skips.first] == ["“labels.csv”", "“more.pdf”", "“notes.txt”"]
    assert "of another kind than the images" in samples.skips.first[0]
    with pytest.raises(AuditorError, match=r"labels\.csv"):
        open_samples(folder, strict=True)

    tables = tmp_path / "tables"
    tables.mkdir()
    write(tables / "a.csv", "text\nA few words.")
    write(tables / "b.jsonl", json.dumps({"text": "more"}))
    samples = open_samples(tables)
    assert len(samples) == 1 and samples.skips.count == 1 and "b.jsonl" in samples.skips.first[0]


def test_that_pictures_take_the_caption_that_lies_beside_them_or_come_by_a_list(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    write(tmp_path / "1.txt", " a red thing \n")
    (tmp_path / "3.gif").write_bytes(b"GIF89a")
    found = open_samples(tmp_path)
    assert [dict(s.labels).get("caption") for s in found] == [None, "a red thing", None] and found[1].text is None
    assert found.skips.first == ["“3.gif” is not a PNG, JPEG or WebP image."]
    assert open_samples(tmp_path, caption="text")[1].text == "a red thing"
    listed = open_samples(write(tmp_path / "list.txt", "2.png\n\n0.png\n"))
    assert [s.id for s in listed] == ["2.png", "0.png"] and listed.modalities == {"image"}
    assert listed[0].image is not None and listed[0].image.encoded() == png(2)


def test_that_a_folder_of_pictures_is_opened_in_time_that_grows_with_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(300):
        (tmp_path / f"{number}.png").write_bytes(b"not empty")
    compared, equal = [0], PurePath.__eq__
    monkeypatch.setattr(PurePath, "__eq__", lambda a, b: compared.__setitem__(0, compared[0] + 1) or equal(a, b))
    assert len(open_samples(tmp_path)) == 300 and compared[0] < 20 * 300


@pytest.mark.parametrize("ending", ["txt", "py", "csv"])
def test_that_a_file_whose_name_is_no_text_is_left_out_and_told(tmp_path: Path, ending: str) -> None:
    for name in (b"sound", b"caf\xe9"):
        (tmp_path / os.fsdecode(name + b"." + ending.encode())).write_text("text,label\nkept,1\n")
    samples = open_samples(tmp_path)
    assert len(samples) >= 1 and len(samples.digest) == 64
    assert samples.skips.count == 1 and f"“caf?.{ending}”" in samples.skips.first[0]
    (tmp_path / f"sound.{ending}").unlink()
    with pytest.raises(AuditorError, match="no UTF-8"):
        open_samples(tmp_path)
