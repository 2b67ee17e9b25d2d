"""Which samples hold a word: in the text, the caption or the tags."""

from __future__ import annotations

import re
from functools import lru_cache

from auditor.data.messages import as_text
from auditor.data.sample import Sample


def words_of(sample: Sample) -> str:
    """The text or conversation, the caption and the tags of a sample, as one string."""
    tags = sample.labels.get("tags", "")
    told = " ".join(map(str, tags)) if isinstance(tags, list | tuple) else str(tags)
    said = as_text(sample.messages) if sample.messages else sample.text or ""
    return f"{said} {sample.labels.get('caption', '')} {told}"


def holds(sample: Sample, words: str) -> bool:
    """Whether one of `words` (separated by commas) occurs whole, in any case, in `words_of` the sample."""
    return bool(_pattern(words).search(words_of(sample)))


@lru_cache(maxsize=64)
def _pattern(words: str) -> re.Pattern[str]:
    return re.compile(rf"\b({'|'.join(re.escape(word.strip()) for word in words.split(','))})\b", re.IGNORECASE)
