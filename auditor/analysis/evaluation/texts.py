"""What words and cities ask of a model: that it reads text, and at a hook point whose positions are that text's."""

from __future__ import annotations

from auditor.base.errors import AuditorError
from auditor.models import Model


def must_read_text(model: Model, why: str, hook: str = "") -> None:
    """AuditorError for a model without text, or a hook point with other positions; `why` says what text is for."""
    if model.tokenizer is None or "text" not in model.modalities:
        raise AuditorError(f"“{model.name}” reads no text, and {why}.", "Leave it out.")
    if hook and model._points([hook])[0].stream != "text":
        raise AuditorError(
            f"“{hook}” has no positions of the text that “{model.name}” reads, and {why}.",
            "Choose a dictionary of the text, or leave it out.",
        )
