"""What an experiment is done on: samples with and without a concept, and images that a prompt follows."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from auditor.data import ImageRef, Sample, text_sample
from auditor.tasks.experiment import prompted


def image(folder: Path) -> ImageRef:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
    (folder / "a.png").write_bytes(buffer.getvalue())
    return ImageRef.at(folder / "a.png")


def test_that_a_prompt_follows_images_and_leaves_texts_alone(tmp_path: Path) -> None:
    shown, told, text = Sample("a", image=image(tmp_path)), Sample("b", "a cat", image(tmp_path)), text_sample("Hello")
    assert [s.text for s in prompted([shown, told, text], "A picture of")] == ["A picture of", "a cat", "Hello"]
    assert prompted([shown, told, text], "") == [shown, told, text]
