"""EleutherAI sparsify folders (cfg.json + sae.safetensors), read only."""

from __future__ import annotations

from pathlib import Path

from auditor.base.errors import AuditorError
from auditor.sae.formats.folder import CONFIG, read_config, read_weights
from auditor.sae.sae import Sae

WEIGHTS = "sae.safetensors"
_TENSORS = {"encoder.weight", "encoder.bias", "W_dec", "b_dec"}


def read(path: Path) -> Sae:
    """The TopK dictionary in the folder `path`; the folder's name is taken for the hook point.

    sparsify keeps encoder.weight as [d_sae, d_in] and subtracts b_dec from the input, as we do. AuditorError for
    transcoders, skip connections and other activations, which have no place in a dictionary of one hook point.
    """
    config = read_config(path, WEIGHTS)
    for setting in ("transcode", "skip_connection"):
        if config.get(setting):
            raise AuditorError(f"“{path.name}” is a transcoder ({setting} in {CONFIG}), not a dictionary.")
    if config.get("activation", "topk") != "topk" or config.get("signed"):
        raise AuditorError(
            f"“{path.name}” uses the activation “{config.get('activation', 'signed topk')}”, which is not read.",
            "Only sparsify's TopK dictionaries can be opened.",
        )
    k = config.get("k")
    if isinstance(k, bool) or not isinstance(k, int):
        raise AuditorError(f"“{path.name}”: k is {k!r}, not a whole number.")
    weights = read_weights(path / WEIGHTS)
    if set(weights) != _TENSORS or weights["encoder.weight"].ndim != 2:
        raise AuditorError(
            f"“{path.name}” holds the tensors {', '.join(sorted(weights)) or 'none'}; "
            f"a sparsify dictionary needs {', '.join(sorted(_TENSORS))}.", "Get the files again.",
        )
    tensors = (weights["encoder.weight"].T.contiguous(), weights["W_dec"], weights["encoder.bias"], weights["b_dec"])
    meta = {"origin": {"sae_training_library": "sparsify"}}
    return Sae("topk", *tensors, k=k, hook=path.name, meta=meta, path=path)
