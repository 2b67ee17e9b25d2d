"""Texts through a fast tokenizer, without what the library's own call makes of the result in Python: meanwhile another
thread, which keeps a GPU busy, would have to wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from auditor.base.errors import AuditorError


def encodings(tokenizer: Any, texts: list[str], *, special: bool) -> list[Any] | None:
    """For each text an object with its token numbers as `ids` and their count as its length, `special` tokens among
    them if wanted; neither cut nor padded. None where `tokenizer` is not a fast one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or tokenizer.split_special_tokens:
        return None
    # The library's call sets these three each time, and others may have left them set.
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    if backend.encode_special_tokens:
        backend.encode_special_tokens = False
    found: list[Any] = backend.encode_batch_fast(texts, add_special_tokens=special)
    return found


@contextmanager
def taken_apart() -> Iterator[None]:
    """AuditorError where the tokenizer that is called inside the block cannot do what it is for."""
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:  # which is what the library raises of a tokenizer that lacks a part
            raise
        raise AuditorError(
            f"The model's tokenizer cannot take these texts apart: {error}.", "Copy the model's folder again."
        ) from error
