"""`auditor open FOLDER` on what save_pretrained wrote: networks over text, pictures, sounds and pairs of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from auditor.cli.main import main
from auditor.models.adapters import ADAPTERS
from tests.models.tiny import ALL

FORMS = (
    "llama", "llama4_text", "t5", "bert", "wavlm", "audio-spectrogram-transformer", "whisper", "vit", "convnext",
    "siglip2", "blip-2", "llava_next", "mllama", "llama4", "qwen3_vl",
)  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_that_a_saved_folder_opens_and_its_hook_points_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    ALL[name].save(tmp_path / "saved")
    capsys.readouterr()
    assert main(["open", str(tmp_path / "saved"), "-p", str(tmp_path / "project"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "model" and told["layers"] > 0
    hooks = {point["hook"]: point["width"] for point in told["hook_points"]}
    parts = [hook for hook in hooks if hook.endswith("blocks.0.resid_post")]
    assert parts and all(hooks[hook] > 0 for hook in parts)
    # By names of their own, and not those of the network's modules alone.
    assert told["family"] in ADAPTERS
