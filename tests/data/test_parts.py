"""Several pictures in a sample, as data sets keep them: parts, marks beside a list, two lists, conversations."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from auditor.data import ImageRef, Sample, Samples, open_samples
from auditor.data.checked import Written, checked, sifted
from auditor.data.messages import as_text
from auditor.data.parts import MOST_PICTURES

SHADES = {"a.png": 10, "b.png": 90, "c.png": 200}


def png(shade: int, size: tuple[int, int] = (6, 5)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade,) * 3).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    for name, shade in SHADES.items():
        (tmp_path / name).write_bytes(png(shade))
    return tmp_path


def lines(folder: Path, *rows: Mapping[str, Any], name: str = "set.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def shades(sample: Sample) -> list[int]:
    return [int(picture.load()[0, 0, 0]) for picture in sample.pictures]


PARTS = [
    {"type": "text", "text": "A dark one "}, {"type": "image", "image": "a.png"}, {"type": "text", "text": " and "},
    {"type": "image_url", "image_url": {"url": "c.png"}}, {"type": "text", "text": "."},
]  # fmt: skip
FORMS: dict[str, dict[str, Any]] = {
    "parts": {"parts": PARTS},
    "plain parts": {"parts": ["A dark one ", {"image": "a.png"}, " and ", {"path": "c.png", "type": "image"}, "."]},
    "parts that mark pictures": {
        "content": [part if part["type"] == "text" else {"type": "image"} for part in PARTS],
        "images": ["a.png", "c.png"],
    },
    "marks": {"text": "A dark one <image> and <image>.", "images": ["a.png", "c.png"]},
    "two lists": {"texts": ["A dark one ", None, " and ", None, "."], "images": [None, "a.png", None, "c.png", None]},
    "data addresses beside marks": {
        "text": "A dark one <image> and <image>.", "images": [
            "data:image/png;base64," + base64.b64encode(png(shade)).decode() for shade in (10, 200)]},
    "data addresses": {"parts": [
        "A dark one ", {"type": "image_url", "image_url": {
            "url": "data:image/png;base64," + base64.b64encode(png(10)).decode()}},
        " and ", {"type": "image", "image": "c.png"}, ".",
    ]},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_that_text_and_pictures_among_it_are_read_in_their_order(folder: Path, form: str) -> None:
    row = {"id": "one", "group": "shades", "label": "dark", **FORMS[form]}
    samples = open_samples(lines(folder, row))
    (sample,) = samples
    assert not samples.skips.count and samples.counts == {"text": 1, "image": 1}
    assert shades(sample) == [10, 200]
    assert (sample.id, sample.group, sample.labels) == ("one", "shades", {"label": "dark"})
    assert sample.marked == "A dark one <image> and <image>."
    assert sample.places == (() if form.endswith("marks") else (11, 16))


def test_that_a_table_of_parts_may_hold_rows_without_pictures_and_digests_tell_places_apart(folder: Path) -> None:
    samples = open_samples(lines(
        folder, {"parts": PARTS}, {"parts": [{"type": "text", "text": "Only text."}]},
        {"parts": [PARTS[1], PARTS[0], *PARTS[2:]]}, {"parts": ["", {"type": "text", "text": " "}]},
    ))  # fmt: skip
    assert [sample.text for sample in samples][1] == "Only text." and samples[1].image is None
    assert samples[0].digest != samples[2].digest and shades(samples[0]) == shades(samples[2])
    assert samples.skips.first == ["Line 4 of “set.jsonl” has an empty text."]


def test_that_two_lists_may_have_no_picture_in_a_row_and_lists_of_another_kind_are_left_alone(folder: Path) -> None:
    none = {"texts": ["Only text.", " More."], "images": [None, None]}
    both, alone = open_samples(lines(folder, FORMS["two lists"], none))
    assert shades(both) == [10, 200] and alone.text == "Only text. More." and alone.image is None
    asked = {"images": ["b.png"], "texts": [{"user": "Which shade?", "assistant": "A dark one."}]}
    captions = {"images": ["a.png", "c.png"], "texts": ["one", "two"]}
    for row, wanted in ((asked, [90]), (captions, [10, 200])):
        samples = open_samples(lines(folder, row))
        assert [shades(sample) for sample in samples] == [wanted] and not samples.skips.count


def test_that_the_data_of_a_single_picture_is_its_picture_and_no_label(folder: Path) -> None:
    address = "data:image/png;base64," + base64.b64encode(png(90)).decode()
    (sample,) = open_samples(lines(folder, {"image": address, "label": "mid"}))
    assert shades(sample) == [90] and sample.labels == {"label": "mid"}


def test_that_parquet_keeps_bytes_of_several_pictures(folder: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [[{"bytes": png(90), "path": None}, {"bytes": None, "path": "a.png"}], [{"bytes": png(200), "path": "x"}]]
    texts = ["<image> then <image>", "see <image>"]
    table = pa.table({"images": pa.array(rows, pa.list_(kind)), "text": texts, "concept": ["u", "v"]})
    pq.write_table(table, folder / "set.parquet")
    both, one = open_samples(folder / "set.parquet")
    assert shades(both) == [90, 10] and both.text == "<image> then <image>" and both.group == "u"
    assert shades(one) == [200] and one.text == "see <image>" and one.group == "v"


CONVERSATIONS: dict[str, dict[str, Any]] = {
    "OpenAI": {"messages": [
        {"role": "user", "content": [
            {"type": "text", "text": "Which is darker?"}, {"type": "image_url", "image_url": {"url": "a.png"}},
            {"type": "image_url", "image_url": {"url": "b.png"}}]},
        {"role": "assistant", "content": "The first."},
    ]},
    "pictures beside the messages": {"messages": [
        {"role": "user", "content": [
            {"type": "text", "text": "Which is darker?"}, {"type": "image"}, {"type": "image"}]},
        {"role": "assistant", "content": "The first."},
    ], "images": ["a.png", "b.png"]},
    "LLaVA": {"conversations": [
        {"from": "human", "value": "Which is darker?<image><image>"}, {"from": "gpt", "value": "The first."},
    ], "image": ["a.png", "b.png"]},
}  # fmt: skip


@pytest.mark.parametrize("form", CONVERSATIONS)
def test_that_a_conversation_with_pictures_is_read(folder: Path, form: str) -> None:
    samples = open_samples(lines(folder, {"id": "talk", "group": "g", **CONVERSATIONS[form]}))
    (sample,) = samples
    assert samples.counts == {"conversation": 1, "image": 1} and shades(sample) == [10, 90]
    assert sample.messages == (
        {"role": "user", "content": [
            {"type": "text", "text": "Which is darker?"}, {"type": "image"}, {"type": "image"}]},
        {"role": "assistant", "content": "The first."},
    )  # fmt: skip
    assert as_text(sample.messages or ()) == "user: Which is darker?<image><image>\nassistant: The first."
    assert (sample.id, sample.group) == ("talk", "g")


def test_that_a_picture_of_a_conversation_without_a_mark_stands_first(folder: Path) -> None:
    row = {"conversations": [{"from": "system", "value": "Look."}, {"from": "human", "value": "Well?"}],
           "image": "b.png"}  # fmt: skip
    (sample,) = open_samples(lines(folder, row))
    assert sample.messages is not None and shades(sample) == [90]
    assert sample.messages[1]["content"] == [{"type": "image"}, {"type": "text", "text": "Well?"}]


def test_that_what_a_template_writes_keeps_its_pictures_on_the_way_to_the_disk(folder: Path) -> None:
    samples = open_samples(lines(folder, {"id": "talk", **CONVERSATIONS["OpenAI"]}, {"text": "plain"}))
    template = lambda talks: [Written("Q: ? A: !", (3, 4)) for _ in talks]  # noqa: E731
    ready = checked(samples, template)
    assert [sample.id for sample in ready] == ["talk", "set:2"] and not ready.skips.count
    assert (ready[0].text, ready[0].places, shades(ready[0])) == ("Q: ? A: !", (3, 4), [10, 90])
    few = lambda talks: [Written("Q", (0,)) for _ in talks]  # noqa: E731
    kept, skips = sifted(samples[:1], few)
    assert not kept and "writes 1 of its 2 pictures" in skips.first[0]


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "outside": ({"parts": ["x", {"type": "image", "image": "../../etc/hostname"}]}, "which is not there"),
    "absolute": ({"text": "<image><image>", "images": ["a.png", "/etc/hostname"]}, "which is not there"),
    "address": ({"parts": ["x", {"type": "image", "image": "https://example.org/a.png"}]}, "which is not there"),
    "a thousand": ({"images": ["a.png"] * 1000}, f"has 1,000 pictures; at most {MOST_PICTURES} are read"),
    "missing": ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "marks 1 pictures, and 0 stand"),
    "too many": ({**CONVERSATIONS["OpenAI"], "images": ["a.png"]}, "marks 0 pictures, and 1 stand"),
    "data": ({"parts": ["x", {"type": "image", "image": "data:image/png;base64,?!"}]}, "data cannot be read"),
    "both": ({"texts": ["x", "y", None], "images": ["a.png", None, None]}, "both or neither"),
    "number": ({"parts": ["x", {"type": "image", "image": "a.png"}, 5]}, "part 3 that is neither"),
    "nested": ({"parts": ["x", {"type": "image", "image": {"image": {"url": "a.png"}}}]}, "which is not there"),
}


FINE: dict[str, dict[str, Any]] = {
    "parts": FORMS["parts"], "messages": {"messages": [{"role": "user", "content": "Hi."}]},
    "texts": FORMS["two lists"], "images": {"images": ["a.png"], "text": "<image>"},
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_that_a_sample_that_cannot_be_read_is_left_out_with_its_reason(folder: Path, what: str) -> None:
    row, said = BROKEN[what]
    fine = next(FINE[name] for name in FINE if name in row)
    samples = open_samples(lines(folder, fine, row))
    (told,) = samples.skips.first
    assert len(samples) == samples.skips.count == 1
    assert said in told and told.startswith("Line 2 of “set.jsonl” ")


def test_that_a_broken_picture_in_one_part_leaves_the_sample_out_when_it_is_decoded(folder: Path) -> None:
    (folder / "b.png").write_bytes(png(90)[:40])
    rows = [{"id": "fine", "text": "<image> <image>", "images": ["a.png", "c.png"]},
            {"id": "broken", "text": "<image> <image>", "images": ["a.png", "b.png"]}]  # fmt: skip
    ready = checked(open_samples(lines(folder, *rows)))
    assert [sample.id for sample in ready] == ["fine"] and ready.skips.count == 1
    assert "b.png" in ready.skips.first[0]


def test_that_what_does_not_fit_a_network_is_left_out_and_counted(folder: Path) -> None:
    seen: list[tuple[int, int]] = []

    def fits(sample: Sample, sizes: Any) -> None:
        from auditor.base.errors import AuditorError

        seen.extend(sizes)
        if sample.id == "two":
            raise AuditorError("It has two.", "")

    images = [ImageRef.of(np.zeros((3, n, 3), np.uint8)) for n in (4, 5)]
    samples = Samples("made", [Sample("one", image=images[0]), Sample("two", image=images[0], more=(images[1],))])
    ready = checked(samples, fits=fits)
    assert [sample.id for sample in ready] == ["one"] and ready.skips.first == ["It has two."]
    assert seen == [(3, 4), (3, 4), (3, 5)]
