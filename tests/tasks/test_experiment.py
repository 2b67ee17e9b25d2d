"""What an experiment is done on: samples with and without a concept, and images that a prompt follows."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from auditor.data import ImageRef, Sample, text_sample
from auditor.models import open_model
from auditor.tasks.experiment import cut, prompted
from tests.models.tiny import ALL


def image(folder: Path) -> ImageRef:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
    (folder / "a.png").write_bytes(buffer.getvalue())
    return ImageRef.at(folder / "a.png")


def test_that_a_prompt_follows_images_and_leaves_texts_alone(tmp_path: Path) -> None:
    shown, told, text = Sample("a", image=image(tmp_path)), Sample("b", "a cat", image(tmp_path)), text_sample("Hello")
    assert [s.text for s in prompted([shown, told, text], "A picture of")] == ["A picture of", "a cat", "Hello"]
    assert prompted([shown, told, text], "") == [shown, told, text]


def test_that_texts_are_cut_to_what_the_network_reads(tmp_path: Path) -> None:
    ALL["llama"].save(tmp_path / "m")
    model = open_model(tmp_path / "m")
    assert model.longest_text == 40
    short = cut(model, text_sample("one " * 60), 64)
    assert model.run(short.text or "").logits.shape[1] == 39  # type: ignore[union-attr]
    assert len((cut(model, text_sample("one " * 60), 8).text or "").split()) == 8
