"""What is run of samples: without what cannot be read and without repeats, counted."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from auditor.base.errors import AuditorError, Stop
from auditor.base.reporter import Control, EventReporter
from auditor.data import ImageRef, Sample, Samples, open_samples, text_sample
from auditor.data.checked import checked, sifted

PIXELS = np.random.default_rng(5).integers(0, 255, (20, 30, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **how: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **how)
    return buffer.getvalue()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three good pictures, two of them equal in other files, and two that cannot be decoded."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(PIXELS))
    (folder / "b.png").write_bytes(encoded(PIXELS, compress_level=0))
    (folder / "c.png").write_bytes(encoded(255 - PIXELS))
    (folder / "d.png").write_bytes(encoded(PIXELS)[:400])
    (folder / "e.png").write_bytes(b"no picture at all")
    return folder


def test_that_pictures_that_cannot_be_decoded_are_left_out_and_told(pictures: Path) -> None:
    found = checked(open_samples(pictures))
    assert [sample.id for sample in found] == ["a.png", "b.png", "c.png"]
    assert found.skips.count == 2 and found.skips.repeats == 0
    assert "“d.png” is damaged" in found.skips.first[0] and "“e.png” is not a PNG" in found.skips.first[1]
    with pytest.raises(AuditorError, match=r"“d\.png” is damaged"):
        checked(open_samples(pictures), strict=True)


def test_that_equal_pixels_and_equal_texts_are_kept_once(pictures: Path) -> None:
    found = checked(open_samples(pictures), unique=True)
    assert [sample.id for sample in found] == ["a.png", "c.png"] and found.skips.repeats == 1
    texts = ["A café.", " A cafe\u0301.\r\n", "A cafe.", "a café.", "A\ncafé.", "A\r\ncafé."]
    kept = checked(Samples("texts", [text_sample(text) for text in texts]), unique=True)
    assert [texts.index(sample.text or "") for sample in kept] == [0, 2, 3, 4] and kept.skips.repeats == 2


def test_that_captions_tell_equal_pictures_apart_where_the_network_reads_them() -> None:
    picture = ImageRef.of(PIXELS)
    rows = [Sample("a", text="one", image=picture), Sample("b", text="two", image=picture), Sample("c", image=picture)]
    assert len(checked(rows, unique=True)) == 3
    labelled = [Sample(name, image=picture, labels={"caption": name}) for name in "ab"]
    assert len(checked(labelled, unique=True)) == 1


def test_that_nothing_readable_is_an_error(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded(PIXELS)[:200])
    with pytest.raises(AuditorError, match=r"None of the 2 items of .* can be read\. The first: The image “a\.png”"):
        checked(open_samples(tmp_path))


def test_that_texts_alone_need_no_pass(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n", encoding="utf-8")
    samples = open_samples(path)
    assert checked(samples) is samples


def test_that_checking_can_be_stopped() -> None:
    control = Control()
    control.cancel()
    with pytest.raises(Stop):
        checked([Sample("a", image=ImageRef.of(PIXELS))], unique=True, reporter=EventReporter(lambda _: None, control))


def test_that_a_few_samples_are_sifted_by_what_can_be_read(pictures: Path) -> None:
    fine, faults = sifted(list(open_samples(pictures)))
    assert [sample.id for sample in fine] == ["a.png", "b.png", "c.png"] and faults.count == 2
    with pytest.raises(AuditorError, match="reads no text"):
        checked([Sample("a", messages=({"role": "user", "content": "hi"},))])
