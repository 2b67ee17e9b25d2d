"""saev's `sae.pt`: one line of JSON, then a torch pickle, opened in a jailed child; read only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from auditor.base.errors import AuditorError
from auditor.intake.pickled import read_pickle
from auditor.sae.formats.folder import check_tensors, expect, expect_matrices
from auditor.sae.formats.format import Format
from auditor.sae.sae import Original, Sae

WEIGHTS = "sae.pt"
_WANTED = {"W_enc", "b_enc", "W_dec", "b_dec"}
_LONGEST = 1 << 20


def read(path: Path) -> Sae:
    """The dictionary in the file `path`, or in `sae.pt` of the folder. ReLU and TopK; b_dec is subtracted first."""
    file = path / WEIGHTS if path.is_dir() else path
    header, start = _header(file)
    if header is None:
        raise AuditorError(f"“{file.name}” does not begin with saev's line of settings.", "Choose a file of saev's.")
    config = header.get("cfg")
    config = config if isinstance(config, dict) else {}
    stored, _ = read_pickle(file, skip=start)
    check_tensors(file.name, stored)
    expect(file.name, stored, _WANTED, "a dictionary of saev")
    t = {name: tensor.float() for name, tensor in stored.items()}
    expect_matrices(file.name, t["W_enc"], t["W_dec"], "W_enc is [d, d_sae] and W_dec [d_sae, d] in this format.")
    activation = config.get("activation")
    activation = activation if isinstance(activation, dict) else {}
    k = activation.get("top_k", activation.get("k"))
    fields: dict[str, Any] = {"arch": "relu"}
    if isinstance(k, int) and not isinstance(k, bool):
        fields = {"arch": "topk", "k": k}
    layer = config.get("layer")
    hook = f"blocks.{layer}.hook_resid_post" if isinstance(layer, int) else ""
    meta = {"origin": {"format": "saev", "hook_name": hook, "schema": header.get("schema")}}
    sae = Sae(hook=hook, meta=meta, path=path, **(fields | t))
    sae.original = Original("saev", header)
    return sae


def _header(file: Path) -> tuple[dict[str, Any] | None, int]:
    """The JSON object of the first line, and where the rest begins."""
    with open(file, "rb") as opened:
        line = opened.readline(_LONGEST)
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None, 0
    return (found, len(line)) if isinstance(found, dict) and "schema" in found else (None, 0)


def _recognised(path: Path) -> bool:
    file = path / WEIGHTS if path.is_dir() else path
    return file.suffix == ".pt" and file.is_file() and _header(file)[0] is not None


FORMAT = Format("saev", "saev's sae.pt", _recognised, read)
