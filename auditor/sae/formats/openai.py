"""OpenAI's sparse autoencoders (Gao et al. 2024): one `{layer}.pt`, a torch pickle opened in a jailed child; read only.

encoder.weight is [d_sae, d], decoder.weight [d, d_sae]. TopK goes with layer normalisation of each row (eps 1e-5 beside
the unbiased standard deviation), which is undone on the output; ReLU goes without.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

from auditor.base.errors import AuditorError
from auditor.intake.pickled import read_pickle
from auditor.sae.formats.folder import check_tensors, expect, expect_matrices, turned, whole_number
from auditor.sae.formats.format import Format
from auditor.sae.sae import Original, Sae

_WANTED = {"pre_bias", "encoder.weight", "latent_bias", "decoder.weight"}
_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
_SITES = {
    "resid_post_attn": "hook_resid_mid", "resid_post_mlp": "hook_resid_post", "resid_delta_attn": "hook_attn_out",
    "resid_delta_mlp": "hook_mlp_out", "mlp_post_act": "mlp.hook_post",
}  # fmt: skip
_LOOKED_AT = 1 << 20


def read(path: Path) -> Sae:
    """The dictionary in the file `path`; its layer is the file's name, its site stands in the folders above."""
    stored, plain = read_pickle(path)
    check_tensors(path.name, stored, whole=_STATISTICS)
    expect(path.name, stored, _WANTED, "a dictionary of OpenAI's", _STATISTICS)
    kind = str(plain.get("activation", "ReLU"))
    settings = plain.get("activation_state_dict")
    settings = settings if isinstance(settings, dict) else {}
    if kind not in ("TopK", "ReLU") or settings.get("postact_fn", "ReLU") != "ReLU":
        raise AuditorError(
            f"“{path.name}” uses the activation {kind} ({settings.get('postact_fn', 'plain')}), which is not read.",
            "TopK and ReLU can be opened.",
        )
    t = {name: stored[name].float() for name in _WANTED}
    W_enc, W_dec = turned(path.name, t, "encoder.weight"), turned(path.name, t, "decoder.weight")
    expect_matrices(path.name, W_enc, W_dec, "encoder.weight is [d_sae, d] and decoder.weight [d, d_sae].")
    fields: dict[str, Any] = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": t["latent_bias"], "b_dec": t["pre_bias"]}
    if kind == "TopK":
        fields |= {"arch": "topk", "k": whole_number(path.name, settings, "k"), "normalise": "layer_norm"}
    else:
        fields |= {"arch": "relu"}
    hook = _hook(path)
    origin = {"format": "openai", "hook_name": hook, "activation": kind} | ({"k": fields["k"]} if "k" in fields else {})
    sae = Sae(hook=hook, meta={"origin": origin}, path=path, **fields)
    sae.original = Original("openai", plain)
    return sae


def _hook(path: Path) -> str:
    layer = re.fullmatch(r"(?:layer_)?(\d+)", path.stem)
    above = path.resolve().parent.as_posix()
    site = next((hook for word, hook in _SITES.items() if word in above), "hook_resid_post")
    return f"blocks.{int(layer[1])}.{site}" if layer else ""


def _recognised(path: Path) -> bool:
    """By names of tensors, which stand in the pickle as text; nothing is unpickled for that."""
    if path.suffix != ".pt" or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            inside = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(inside) as file:
                start = file.read(_LOOKED_AT)
    except (zipfile.BadZipFile, StopIteration, OSError, RuntimeError, NotImplementedError, EOFError):
        with open(path, "rb") as file:
            start = file.read(_LOOKED_AT)
    return b"pre_bias" in start and b"latent_bias" in start


FORMAT = Format("openai", "OpenAI's .pt", _recognised, read)
