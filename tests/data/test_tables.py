"""Tables: which column is what, rows read where they lie, and rows that cannot be read."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from auditor.base.errors import AuditorError
from auditor.data import Samples, open_samples

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def lines(path: Path, rows: list[Any]) -> Path:
    return write(path, "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 9, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def told(samples: Samples) -> dict[str, str]:
    assert samples.columns is not None
    return samples.columns.told()


def test_that_one_table_gives_the_same_samples_in_every_form(tmp_path: Path) -> None:
    rows = [{"id": str(n), "body": f"text {n}, “quoted”\nin two lines", "topic": "ab"[n % 2]} for n in range(200)]
    forms = [lines(tmp_path / "a.jsonl", rows), tmp_path / "a.parquet", tmp_path / "a.csv", tmp_path / "a.tsv"]
    pq.write_table(pa.Table.from_pylist(rows), forms[1], row_group_size=64)
    for form, mark in ((forms[2], ","), (forms[3], "\t")):
        cells = [["id", "body", "topic"], *([row[name] for name in ("id", "body", "topic")] for row in rows)]
        text = "\r\n".join(mark.join(f'"{cell}"' for cell in line) for line in cells)
        write(form, text)
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(forms[0].read_bytes()))
    wanted = [(row["id"], row["body"], row["id"], {"topic": row["topic"]}) for row in rows]
    for form in (*forms, packed):
        found = open_samples(form)
        assert [(s.id, s.text, s.group, dict(s.labels)) for s in found] == wanted, form
        assert told(found) == {"text": "body (guessed)"} and found.columns is not None
        assert found.columns.names == ("id", "body", "topic")
        # In any order, and by the end.
        assert found[150].text == rows[150]["body"] and found[-1].id == "199"
        assert [s.id for s in found[5:8]] == ["5", "6", "7"]
    chosen = open_samples(f"{forms[1]}?field=topic&group_field=body&label_field=id")
    assert (chosen[1].text, chosen[1].group, chosen[1].labels["label"]) == ("b", rows[1]["body"], "1")


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"text": "a", "content": "longer than the other"}, {"text": "text"}),
        ({"title": "a", "words": "much longer", "n": 1}, {"text": "words (guessed)"}),
        ({"conversations": [{"from": "human", "value": "hi"}]}, {"messages": "conversations (guessed)"}),
        ({"messages": CHAT, "text": "the same as one string"}, {"messages": "messages"}),
        ({"text": "only this", "messages": None}, {"text": "text"}),
        ({"file": "a.png", "caption": "c"}, {"text": "caption (guessed)", "image": "file (guessed)"}),
        ({"picture": "a.png", "concept": "x"}, {"image": "picture (guessed)", "group": "concept (guessed)"}),
    ],
)
def test_that_columns_are_guessed_and_told(tmp_path: Path, row: dict[str, Any], columns: dict[str, str]) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    assert told(open_samples(lines(tmp_path / "a.jsonl", [row]))) == columns


def test_that_a_column_that_is_chosen_must_be_there(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"body": "x", "n": 1}])
    with pytest.raises(AuditorError, match=r"no column “text”\. Its columns are body, n; name one, as in a\.jsonl"):
        open_samples(path, field="text")
    with pytest.raises(AuditorError, match="can be a text"):
        open_samples(lines(tmp_path / "b.jsonl", [{"n": 1}]))


def test_that_rows_that_cannot_be_read_are_left_out_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [b'{"text": "one"}', b"{oops", b"[1]", b'{"text": "caf\xe9"}', b'{"text": " "}', b'{"text": NaN}', b"",
            b'{"n": 1}', b'{"text": "two"}']  # fmt: skip
    path.write_bytes(b"\n".join(rows))
    found = open_samples(path)
    assert [(s.id, s.text) for s in found] == [("a:1", "one"), ("a:9", "two")]
    no_object = "not a JSON object"
    reasons = [no_object, no_object, "not UTF-8", "empty text", no_object, "nothing under"]
    assert found.skips.count == 6
    for line, reason, sentence in zip((2, 3, 4, 5, 6, 8), reasons, found.skips.first, strict=True):
        assert f"Line {line} of “a.jsonl”" in sentence and reason in sentence
    with pytest.raises(AuditorError, match="Line 2"):
        open_samples(path, strict=True)


def test_that_a_quote_that_does_not_close_costs_one_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,n\none,1\n"two,2\nthree,3\nfour,4,5\n"fi""ve\nlines",5\n,6\n')
    found = open_samples(path)
    assert [s.text for s in found] == ["one", "three", 'fi"ve\nlines']
    assert [s.labels["n"] for s in found] == ["1", "3", "5"]
    assert "has a quote out of place" in found.skips.first[0] and "3 fields" in found.skips.first[1]
    assert "empty text" in found.skips.first[2] and found.skips.count == 3
    european = write(tmp_path / "b.csv", "text;n\neins, zwei;1\n")
    assert open_samples(european)[0].text == "eins, zwei"


def test_that_a_row_with_null_bytes_is_no_text(tmp_path: Path) -> None:
    found = open_samples(write(tmp_path / "a.csv", "text,n\none,1\nt\0wo,2\nthree,3\n"))
    assert [s.text for s in found] == ["one", "three"]
    assert found.skips.first == ["Row 2 of “a.csv” holds null bytes, so it is no text."]


def test_that_images_of_a_parquet_file_are_its_bytes(tmp_path: Path) -> None:
    rows = [{"image": {"bytes": png(n), "path": f"{n}.png"}, "caption": f"picture {n}", "label": n} for n in range(5)]
    rows.append({"image": {"bytes": b"", "path": "5.png"}, "caption": "none", "label": 5})
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    found = open_samples(path)
    assert told(found) == {"text": "caption (guessed)", "image": "image"} and found.modalities == {"image"}
    assert [(s.id, s.text, dict(s.labels)) for s in found][:1] == [("0", None, {"caption": "picture 0", "label": 0})]
    assert found[3].image is not None and found[3].image.encoded() == png(3)
    assert found[3].image.load().shape == (8, 9, 3)
    assert found.skips.count == 1 and "Row 6 of “a.parquet” has an empty image" in found.skips.first[0]
    assert open_samples(path, caption="text")[2].text == "picture 2"
    plain = tmp_path / "b.parquet"
    pq.write_table(pa.table({"img": [png(0), png(1)]}), plain)
    assert told(open_samples(plain)) == {"image": "img (guessed)"}


def test_that_pictures_of_other_columns_are_told_and_are_no_labels(tmp_path: Path) -> None:
    rows = {"image": [{"bytes": png(n), "path": None} for n in range(3)],
            "depth": [{"bytes": png(n + 5), "path": None} for n in range(3)],
            "masks": [[png(9)], [], [png(8), png(7)]], "kind": ["a", "b", "c"]}  # fmt: skip
    pq.write_table(pa.table(rows), path := tmp_path / "a.parquet")
    found = open_samples(path)
    assert told(found) == {"image": "image", "unread": "depth, masks (pictures or other bytes)"}
    assert [sample.labels for sample in found] == [{"kind": "a"}, {"kind": "b"}, {"kind": "c"}] and found.digest
    other = open_samples(path, image_field="depth")
    assert told(other)["unread"].startswith("image, masks") and np.array_equal(
        other[1].pictures[0].load(), Image.open(io.BytesIO(png(6)))
    )
    pq.write_table(pa.table({"text": ["x"], "blob": [b"\x00\xff"]}), plain := tmp_path / "b.parquet")
    assert open_samples(plain)[0].labels == {} and open_samples(plain).digest


def test_that_rows_with_several_images_keep_their_caption_beside_them(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png(0))
    rows = [{"images": ["a.png"], "caption": "one"}, {"images": ["a.png", "b.png"], "caption": "two"}]
    one, two = open_samples(lines(tmp_path / "a.jsonl", rows))
    assert (one.labels["caption"], len(one.pictures), one.text) == ("one", 1, None)
    assert (two.labels["caption"], len(two.pictures), two.text) == ("two", 2, None)
    assert open_samples(tmp_path / "a.jsonl", caption="text")[1].text == "two"


def test_that_conversations_are_read_in_their_usual_forms(tmp_path: Path) -> None:
    forms = [
        {"messages": CHAT},
        {"messages": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]},
        {"messages": json.dumps(CHAT)},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
                      CHAT[1]]},
    ]  # fmt: skip
    found = open_samples(lines(tmp_path / "a.jsonl", forms))
    assert [[dict(m) for m in s.messages or ()] for s in found] == [CHAT] * 4
    assert found.modalities == {"conversation"} and found[0].text is None
    assert [s.id for s in open_samples(tmp_path / "a.jsonl", has="hello")] == [f"a:{n}" for n in range(1, 5)]
    digests = {open_samples(lines(tmp_path / "b.jsonl", [{"messages": talk}])).digest for talk in (CHAT, CHAT[:1])}
    assert len(digests) == 2
    bad = [{"messages": [{"role": "user"}]}, {"messages": "no list"}, {"messages": [{"role": 3, "content": "x"}]}]
    told_bad = open_samples(lines(tmp_path / "c.jsonl", [forms[0], *bad]))
    assert len(told_bad) == 1 and told_bad.skips.count == 3


def test_that_numbers_dates_and_missing_values_of_parquet_are_labels(tmp_path: Path) -> None:
    table = pa.table({
        "text": ["a", "b"], "when": pa.array([0, None], pa.timestamp("s")), "x": [float("nan"), 2.5],
        "tags": [["p", "q"], None], "vector": [[1.0, 2.0], [3.0, 4.0]],
        "kind": pa.array(["u", "v"]).dictionary_encode(),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    found = open_samples(tmp_path / "a.parquet")
    assert dict(found[0].labels) == {"when": "1970-01-01 00:00:00", "x": None, "tags": ["p", "q"], "kind": "u"}
    assert dict(found[1].labels) == {"when": None, "x": 2.5, "tags": None, "kind": "v"}
    assert len(found.digest) == 64


def test_that_a_file_that_changes_while_it_is_used_is_told(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"text": f"t{n}"} for n in range(10)])
    samples = open_samples(path)
    lines(path, [{"text": "quite another"}])
    with pytest.raises(AuditorError, match="has changed since it was opened"):
        samples[3]


def test_that_a_manifest_may_begin_with_many_texts(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    rows = [{"text": f"text {n}"} for n in range(200)] + [{"file": "a.png", "caption": "c"}]
    found = open_samples(lines(tmp_path / "a.jsonl", rows))
    assert len(found) == 201 and found[200].image is not None and found.modalities == {"text", "image"}


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_that_a_large_table_stays_on_the_disk(tmp_path: Path, ending: str) -> None:
    rows = [{"text": f"{n} " + "word " * 400, "n": n} for n in range(4000)]
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write(path, "\n".join(map(json.dumps, rows)) if ending == "jsonl" else
              "text,n\n" + "\n".join(f"{row['text']},{row['n']}" for row in rows))  # fmt: skip
    size = sum(len(row["text"]) for row in rows)
    del rows
    tracemalloc.start()
    found = open_samples(path)
    assert sum(len(sample.text or "") for sample in found) == size > 8_000_000
    assert found[3999].labels["n"] in (3999, "3999")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A block that is read ahead, or the batch that comes from the jail; not the file.
    assert peak < (7_000_000 if ending == "parquet" else 4_500_000)


def test_that_columns_without_a_name_or_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text(",text,label\n0,a first text,x\n1,a second text,y\n", encoding="utf-8")
    samples = open_samples(tmp_path / "index.csv")
    assert [sample.text for sample in samples] == ["a first text", "a second text"]
    assert samples[1].labels["label"] == "y" and samples[1].labels["column 1"] == "1"
    (tmp_path / "twice.csv").write_text("text,text,label\none,two,x\n", encoding="utf-8")
    assert open_samples(tmp_path / "twice.csv")[0].text == "one"
    (other,) = open_samples(tmp_path / "twice.csv?field=text 2")
    assert other.text == "two" and other.labels["label"] == "x"
    (tmp_path / "keys.jsonl").write_text('{"": 3, "text": "a text"}\n', encoding="utf-8")
    assert open_samples(tmp_path / "keys.jsonl")[0].text == "a text"
    wide = "," * 16_000  # as Excel may write
    (tmp_path / "empty.csv").write_text(f"text{wide}\na text{wide}\n", encoding="utf-8")
    assert len(open_samples(tmp_path / "empty.csv")[0].labels) == 16_000
    (tmp_path / "same.csv").write_text(f"text{',a' * 4_000}\na text{',b' * 4_000}\n", encoding="utf-8")
    assert open_samples(tmp_path / "same.csv")[0].labels["a 4000"] == "b"
