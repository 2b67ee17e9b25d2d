"""The grammar of a feature search: what the person typed, taken apart into terms, comparisons and orders.

    insecure "load key" -password     words of the label, the automatic label, the top tokens and the captions
                                      (a word finds its beginnings: pad → padlock; quotes: this phrase; minus: not)
    density<0.01   max>=5   image>40%   density:0.1%..1%      any column of the table
    modality:text|image|both          live:yes|no             label:yes|no
    id:3   id:3,7,20-29               like:1412 (nearest decoder directions first)
    sort:max   sort:density-asc       largest first, or smallest first with -asc

Parts stand beside one another and must all hold.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, field

from auditor.base.errors import AuditorError
from auditor.features.table import WORDS

KEYS = ("modality", "live", "label", "id", "like", "sort")
MODALITIES = ("text", "image", "both")
MAX_LENGTH = 2_000

_PART = re.compile(
    r"""(?P<minus>-)?"(?P<phrase>[^"]*)(?P<close>"?)
      | (?P<column>\w+)\s*(?P<op><=|>=|<|>|=)\s*(?P<number>[^\s<>=]*)
      | (?P<key>\w+):(?P<value>\S*)
      | (?P<term>\S+)""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Comparison:
    """`column` against one number; `op` is one of < <= > >= =."""

    column: str
    op: str
    number: float


@dataclass(frozen=True)
class Term:
    """Text to find: the beginning of a word, or an exact phrase; `absent` turns it round."""

    text: str
    phrase: bool = False
    absent: bool = False


@dataclass(frozen=True)
class Query:
    """A parsed query. `parts` are the pieces as typed, for chips that can be taken away one by one."""

    terms: tuple[Term, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    modality: str = ""
    live: bool | None = None
    labelled: bool | None = None
    ids: tuple[tuple[int, int], ...] = ()
    like: int | None = None
    sort: str = ""
    ascending: bool = False
    parts: tuple[str, ...] = ()

    def without(self, part: int) -> str:
        """The query's text without its piece number `part`."""
        return " ".join(text for number, text in enumerate(self.parts) if number != part)


@dataclass
class _Draft:
    """What `parse` has read so far."""

    terms: list[Term] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    ids: list[tuple[int, int]] = field(default_factory=list)
    single: dict[str, object] = field(default_factory=dict)


def parse(text: str) -> Query:
    """`text` as a Query. AuditorError names the word that cannot be read and what is allowed in its place."""
    if len(text) > MAX_LENGTH:
        raise AuditorError(f"The search is {len(text)} characters long.", f"Use at most {MAX_LENGTH}.")
    draft, parts = _Draft(), []
    for match in _PART.finditer(text):
        parts.append(match.group().strip())
        if match["column"] is not None:
            draft.comparisons.append(_comparison(match["column"], match["op"], match["number"]))
        elif match["key"] is not None:
            _key(draft, match["key"].lower(), match["value"])
        else:
            _text(draft, match)
    return Query(tuple(draft.terms), tuple(draft.comparisons), ids=tuple(draft.ids), parts=tuple(parts),
                 **draft.single)  # type: ignore[arg-type]


def _text(draft: _Draft, match: re.Match[str]) -> None:
    phrase = match["phrase"]
    if phrase is not None:
        if not match["close"]:
            raise AuditorError(f"The quotation mark before “{phrase}” is not closed.", 'Close it with a second ".')
        if phrase.strip():
            draft.terms.append(Term(phrase.strip(), phrase=True, absent=bool(match["minus"])))
        return
    word = match["term"]
    absent = word.startswith("-") and len(word) > 1
    word = word[1:] if absent else word
    if any(character in word for character in "<>="):
        raise AuditorError(f"“{word}” has no column before the comparison.", f"Columns: {', '.join(sorted(WORDS))}.")
    # A term without a letter or digit can match no word, so it is looked up nowhere and must not hide everything.
    if any(character.isalnum() for character in word):
        draft.terms.append(Term(word, absent=absent))


def _column(word: str) -> str:
    found = WORDS.get(word.lower())
    if found is None:
        close = difflib.get_close_matches(word.lower(), list(WORDS), n=1)
        start = f"Did you mean “{close[0]}”? " if close else ""
        raise AuditorError(f"“{word}” is not a column of the feature table.",
                           f"{start}Columns: {', '.join(sorted(WORDS))}; to find the text, put it in quotes.")
    return found


def _number(word: str, text: str) -> float:
    percent = text.endswith("%")
    try:
        number = float(text[:-1] if percent else text)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise AuditorError(f"“{text}” after “{word}” is not a number.", "Write for example density<0.01 or image>40%.")
    return number / 100 if percent else number


def _comparison(word: str, op: str, text: str) -> Comparison:
    return Comparison(_column(word), op, _number(word, text))


def _key(draft: _Draft, key: str, value: str) -> None:
    if key in WORDS and key != "id" and ".." in value:
        low, high = value.split("..", 1)
        draft.comparisons += [_comparison(key, ">=", low), _comparison(key, "<=", high)]
        return
    if key not in KEYS:
        _unknown_key(key, value)
    if not value:
        raise AuditorError(f"“{key}:” has nothing after the colon.", _example(key))
    if key == "id":
        draft.ids += [_span(part) for part in value.split(",") if part]
        return
    name = "labelled" if key == "label" else key
    if name in draft.single:
        raise AuditorError(f"“{key}:” stands twice in the search.", "Keep one of them.")
    if key == "sort":
        column, _, direction = value.partition("-")
        if direction not in ("", "asc", "desc"):
            raise AuditorError(f"“{value}” after “sort:” is not an order.", _example(key))
        draft.single |= {"sort": _column(column), "ascending": direction == "asc"}
    else:
        draft.single[name] = _value(key, value)


def _unknown_key(key: str, value: str) -> None:
    if key in WORDS:
        raise AuditorError(f"“{key}:{value}” is not a comparison.", f"Write {key}<{value or 1} or {key}:0.1..0.5.")
    close = difflib.get_close_matches(key, list(KEYS), n=1)
    start = f"Did you mean “{close[0]}:”? " if close else ""
    raise AuditorError(f"“{key}:” is not known in a search.",
                       f'{start}Known are {", ".join(k + ":" for k in KEYS)}; to find the text, put it in quotes.')


def _example(key: str) -> str:
    examples = {"modality": "modality:both", "live": "live:yes", "label": "label:no", "id": "id:3,20-29",
                "like": "like:1412", "sort": "sort:max or sort:density-asc"}
    return f"Write for example {examples[key]}."


def _value(key: str, value: str) -> object:
    lower = value.lower()
    if key == "like":
        if not value.isascii() or not value.isdigit() or len(value) > 9:
            raise AuditorError(f"“{value}” after “like:” is not a feature's number.", _example(key))
        return int(value)
    allowed = MODALITIES if key == "modality" else ("yes", "no")
    if lower not in allowed:
        raise AuditorError(f"“{value}” after “{key}:” is not known.", f"Allowed: {', '.join(allowed)}.")
    return lower if key == "modality" else lower == "yes"


def _span(part: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
    if match is None:
        raise AuditorError(f"“{part}” after “id:” is not a feature's number.", _example("id"))
    first = int(match[1])
    return first, int(match[2]) if match[2] else first
