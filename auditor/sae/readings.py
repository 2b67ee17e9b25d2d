"""Ways in which a dictionary's file could be meant, other than as it was read: each has a name and gives a `Sae`.

A reading is text, parts joined by “+”, so that a person can ask for it and a record can keep it:
“b_dec-on-input”, “no-b_dec-on-input”: b_dec is subtracted from the input (once more), or is not;
“scale=F”: it is made for F x; “b_dec-scale=F”: only its b_dec still is (SAELens' issue 354);
“layer_norm”, “constant_norm”, “no-norm”: what is done to each row first;
“topk=K”, “relu”: the activation function; “decoder-norms”: features compete by activation times decoder norm;
“transposed-encoder”, “transposed-decoder”: for square weights, which fit either way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.sae import conventions
from auditor.sae.sae import Normalise, Sae

AS_READ = "as read"
_TITLES = {
    "b_dec-on-input": "b_dec subtracted from the input",
    "no-b_dec-on-input": "b_dec not subtracted from the input",
    "scale": "made for inputs times {}",
    "b_dec-scale": "b_dec alone still made for inputs times {}",
    "layer_norm": "each row layer-normalised",
    "constant_norm": "each row scaled to norm √d",
    "no-norm": "rows not normalised",
    "topk": "TopK of {}",
    "relu": "plain ReLU",
    "decoder-norms": "features compete by activation × decoder norm",
    "transposed-encoder": "encoder transposed",
    "transposed-decoder": "decoder transposed",
}
# In the order in which they take effect: what is said of the file's tensors comes before what is said of its input.
_ORDER = (
    "transposed-encoder", "transposed-decoder", "b_dec-on-input", "no-b_dec-on-input", "b_dec-scale", "decoder-norms",
    "scale", "layer_norm", "constant_norm", "no-norm", "topk", "relu",
)  # fmt: skip
# What leaves a temporal dictionary's attention what it is.
OF_TEMPORAL = ("scale", "layer_norm", "constant_norm", "no-norm", "topk", "relu")


def title(reading: str) -> str:
    """A reading in words."""
    return ", ".join(_TITLES[name].format(value) for name, value in _parts(reading)) or AS_READ


def read_as(sae: Sae, reading: str) -> Sae:
    """`sae` in another reading. AuditorError where it is no reading, or this dictionary cannot have it."""
    if reading in ("", AS_READ):
        return sae
    for name, value in sorted(_parts(reading), key=lambda part: _ORDER.index(part[0])):
        if sae.context is not None and name not in OF_TEMPORAL:
            raise AuditorError(
                f"“{name}” is no convention of temporal dictionaries.", f"Theirs are: {', '.join(OF_TEMPORAL)}."
            )
        sae = _CHANGES[name](sae, value)
    return replace(sae, meta={**sae.meta, "reading": reading}, path=None)


def _parts(reading: str) -> list[tuple[str, str]]:
    found = []
    for part in reading.split("+") if reading not in ("", AS_READ) else ():
        name, _, value = part.strip().partition("=")
        if name not in _TITLES or bool(value) != ("{}" in _TITLES[name]):
            known = ", ".join(f"{known}=…" if "{}" in words else known for known, words in _TITLES.items())
            raise AuditorError(f"“{part}” is not a convention of dictionaries.", f"There are: {known}.")
        found.append((name, value))
    return found


def _weights(sae: Sae) -> dict[str, Tensor]:
    return {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}


def _changed(sae: Sae, weights: dict[str, Tensor], **more: Any) -> Sae:
    fields: dict[str, Any] = {**weights, **more}
    return replace(sae, **fields)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e30:
        raise AuditorError(f"“{text}” is not a positive number.", "Write it as scale=0.05.")
    return value


def _biased(change: Callable[[conventions.Weights], conventions.Weights]) -> Callable[[Sae, str], Sae]:
    def biased(sae: Sae, _: str) -> Sae:
        if sae.d_in != sae.d_out:
            raise AuditorError("b_dec has another width than the input, so it cannot be subtracted from it.")
        return _changed(sae, change(_weights(sae)))

    return biased


def _scaled(sae: Sae, value: str) -> Sae:
    if sae.arch == "matching_pursuit":  # its encoder is the decoder itself
        raise AuditorError("The rows that matching pursuit reads cannot be rescaled afterwards.", "")
    factor, context = _number(value), sae.context
    if context is not None:
        offset = None if context.offset is None else context.offset / factor
        context = replace(context, offset=offset, least=context.least / factor)
    return _changed(sae, conventions.input_scaled(_weights(sae), factor), context=context)


def _b_dec_scaled(sae: Sae, value: str) -> Sae:
    return replace(sae, b_dec=sae.b_dec / _number(value))


def _normalised(how: str) -> Callable[[Sae, str], Sae]:
    def normalised(sae: Sae, _: str) -> Sae:
        return replace(sae, normalise=cast(Normalise, how))

    return normalised


def _topk(sae: Sae, value: str) -> Sae:
    if not value.isdecimal():
        raise AuditorError(f"“{value}” is not a whole number.", "Write it as topk=32.")
    return replace(sae, arch="topk", k=int(value), threshold=None)


def _relu(sae: Sae, _: str) -> Sae:
    return replace(sae, arch="relu", k=None, threshold=None)


def _decoder_norms(sae: Sae, _: str) -> Sae:
    return _changed(sae, conventions.decoder_norms_in_activations(_weights(sae)))


def _transposed(name: str) -> Callable[[Sae, str], Sae]:
    def transposed(sae: Sae, _: str) -> Sae:
        weight: Tensor = getattr(sae, name)
        if weight.shape[0] != weight.shape[1]:
            raise AuditorError(f"{name} {list(weight.shape)} is not square, so it fits in one way only.", "")
        return _changed(sae, {name: weight.T.contiguous()})

    return transposed


_CHANGES: dict[str, Callable[[Sae, str], Sae]] = {
    "transposed-encoder": _transposed("W_enc"),
    "transposed-decoder": _transposed("W_dec"),
    "b_dec-on-input": _biased(conventions.input_centred),
    "no-b_dec-on-input": _biased(conventions.input_not_centred),
    "b_dec-scale": _b_dec_scaled,
    "decoder-norms": _decoder_norms,
    "scale": _scaled,
    "layer_norm": _normalised("layer_norm"),
    "constant_norm": _normalised("constant_norm"),
    "no-norm": _normalised("none"),
    "topk": _topk,
    "relu": _relu,
}
