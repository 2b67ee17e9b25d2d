"""What the preview shows of a set of samples: counts, what was left out, lengths in tokens, and some of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.base.errors import AuditorError

if TYPE_CHECKING:
    from auditor.data import Sample
    from auditor.data.columns import Columns
    from auditor.data.skipped import Skips

SHOWN = 8
SIDE = 56
SIDE_BY_SIDE = 4
_LOOKED_AT = 200
_LINES = 4
_LINES_OF_ONE = 40
_LABELS = 4
_CHARACTERS = 160
_MEASURED = 200_000  # characters of a text: it is longer than any context then


@dataclass(frozen=True)
class Shown:
    """One sample: its name with its group and labels, the start of its text (or caption, or what a sound is and how
    long), the first of its pictures as PNG bytes, how many it has, and whether it cannot be read."""

    name: str
    text: str
    pngs: tuple[bytes, ...] = ()
    pictures: int = 0
    broken: bool = False


@dataclass(frozen=True)
class Look:
    """Facts of a set of samples, and some of them, spread over the whole.

    `skips` are what the file holds and cannot be read; `faults` what cannot among `looked_at` samples, whose images
    were decoded and whose conversations written; so many of them have `texts`. `tokens` has the length of each text
    among those, if there is a tokenizer.
    """

    count: int
    some: list[Shown]
    skips: Skips
    faults: Skips
    images: int = 0
    sounds: int = 0
    conversations: int = 0
    texts: int = 0
    looked_at: int = 0
    tokens: list[int] = field(default_factory=list)
    columns: Columns | None = None

    def unread_by(self, reads: Collection[str]) -> str:
        """What these samples are where a model that `reads` text, image or audio can read none of them; else ""."""
        if self.sounds == self.count and "audio" not in reads:
            return "sounds"
        if self.images == self.count and not self.texts and "image" not in reads:
            return "images"
        return "texts" if not (self.images or self.sounds) and "text" not in reads else ""


def look(spec: str, model: Path | None = None) -> Look:
    """Open the samples at a path, which may end in options, and take some; runs off the GUI thread. `model` is the
    folder whose tokenizer counts, and whose template writes conversations."""
    from auditor.data import open_samples
    from auditor.data.checked import sifted
    from auditor.models.chat import template_of

    samples = open_samples(spec)
    step = max(1, len(samples) // _LOOKED_AT)
    seen = [samples[at] for at in range(0, len(samples), step)][:_LOOKED_AT]
    tokenizer = _tokenizer(model) if model is not None else None
    template = template_of(tokenizer, model.name if model is not None else "")
    try:
        fine, faults = sifted(seen, template)
    except AuditorError as error:  # a model without a template: all of the conversations, not one of them
        fine, faults = sifted(seen)
        faults.add(error)
        faults.count += sum(sample.messages is not None for sample in seen) - 1
    told = {sample.id: sample for sample in fine}
    kinds = samples.counts
    picked = seen[:: max(1, len(seen) // SHOWN)][:SHOWN]
    lines = _LINES_OF_ONE if len(samples) == 1 else _LINES
    return Look(
        count=len(samples),
        some=[_shown(sample, told.get(sample.id), lines) for sample in picked],
        skips=samples.skips,
        faults=faults,
        images=kinds.get("image", 0),
        sounds=kinds.get("audio", 0),
        conversations=kinds.get("conversation", 0),
        texts=sum(sample.text is not None for sample in fine),
        looked_at=len(seen),
        tokens=_lengths(tokenizer, fine),
        columns=samples.columns,
    )


def start_of(text: str, lines: int) -> str:
    """The first `lines` lines of a text, each cut to what can be read at a glance; “…” says that more follows."""
    rows = text.strip("\n").splitlines()
    shown = [row if len(row) <= _CHARACTERS else row[:_CHARACTERS].rstrip() + "…" for row in rows[:lines]]
    return "\n".join([*shown, "…"] if len(rows) > lines else shown)


def _shown(sample: Sample, fine: Sample | None, lines: int) -> Shown:
    from auditor.data.messages import as_text

    if fine is None:
        return Shown(sample.id, "Cannot be read: it will be left out.", broken=True)
    text = fine.marked or (as_text(fine.messages) if fine.messages else str(fine.labels.get("caption") or fine.group))
    if fine.audio is not None:
        text = f"{text}, sound of {fine.audio.seconds:.1f} s"
    pngs = tuple(picture.thumbnail(2 * SIDE) for picture in fine.pictures[:SIDE_BY_SIDE])
    told = {name: value for name, value in fine.labels.items() if name != "caption" and value != fine.id}
    labels = [f"{name} {told[name]}" for name in sorted(told, key=lambda name: name != "label")][:_LABELS]
    own = [f"group {fine.group}"] if fine.group not in ("", fine.id) else []
    return Shown("  ·  ".join([fine.id, *own, *labels]), start_of(text, lines), pngs, len(fine.pictures))


def _lengths(tokenizer: Any, samples: Sequence[Sample]) -> list[int]:
    texts = [sample.text[:_MEASURED] for sample in samples if sample.text is not None]
    if tokenizer is None or not texts:
        return []
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=True, verbose=False)["input_ids"]]


@lru_cache(maxsize=2)
def _tokenizer(folder: Path) -> Any:
    """The tokenizer in a model's folder, or in that of its text part; None where it has none that opens at once."""
    from auditor.base.offline import go_offline
    from auditor.intake.weights import beside, read_config_json
    from auditor.models.tokens import load_tokenizer

    go_offline()
    if not folder.is_dir():
        return None
    try:
        found = load_tokenizer(folder)
        text = read_config_json(folder / "config.json").get("text")
        return load_tokenizer(beside(folder, text)) if found is None and isinstance(text, str) else found
    except AuditorError:
        return None  # said when the model is opened, not under the samples
