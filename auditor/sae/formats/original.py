"""What a dictionary was in its own format, kept so that it can be written back tensor for tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.sae.sae import Original, Sae


def original(name: str, config: dict[str, Any], stored: Mapping[str, Tensor], again: Mapping[str, Tensor]) -> Original:
    """Of the format `name`: those of the `stored` tensors that `again`, what the canonical weights give for them, does
    not give bit for bit once it has their type."""
    dtypes = {key: str(tensor.dtype).removeprefix("torch.") for key, tensor in stored.items()}
    kept = {key: tensor for key, tensor in stored.items() if not _same(tensor, again.get(key))}
    return Original(name, config, kept, dtypes)


def of_format(sae: Sae, name: str) -> Original | None:
    """What `sae` was in the format `name`, if it came from it."""
    return sae.original if sae.original is not None and sae.original.format == name else None


def restored(found: Original, again: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The stored tensors, each with its type; `again` as for `original`."""
    tensors = {}
    for key, dtype in found.dtypes.items():
        if key in found.tensors:
            tensors[key] = found.tensors[key]
        elif key in again:
            tensors[key] = again[key].detach().cpu().to(getattr(torch, dtype)).contiguous()
        else:
            raise AuditorError(f"The dictionary no longer has its tensor “{key}”.", "Import it again from its source.")
    return tensors


def _same(stored: Tensor, made: Tensor | None) -> bool:
    if made is None or made.shape != stored.shape:
        return False
    cast = made.to(stored.dtype).contiguous().reshape(-1)
    # Bytes, because zero and minus zero are equal as numbers.
    return torch.equal(cast.view(torch.uint8), stored.contiguous().reshape(-1).view(torch.uint8))
