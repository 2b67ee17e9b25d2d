"""What a recording is made by: its settings, the hook points they mean, and the facts that make it repeatable."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from pydantic import field_validator

from auditor.base.config import Config, field
from auditor.base.digest import digest_json, sha256_bytes
from auditor.base.errors import AuditorError
from auditor.base.patterns import is_pattern
from auditor.base.reporter import Reporter
from auditor.data.checked import Fits, checked
from auditor.data.chunking import Pieces, chunks, sounds_in_pieces
from auditor.data.draw import FEW, Draw
from auditor.data.sample import PositionKind, Sample
from auditor.data.samples import Samples
from auditor.intake.overlay import SWITCH, Switch
from auditor.models.aliases import spread_out
from auditor.models.chat import template_of
from auditor.models.hook_points import PATTERN
from auditor.models.model import Model
from auditor.models.packing import in_sequences
from auditor.models.partial import middle
from auditor.store.behind import must_go_together
from auditor.store.layout import SHARD_BYTES
from auditor.store.needed import Needed
from auditor.store.reader import Store

_VERSIONED = ("torch", "transformers", "tokenizers", "numpy", "h5py", "Pillow")
WINDOW_BATCHES = 32
# Of fewer pictures all are looked at.
_FEW_PICTURES = 256
_digests: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


class RecordConfig(Config):
    """Settings of a recording."""

    model: str = field(title="Model", help="The network to record from.", artefact="model")
    adapter: Switch = field("on", **SWITCH)
    samples: str = field(
        title="Samples",
        help="Texts, code, conversations, images, sounds. Options may follow: notes?by=line, table?field=body.",
        artefact="samples",
    )
    hooks: tuple[str, ...] = field(
        (),
        title="Hook points",
        help="Where to record, with commas between several; blocks.*.z: each block's; none: the residual stream after "
        "the middle block.",
        hook_of="model",
    )
    max_tokens: int = field(
        0,
        title="Positions at most",
        unit="positions",
        ge=0,
        help="Stop after the batch that reaches it; 0: all. Of many texts only as many are taken apart, and of many "
        "pictures only as many looked at, drawn by the seed.",
        zero="all",
    )
    context: int = field(
        256, title="Context", unit="tokens", ge=2, help="No text is run longer than this, or than the network reads."
    )
    split_long: bool = field(
        True,
        title="Split longer samples",
        help="They are recorded in pieces named id#1, id#2, …; otherwise what is beyond the context, or beyond what a "
        "network hears at once, is left out.",
        advanced=True,
    )
    pack: bool = field(
        False,
        title="Pack short texts",
        help="Several texts share one sequence of the context's length, each behind a begin token of its own, which "
        "separates them. Attention does not cross from one to the next and positions count anew in each, so that the "
        "activations are those of the text alone; a network that cannot keep them apart is refused.",
        advanced=True,
    )
    unique: bool = field(
        False,
        title="Leave out repeats",
        help="Of samples with the same text (but for space around it and its Unicode form) or the same pixels only the "
        "first is recorded; how many were left out is in the store's record.",
        advanced=True,
    )
    strict: bool = field(
        False,
        title="Refuse what cannot be read",
        help="Stop before the recording where an item of the samples cannot be read. Otherwise it is left out, counted "
        "and told.",
        advanced=True,
    )
    batch_size: int = field(
        0,
        title="Batch size",
        unit="samples",
        ge=0,
        le=4096,
        help="Samples run at once. 0: 16 on a CPU; on a GPU as many as it works through fastest, which is tried out "
        "before the start.",
        zero="as planned",
    )
    dtype: str = field(
        "float32",
        title="Network's numbers",
        choices=["float32", "bfloat16", "float16", "int8", "int4"],
        help="bfloat16 and float16 take half the memory, int8 a quarter, int4 a sixth; they are less exact.",
    )
    device: str = field(
        "auto",
        title="Device",
        choices=["auto", "cpu", "cuda"],
        help="auto: the GPU where there is one. The last bits of a recording depend on it.",
    )
    store_dtype: str = field(
        "float16",
        title="Stored numbers",
        choices=["float16", "bfloat16", "int8", "float32"],
        help="float16 takes half the room of float32, which is exact; an activation beyond 65504 needs bfloat16 or "
        "float32. int8 takes a quarter, with a scale for each dimension; the plan tells what it loses.",
        advanced=True,
    )
    shard_mib: int = field(
        SHARD_BYTES >> 20, title="Shards", unit="MiB", ge=1, le=2048, help="About the size of each file.", advanced=True
    )
    skip_first: bool = field(
        True,
        title="Leave the first position out of training",
        help="Marks the first token of every text as special. Many networks dump attention there: in SmolLM2's middle "
        "layers its norm is 25,000 against 160 elsewhere, and a dictionary trained on it learns little else.",
        advanced=True,
    )
    append_to: str = field(
        "",
        title="Go on from",
        artefact="store",
        help="A finished store of the same model, hook points and stored numbers. The new store holds its rows first, "
        "and refers to its files where they lie.",
        advanced=True,
    )
    seed: int = field(0, title="Seed", ge=0, help="Draws the order of the samples.", advanced=True)
    thumbnail: int = field(
        96, title="Thumbnails", unit="pixels", ge=32, le=256, help="Longer side of the pictures kept.", advanced=True
    )

    @field_validator("hooks")
    @classmethod
    def _apart(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        """Those that stand in one text with commas between them, as on a command line, one by one."""
        return tuple(name for text in given for part in text.split(",") if (name := part.strip()))


def settings_of(config: RecordConfig, *without: str) -> dict[str, Any]:
    """The settings as a record keeps them: an adapter that is on goes without saying, as in recordings before it could
    be off."""
    usual = {"adapter"} if config.adapter == "on" else set()
    return config.model_dump(mode="json", exclude={*without, *usual})


def chosen_hooks(config: RecordConfig, model: Model) -> list[str]:
    """The hook points to record, shallowest first. AuditorError for one that the model lacks or that does not fit."""
    names = named_hooks(config.hooks, model) or [_middle(model)]
    for name in names:
        if name not in model.hook_points:
            known = list(model.hook_points)
            near = get_close_matches(name, known, 3) or known[:12]
            others = f" and {len(known) - len(near)} more" if len(known) > len(near) else ""
            raise AuditorError(f"“{model.name}” has no hook point “{name}”.", f"It has {', '.join(near)}{others}.")
    names = list(dict.fromkeys(model.hook_points[name].name for name in names))
    patterns = [name for name in names if model.hook_points[name].axes == PATTERN]
    if patterns:
        raise AuditorError(
            f"“{patterns[0]}” holds attention patterns, which are no rows of a fixed width that a store could keep.",
            "Record z, what the heads give, in its place.",
        )
    return sorted(names, key=lambda name: model.hook_points[name].depth)


def going_on_from(base: Store | None, config: RecordConfig, model: Model, digest: str) -> RecordConfig:
    """`config` at the hook points of `base`, where it goes on from one and names none itself. AuditorError where the
    two do not go together (`auditor.store.behind`). `digest` names the model."""
    if base is None:
        return config
    config = config.model_copy(update={"hooks": config.hooks or tuple(base.hook_points)})
    hooks = chosen_hooks(config, model)
    groups = groups_of(model, hooks)
    widths = {hook: model.hook_points[hook].width for hook in hooks}
    must_go_together(base, config.store_dtype, digest, widths, groups if len(groups) > 1 else {})
    return config


def named_hooks(given: Sequence[str], model: Model) -> list[str]:
    """`given` by their own names, those that one stands for in its place: of blocks.0.* what a store can keep."""
    held, found = model.hook_points, list[str]()
    for name in given:
        names = [held[one].name if one in held else one for one in spread_out([name], held)]
        found += [one for one in names if one not in held or held[one].axes != PATTERN] or names
    return list(dict.fromkeys(found))


def with_names(config: RecordConfig, model: Model) -> RecordConfig:
    """`config` with the names that patterns in it stand for."""
    names = tuple(named_hooks(config.hooks, model))
    return config.model_copy(update={"hooks": names}) if any(map(is_pattern, config.hooks)) else config


def groups_of(model: Model, hooks: Sequence[str]) -> dict[str, list[str]]:
    """`hooks` by row group: those of one stream (text, vision, what a decoder writes) have the same positions, but for
    the tokens that are made of a picture's patches, and for what these look at. One group has no name."""
    groups: dict[str, list[str]] = {}
    for hook in hooks:
        point = model.hook_points[hook]
        groups.setdefault(point.stream if point.cells == "patches" else point.cells, []).append(hook)
    return dict(sorted(groups.items())) if len(groups) > 1 else {"": list(hooks)}


def checked_samples(
    samples: Sequence[Sample],
    model: Model,
    config: RecordConfig,
    reporter: Reporter | None = None,
    *,
    decode: bool = True,
    drawn: int | None = None,
    kinds: Sequence[PositionKind] = (),
) -> Samples:
    """`samples` without what cannot be read or repeats, conversations written by the model's own template; see
    `auditor.data.checked`.

    Where `max_tokens` positions (of `kinds`, if given) of a set with pictures are wanted, of only as many samples as
    have them. With `drawn`, of so many, as a recording that was begun has them (0: all). Without `decode` pictures are
    not looked at, and nothing is drawn.
    """
    template = template_of(model.tokenizer, model.name)
    if not decode:
        return checked(samples, template, strict=config.strict, decode=False, reporter=reporter)
    draw = _draw_of(samples, model, config, drawn) if _looked_at(samples) else None
    rows = None
    if draw is not None and draw.tokens:
        hooks = [hooks[0] for hooks in groups_of(model, chosen_hooks(config, model)).values()]
        rows = Needed(model, hooks, config.context, kinds).rows
    return checked(
        samples, template, unique=config.unique, strict=config.strict, fits=fits_of(model, config), reporter=reporter,
        draw=draw, rows=rows,
    )  # fmt: skip


def fits_of(model: Model, config: RecordConfig) -> Fits:
    """What tells of a sample with pictures that it cannot be read, or not within the context."""
    return partial(model.must_fit, max_tokens=config.context)


def context_of(config: RecordConfig, model: Model) -> int:
    """Tokens of the longest text that is run: those of the context, or what the network reads where that is less."""
    return min(config.context, model.longest_text or config.context)


def pieces_of(
    samples: Sequence[Sample],
    model: Model,
    config: RecordConfig,
    reporter: Reporter | None = None,
    drawn: int | None = None,
    kinds: Sequence[PositionKind] = (),
) -> Sequence[Sample]:
    """What is run: `samples` as `checked_samples` gives them, in the pieces of `cut`."""
    kept = checked_samples(samples, model, config, reporter, drawn=drawn, kinds=kinds)
    return cut(kept, model, config, reporter, drawn)


def cut(
    samples: Sequence[Sample],
    model: Model,
    config: RecordConfig,
    reporter: Reporter | None = None,
    drawn: int | None = None,
) -> Sequence[Sample]:
    """Checked `samples`, with the texts that are longer than the context, and the sounds that are longer than the
    network hears, in pieces if the settings say so.

    Where `max_tokens` positions of texts are wanted, of only as many texts as have them: a large corpus is not taken
    apart for the sake of a small recording. With `drawn`, of so many, as a recording that was begun has them (0: all).
    Those that `checked_samples` has drawn are all taken.
    """
    if config.split_long and model.longest_sound is not None:
        return sounds_in_pieces(samples, model.longest_sound)
    if not (config.split_long or config.pack) or model.tokenizer is None or not _texts(samples):
        return samples
    draw = None if _looked_at(samples) or _drawn_before(samples) else _draw_of(samples, model, config, drawn)
    length, tokenizer = context_of(config, model), model.tokenizer

    def pieces(given: Sequence[Sample]) -> Pieces:
        return chunks(given, tokenizer, length, cut=config.split_long, draw=draw, reporter=reporter)

    if not isinstance(samples, Samples):
        return pieces(samples)
    # A recording needs what its plan has made already.
    return samples.remembered((_tokenizer_digest(model) or id(model), length, config.split_long, draw), pieces)


def drawn_of(meta: Mapping[str, Any]) -> int:
    """Of how many samples the recording of a store's `meta` is, as `cut` takes it."""
    found = meta.get("drawn", 0)
    return found if isinstance(found, int) and found > 0 else 0


def needs_not_all(samples: Sequence[Sample], model: Model, config: RecordConfig) -> bool:
    """Whether so few positions are wanted of so many texts, each of which gives one for each token, or of so many
    pictures, that some may do."""
    if not config.max_tokens or not isinstance(samples, Samples):
        return False
    if _looked_at(samples):
        return len(samples) > _FEW_PICTURES and "audio" not in samples.modalities
    hooks = chosen_hooks(config, model)
    texts = samples.modalities == {"text"} and all(model.hook_points[hook].stream == "text" for hook in hooks)
    return texts and len(samples) > FEW


def _draw_of(samples: Sequence[Sample], model: Model, config: RecordConfig, drawn: int | None) -> Draw | None:
    """Which of the samples are taken, None: all; with `drawn` as in `cut`."""
    if drawn is not None:
        return Draw(config.seed, 0, drawn) if drawn else None
    least = 0 if _looked_at(samples) else FEW
    return Draw(config.seed, config.max_tokens, least=least) if needs_not_all(samples, model, config) else None


def _looked_at(samples: Sequence[Sample]) -> bool:
    """Whether pictures are among them, each of which is decoded to know whether it can be read."""
    return isinstance(samples, Samples) and "image" in samples.modalities


def _drawn_before(samples: Sequence[Sample]) -> bool:
    return isinstance(samples, Samples) and samples.drawn > 0


def schedule(samples: Sequence[Sample], config: RecordConfig) -> list[list[int]]:
    """Sample numbers of each batch: drawn in the seed's order, then sorted by length within 32 batches to save padding;
    or, packed, as many as `batch_size` sequences of the context hold.

    Depends on the samples and the settings alone, so an interrupted recording goes on with the same batches.
    """
    order = np.random.default_rng(config.seed).permutation(len(samples))
    if config.pack and isinstance(samples, Pieces):
        return _packed(order.tolist(), samples.tokens, config)
    size, window = config.batch_size, config.batch_size * WINDOW_BATCHES
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        drawn = sorted(order[start : start + window].tolist(), key=lambda number: _length(samples, number))
        batches += [drawn[at : at + size] for at in range(0, len(drawn), size)]
    return batches


def _packed(order: Sequence[int], tokens: Sequence[int], config: RecordConfig) -> list[list[int]]:
    # One more a text: the begin token.
    counts = in_sequences([min(tokens[number] + 1, config.context) for number in order], config.context)
    ends = np.cumsum([0, *counts])[:: config.batch_size].tolist()
    ends += [len(order)] if ends[-1] != len(order) else []
    return [list(order[start:stop]) for start, stop in pairwise(ends)]


def spread(n_batches: int, count: int) -> list[int]:
    """Numbers of up to `count` batches, evenly over all: texts of every length, and pictures, are among them."""
    return sorted({(2 * probe + 1) * n_batches // (2 * count) for probe in range(count)})


@dataclass(frozen=True)
class SamplesFacts:
    """How a store names the samples it was recorded from."""

    name: str
    digest: str
    count: int


def samples_facts(samples: Sequence[Sample]) -> SamplesFacts:
    """Name and digest of `samples`; a plain sequence is digested sample by sample."""
    digest = getattr(samples, "digest", None) or digest_json([sample.digest for sample in samples])
    return SamplesFacts(str(getattr(samples, "name", "samples")), str(digest), len(samples))


def facts_of(config: RecordConfig, model: Model, samples: Sequence[Sample], hooks: Sequence[str]) -> dict[str, Any]:
    """The `meta` of a recorded store: all that a replay needs but the model and the samples themselves."""
    if model.dtype != config.dtype:
        raise AuditorError(
            f"The model was opened in {model.dtype} and the recording asks for {config.dtype}.",
            "Open the model in the same format.",
        )
    named = samples_facts(samples)
    return {
        "model": {"name": model.name, "digest": model.digest, "family": model.family, **model.parts},
        "samples": {"name": named.name, "digest": named.digest, "count": named.count},
        "dtype": config.dtype,
        "hooks": list(hooks),
        "config": settings_of(config, "model", "samples", "append_to"),
        "replay": {
            "seed": config.seed,
            "device": model.device.type,
            "threads": torch.get_num_threads(),
            "tokenizer": _tokenizer_digest(model),
            "versions": dict(_versions()),
        },
    }


def _middle(model: Model) -> str:
    found = middle(model.hook_points)
    if found is None:
        raise AuditorError(f"“{model.name}” has no residual stream to record by default.", "Choose a hook point.")
    return found


def _texts(samples: Sequence[Sample]) -> bool:
    kinds = samples.modalities if isinstance(samples, Samples) else {k for s in samples for k in s.modalities}
    return "text" in kinds


def _length(samples: Sequence[Sample], number: int) -> tuple[bool, int]:
    if isinstance(samples, Pieces) and samples.tokens[number]:
        return False, samples.characters[number]  # without reading it from the disk
    sample = samples[number]
    return sample.image is not None, len(sample.text or "")


def _tokenizer_digest(model: Model) -> str:
    tokenizer = model.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return ""
    if tokenizer not in _digests:
        _digests[tokenizer] = sha256_bytes(backend.to_str().encode("utf-8"))
    return _digests[tokenizer]


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found
