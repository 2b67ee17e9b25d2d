"""Builds the feature index of a dictionary from a store: figures, examples, words, neighbours, logit effects."""

from __future__ import annotations

import shutil
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from auditor import __version__
from auditor.base.config import Config, field
from auditor.base.errors import AuditorError
from auditor.base.files import partial
from auditor.base.reporter import Reporter
from auditor.features.agreement import Agreement, null
from auditor.features.choose import WordPlaces
from auditor.features.codes import Codes, encode_store
from auditor.features.corpus import Corpus, read_corpus
from auditor.features.decoder import LogitEffects, logit_effects, nearest_features
from auditor.features.examples import IMAGE, MAX_WINDOW, TEXT
from auditor.features.gather import Gathered, gather
from auditor.features.index import Index, open_index
from auditor.features.table import Table, empty_table
from auditor.features.thumbnails import thumbnail
from auditor.features.writer import IndexWriter

if TYPE_CHECKING:
    from auditor.models.model import Model
    from auditor.sae.sae import Sae
    from auditor.store.reader import Store


class BuildConfig(Config):
    """Settings of the feature index."""

    store: str = field("", title="Store", help="Recorded activations on which the features are looked at.",
                       artefact="store")
    dictionary: str = field("", title="Dictionary", help="The dictionary whose features are indexed.",
                            artefact="dictionary")
    model: str = field("", title="Model", help="For effects on the logits; without it they are left out.",
                       artefact="model")
    hook: str = field("", title="Hook point", help="Empty: the one that the dictionary was trained on.",
                      hook_of="store", advanced=True)
    top: int = field(12, title="Strongest examples", help="For each feature and modality.", unit="examples", ge=1,
                     le=200)
    per_band: int = field(4, title="Examples a band", unit="examples", ge=0, le=50,
                          help="Drawn from each of the 99–90, 90–50 and 50–10 per cent bands of the activations.")
    misses: int = field(1, title="Near misses", unit="examples", ge=0, le=20, advanced=True,
                        help="Samples that hold the feature's strongest word, but where it is silent.")
    window: int = field(12, title="Text window", help="Tokens shown to either side of the peak.", unit="tokens", ge=1,
                        le=MAX_WINDOW)
    bins: int = field(24, title="Histogram bins", unit="bins", ge=4, le=500, advanced=True)
    neighbours: int = field(16, title="Nearest features", unit="features", ge=1, le=500, advanced=True)
    logits: int = field(8, title="Tokens a side", help="Most raised and most lowered logits that are kept.",
                        unit="tokens", ge=1, le=100, advanced=True)
    thumbnail_px: int = field(64, title="Thumbnail size", unit="px", ge=16, le=256, advanced=True)
    thumbnail_quality: int = field(45, title="Thumbnail quality", help="WebP quality.", ge=1, le=100, advanced=True)
    batch_size: int = field(4096, title="Rows at a time", unit="rows", ge=1, le=1 << 20, advanced=True)
    seed: int = field(0, title="Seed", help="Of the examples drawn from bands and of the intervals.", ge=0)


def build(config: BuildConfig, store: Store, sae: Sae, model: Model | None, out: Path | str,
          reporter: Reporter | None = None) -> Index:
    """Build the index of `sae` over `store` into the new folder `out` and open it.

    One pass of the encoder over the store, then one visit to each feature. Equal inputs, config and seed give equal
    bytes (on one machine: matrix products may differ in the last bit between machines). AuditorError where the store
    is unfinished or lacks the dictionary's hook point, or where `out` exists.
    """
    reporter = reporter or Reporter()
    out = Path(out)
    if out.exists():
        raise AuditorError(f"“{out.name}” exists already.", "Choose another name; a finished index is never changed.")
    if not store.complete:
        raise AuditorError(f"The store “{store.name}” is not finished.", "Wait for the recording, or resume it.")
    hook = _hook(config, store, sae)
    store = store.at(hook)
    with partial(out) as folder:
        folder.mkdir()
        scratch = folder / "scratch"
        scratch.mkdir()
        reporter.started("Build the feature index", store.n_rows, "rows")
        corpus = read_corpus(store, model, reporter)
        codes = encode_store(store, sae, hook, corpus.kinds, corpus.starts, scratch, batch_size=config.batch_size,
                             reporter=reporter)
        near, cosines = nearest_features(sae.W_dec, config.neighbours, reporter)
        effects = logit_effects(sae.W_dec, model, sae.hook_out or hook, config.logits, reporter)
        meta = _meta(config, store, sae, model, hook, corpus)
        with IndexWriter(folder) as writer:
            write_all(config, writer, store, model, corpus, codes, near, cosines, effects, meta, reporter)
        del codes
        shutil.rmtree(scratch)
    return open_index(out)


def _hook(config: BuildConfig, store: Store, sae: Sae) -> str:
    if sae.sources:
        raise AuditorError(f"This crosscoder reads {len(sae.sources)} hook points at once, and an index describes one.",
                           "Choose a dictionary of one hook point.")
    hook = config.hook or sae.hook or (next(iter(store.hook_points)) if len(store.hook_points) == 1 else "")
    if hook not in store.hook_points:
        raise AuditorError(f"The store “{store.name}” holds no activations at “{hook}”.",
                           f"It holds {', '.join(store.hook_points)}; record the dictionary's hook point, or name one.")
    if store.hook_points[hook] != sae.d_in:
        raise AuditorError(f"“{hook}” is {store.hook_points[hook]} wide in the store; the dictionary takes {sae.d_in}.",
                           "Choose the dictionary that was trained on this hook point.")
    return hook


def write_all(config: BuildConfig, writer: IndexWriter, store: Store, model: Model | None, corpus: Corpus, codes: Codes,
              near: NDArray[np.int32], cosines: NDArray[np.float16], effects: LogitEffects, meta: dict[str, Any],
              reporter: Reporter) -> None:
    """Write all that is known of the features: their figures and examples from `codes` over `corpus`, their nearest
    features [n, k] with cosines, their effects on the logits, and `meta`."""
    table = figures(corpus, codes)
    table["nearest_cos"] = cosines[:, 0]
    gathered = _gather_all(config, writer, corpus, codes, table, reporter)
    _add_agreement(config, table, gathered.agreements, len(corpus.lexicon))
    vocabulary, number = _vocabulary(corpus, gathered.runs, effects, model)
    for place, run in enumerate(sorted(gathered.runs)):
        if place % 64 == 0:
            reporter.step(place, len(gathered.runs), "keeping the samples shown", "samples")
        webp = None
        if corpus.samples[run].has_image and (image := (sample := store.sample(int(corpus.numbers[run]))).image):
            # Several pictures side by side: about as large each as one alone.
            px = config.thumbnail_px * min(isqrt(max(len(sample.panels), 1)), 4)
            webp = thumbnail(image, px, config.thumbnail_quality, sample.id)
        writer.sample(corpus, run, number, len(vocabulary), webp)
    arrays: dict[str, NDArray[Any]] = {f"table.{name}": table[name] for name in table.dtype.names or ()}
    arrays |= {"hist_text": gathered.hist_text, "hist_image": gathered.hist_image, "near_id": near, "near_cos": cosines}
    arrays |= {"logit_top_id": effects.top_ids.astype(np.int32), "logit_top": effects.top,
               "logit_bottom_id": effects.bottom_ids.astype(np.int32), "logit_bottom": effects.bottom}
    writer.finish(arrays, vocabulary, meta)


def figures(corpus: Corpus, codes: Codes) -> Table:
    """The table's figures but agreement and neighbours; shares are of the text and image rows of the store."""
    table = empty_table(codes.fires.shape[1])
    n_text, n_image = int((corpus.kinds == TEXT).sum()), int((corpus.kinds == IMAGE).sum())
    fires, mass = codes.fires.sum(0), codes.mass.sum(0)
    live = fires > 0
    table["fires_text"], table["fires_image"] = codes.fires
    table["density"] = fires / max(n_text + n_image, 1)
    rates = codes.fires[0] / max(n_text, 1), codes.fires[1] / max(n_image, 1)
    table["density_text"], table["density_image"] = rates
    table["max_text"], table["max_image"] = codes.peak
    table["max_act"] = codes.peak.max(0)
    table["mean_act"][live] = mass[live] / fires[live]
    table["image_share"][live] = codes.mass[1, live] / mass[live]
    table["image_fires"][live] = codes.fires[1, live] / fires[live]
    table["image_balance"][live] = rates[1][live] / (rates[0][live] + rates[1][live])
    return table


def _gather_all(config: BuildConfig, writer: IndexWriter, corpus: Corpus, codes: Codes, table: Table,
                reporter: Reporter) -> Gathered:
    gathered = Gathered(len(table), config.bins)
    places = WordPlaces(corpus)
    image_free = np.array([not sample.has_image for sample in corpus.samples])
    for i in range(len(table)):
        if i % 64 == 0:
            reporter.step(i, len(table), "gathering examples", "features")
        rows, values = codes.column(i)
        if len(rows):
            gather(config, corpus, places, image_free, i, rows, values, float(table["max_act"][i]), gathered, writer)
    return gathered


def _add_agreement(config: BuildConfig, table: Table, agreements: dict[int, Agreement], n_words: int) -> None:
    ids = np.array(sorted(agreements), np.int64)
    found = [agreements[int(i)] for i in ids]
    if not found:
        return
    table["agreement"][ids] = [a.estimate for a in found]
    table["agreement_low"][ids] = [a.low for a in found]
    table["agreement_high"][ids] = [a.high for a in found]
    compared = null(found, n_words, np.random.default_rng([config.seed, len(table)]))
    table["agreement_null"][ids], table["agreement_p"][ids] = compared.T


def _vocabulary(corpus: Corpus, runs: set[int], effects: LogitEffects, model: Model | None,
                ) -> tuple[list[str], NDArray[np.int64]]:
    """Strings of all tokens that the index shows, and the map from the corpus's numbers to theirs.

    `effects` is renumbered from the model's token ids to the index's.
    """
    used = np.zeros(len(corpus.vocabulary.strings), bool)
    for run in runs:
        used[corpus.tokens[int(corpus.starts[run]):int(corpus.starts[run + 1])]] = True
    number = np.cumsum(used) - 1
    strings = [text for text, keep in zip(corpus.vocabulary.strings, used, strict=True) if keep]
    if effects.top_ids.size:
        ids = np.unique(np.concatenate([effects.top_ids, effects.bottom_ids]))
        words = [f"#{i}" for i in ids]
        if model is not None and model.tokenizer is not None:
            words = model.token_strings(ids.tolist())
        known = {text: i for i, text in reversed(list(enumerate(strings)))}
        for word in words:
            if word not in known:
                known[word] = len(strings)
                strings.append(word)
        places = np.array([known[word] for word in words])
        effects.top_ids = places[np.searchsorted(ids, effects.top_ids)]
        effects.bottom_ids = places[np.searchsorted(ids, effects.bottom_ids)]
    return strings, number


def skips_first(store: Store) -> bool:
    """Whether the store was recorded with the first position of every text marked as special."""
    config = store.meta.get("config")
    return bool(config.get("skip_first", False)) if isinstance(config, dict) else False


def _meta(config: BuildConfig, store: Store, sae: Sae, model: Model | None, hook: str, corpus: Corpus,
          ) -> dict[str, Any]:
    settings = config.model_dump(exclude={"store", "dictionary", "model", "hook"})
    return {
        "n_features": sae.d_sae, "bins": config.bins, "window": config.window, "hook": hook, "config": settings,
        "rows": {"text": int((corpus.kinds == TEXT).sum()), "image": int((corpus.kinds == IMAGE).sum())},
        "samples": len(corpus.samples), "skip_first": skips_first(store),
        "store": {"name": store.name, "digest": store.digest},
        "dictionary": {"digest": sae.digest, "arch": sae.arch, "d_in": sae.d_in}
        | ({"hook_out": sae.hook_out} if sae.hook_out else {}),
        "model": None if model is None else {"name": model.name, "digest": model.digest},
        "auditor": __version__,
    }
