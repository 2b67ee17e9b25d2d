"""Mutated config.json files of networks that have no adapter: each opens or is refused in a sentence; nothing from
outside is imported, started or connected to, and nothing hangs."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.models import open_model
from tests.models.test_generic import PICTURES, TEXTS, saved

MUTANTS = 40  # of each network; 400 pass too, in a minute and a half
_VALUES: list[Any] = [
    None, True, -1, 0, 1, 3, 7, 1 << 20, 1 << 31, 1 << 62, -(1 << 40), 0.5, -1e308, "", "evil", "../../etc/passwd",
    "someone/repository", "os.system", "__import__('os')", [], [1], [[]], ["evil"] * 3, {}, {"model_type": "evil"},
    {"auto_map": {"AutoModel": "evil.Model"}}, {"model_type": "llama"}, {"type": "evil"},
]  # fmt: skip
_KEYS = [
    "auto_map", "_attn_implementation", "attn_implementation", "_attn_implementation_internal", "text_config",
    "vision_config", "backbone_config", "quantization_config", "architectures", "model_type", "encoder", "decoder",
    "rope_parameters", "layer_types", "dtype", "torch_dtype", "hidden_act", "activation_function", "_name_or_path",
    "use_kernels", "problem_type", "pruned_heads", "id2label", "attribute_map", "sub_configs", "is_encoder_decoder",
    "tie_word_embeddings", "use_cache", "output_attentions", "name_or_path", "tokenizer_class",
]  # fmt: skip
_WATCHED = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.exec", "os.system", "os.posix_spawn")


@pytest.fixture(scope="module")
def seen() -> Iterator[list[str]]:
    """Audit events that would mean another program, a network or code from the folder."""
    events: list[str] = []
    state = {"on": True}

    def hook(event: str, args: Any) -> None:
        if state["on"] and (event in _WATCHED or (event == "import" and "evil" in str(args[0]))):
            events.append(f"{event} {args}")

    sys.addaudithook(hook)
    yield events
    state["on"] = False


@pytest.mark.parametrize("name", [*TEXTS, *PICTURES])
def test_that_no_mutated_config_does_more_than_open_or_be_refused(name: str, tmp_path: Path, seen: list[str]) -> None:
    _, folder = saved((TEXTS | PICTURES)[name], tmp_path / "model")
    (folder / "evil.py").write_text("open('canary', 'w')", encoding="utf-8")
    path = folder / "config.json"
    plain = json.loads(path.read_text(encoding="utf-8"))
    drawn = np.random.default_rng(sum(name.encode()))
    refused = 0
    for number in range(MUTANTS):
        config = dict(plain)
        for _ in range(int(drawn.integers(1, 4))):
            keys = [*plain, *_KEYS]
            config[keys[int(drawn.integers(len(keys)))]] = _VALUES[int(drawn.integers(len(_VALUES)))]
        path.write_text(json.dumps(config), encoding="utf-8")
        begun = time.monotonic()
        try:
            open_model(folder)
        except AuditorError as error:
            refused += 1
            assert "\n" not in error.message and len(error.message) < 1500, (number, config)
        assert time.monotonic() - begun < 30, (number, {k: v for k, v in config.items() if v != plain.get(k)})
    assert not seen and not list(tmp_path.rglob("canary")) and not Path("canary").exists()
    assert refused > MUTANTS // 4
    shutil.rmtree(folder)
