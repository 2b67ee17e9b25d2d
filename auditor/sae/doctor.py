"""The import doctor: which convention makes a dictionary reconstruct real activations.

A file of weights does not tell whether b_dec is subtracted from the input, by which factor activations were scaled, or
which activation function goes with it; tools differ, and a wrong guess is silent. So the dictionary reconstructs real
rows in every plausible reading, and what comes out decides, or is shown where it cannot decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data.sample import ORDINARY, PositionKind
from auditor.sae.quality import drawn_together
from auditor.sae.readings import AS_READ, read_as, title
from auditor.sae.sae import Sae
from auditor.sae.source import Source
from auditor.sae.whole_samples import whole_samples

Verdict = Literal["as read", "another", "undecided", "none fits", "unchecked"]
# Without a dictionary's own threshold or k, so many times its active features explain more whatever its convention is.
_MORE = 1.5
# A better reading leaves at most this share of what the other leaves, besides an interval that excludes no difference:
# with many rows, differences that mean nothing are significant too.
_CLEAR = 0.98
# TopK does well with more features than it was trained with (Gao et al. 2024, section 6), so the smallest k that leaves
# at most so much more than the best one is named.
_SMALLEST_K = 1.1
# Above this, nothing was reconstructed worth the name.
_FITS = 0.8
# Rows of so many times the median norm (attention sinks) would decide all by themselves; few dictionaries learn them.
_OUTLYING = 8.0
_SCREENED, _LEAST, _KEPT, _RESAMPLES = 256, 512, 10, 400
# A factor as near to 1 is the same reading.
_NEAR = 0.05
_FEW_K = (16, 64, 256)
_COMMON_K = (8, 12, 16, 20, 24, 32, 40, 50, 64, 80, 100, 128, 192, 256, 384, 512)
_KINDS = tuple(int(PositionKind[name.upper()]) for name in ORDINARY)


class Reading(BaseModel):
    """How one reading did: `fvu` = Σ‖target − output‖² / Σ‖target − mean‖² with its 95 % interval (bootstrap over
    samples), and `l0`, the mean number of active features per row. `same_as` names readings with the same output."""

    model_config = ConfigDict(frozen=True)
    reading: str
    title: str
    fvu: float
    interval: tuple[float, float]
    l0: float
    same_as: tuple[str, ...] = ()


class Examination(BaseModel):
    """The verdict on a dictionary, in a sentence, and the figures for it, best first, on `n` rows of `n_samples`
    samples; `outlying` rows were left out. `reading` is the one to use: `verdict` “another” suggests it."""

    model_config = ConfigDict(frozen=True)
    verdict: Verdict
    sentence: str
    reading: str = AS_READ
    store: str = ""
    hook: str = ""
    n: int = 0
    n_samples: int = 0
    outlying: int = 0
    table: tuple[Reading, ...] = ()


def unchecked(why: str) -> Examination:
    """There was nothing to check against."""
    return Examination(verdict="unchecked", sentence=f"Unchecked: {why}")


@dataclass
class _Rows:
    """x [n, d_in], target [n, d_out], the sample of each row, as numbers from 0, which rows a bootstrap draws together,
    and which are `judged`; others are only read, by dictionaries that take samples whole: `runs` of so many rows."""

    x: Tensor
    target: Tensor
    sample: NDArray[np.int64]
    owner: NDArray[np.int64]
    judged: NDArray[np.bool_]
    outlying: int
    runs: list[int] | None = None

    def first(self, n: int) -> _Rows:
        """The first n, or the first runs that hold so many."""
        runs = self.runs
        if runs is not None:
            runs = runs[: int(np.searchsorted(np.cumsum(runs), n)) + 1]
            n = sum(runs)
        return _Rows(
            self.x[:n], self.target[:n], self.sample[:n], self.owner[:n], self.judged[:n], self.outlying, runs
        )


@dataclass
class _Tried:
    """Squared error and number of active features of each row."""

    reading: str
    error: NDArray[np.float64]
    active: NDArray[np.float64]
    same_as: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        return float(self.error.sum())


@torch.no_grad()
def examine(
    sae: Sae,
    store: Source,
    *,
    hooks: tuple[str, str] | None = None,
    n: int = 2048,
    seed: int = 0,
    name: str = "",
    reporter: Reporter | None = None,
) -> Examination:
    """Let `sae` reconstruct up to `n` random rows of `store` in every plausible reading; fewer where it is so large
    that this would take minutes.

    `hooks` are the store's names of what it reads and predicts where they are not the dictionary's own. AuditorError
    where the store does not hold them in its width.
    """
    reporter = reporter or Reporter()
    read, target = hooks or (sae.hook, sae.hook_out)
    rows = _rows(sae, store, read, target, max(_LEAST, min(n, (1 << 37) // (sae.d_in * sae.d_sae))), seed)
    readings = plausible(sae, rows.x[torch.from_numpy(rows.judged)])
    reporter.started("Examine the dictionary's conventions", len(readings), "readings")
    few = rows.first(min(len(rows.x), _few(sae)))
    tried = []
    for number, reading in enumerate(readings, 1):
        tried.append(_try(sae, reading, few))
        reporter.step(number, len(readings), unit="readings")
    tried.sort(key=lambda found: (found.total, len(found.reading)))
    kept = _refined(sae, [found.reading for found in _distinct(tried)[:_KEPT]])
    final = _distinct(sorted((_try(sae, reading, rows) for reading in kept), key=lambda found: found.total))
    verdict = _judge(sae, final, rows, seed)
    facts = {"store": name or store.digest[:8], "hook": read, "n": int(rows.judged.sum()), "outlying": rows.outlying}
    return verdict.model_copy(update=facts | {"n_samples": len(np.unique(rows.sample[rows.judged]))})


def plausible(sae: Sae, x: Tensor) -> list[str]:
    """Every reading that rows like x [n, d_in] should be tried in, as read first."""
    scale = x.shape[1] ** 0.5 / float(x.norm(dim=1).mean())
    unit = float(x.pow(2).sum(1).mean()) ** -0.5
    biases, norms = [""], [""]
    if sae.d_in == sae.d_out and sae.arch != "matching_pursuit" and bool(sae.b_dec.any()) and not sae.context:
        biases += ["b_dec-on-input"] + ([] if sae.hook_out else ["no-b_dec-on-input"])
    if sae.arch != "matching_pursuit":
        norms += [f"scale={factor:.5g}" for factor in (scale, unit) if abs(factor - 1) > _NEAR]
    if not sae.hook_out:
        forgotten = bool(sae.b_dec.any()) and abs(scale - 1) > _NEAR and not sae.context
        norms += [f"b_dec-scale={scale:.5g}"] if forgotten else []
        norms += [how for how in ("layer_norm", "constant_norm") if how != sae.normalise]
    norms += ["no-norm"] if sae.normalise != "none" else []
    turns = [""]
    if sae.d_in == sae.d_sae == sae.d_out and sae.arch != "matching_pursuit" and not sae.context:
        turns += ["transposed-decoder", "transposed-encoder", "transposed-encoder+transposed-decoder"]
    competing = [""]
    spread = sae.W_dec.norm(dim=1)
    compete = sae.arch in ("topk", "groupmax", "jumprelu") and not sae.context
    if compete and float(spread.std()) > 1e-3 * float(spread.mean()):
        competing += ["decoder-norms"]
    every = _joined(turns, biases, competing, norms, _activations(sae))
    # A factor that was forgotten in b_dec alone is an error of the convention that subtracts it.
    return [reading for reading in every if not ("b_dec-on-input" in reading and "b_dec-scale" in reading)]


def _activations(sae: Sae) -> list[str]:
    if sae.arch == "matching_pursuit":
        return [""]
    hint = sae.meta.get("origin", {}).get("k") if isinstance(sae.meta.get("origin"), dict) else None
    known = [round(hint)] if isinstance(hint, int | float) and not isinstance(hint, bool) else []
    known = [k for k in known if 1 <= k <= sae.d_sae]
    if sae.arch == "topk":
        return ["", "relu"]
    if sae.arch == "groupmax":
        return ["", "relu", f"topk={sae.k}"]
    if sae.arch == "jumprelu":
        return ["", "relu", *(f"topk={k}" for k in known)]
    return ["", *(f"topk={k}" for k in known or _FEW_K if k <= sae.d_sae // 2)]


def _refined(sae: Sae, readings: list[str]) -> list[str]:
    """With every common k beside the best reading by TopK whose k is not known, and what was read."""
    best = next((reading for reading in readings if "topk=" in reading), "")
    more = [best.rpartition("topk=")[0] + f"topk={k}" for k in _COMMON_K if best and k <= sae.d_sae // 2]
    more = more if sae.arch == "relu" and len(_activations(sae)) > 2 else []
    return list(dict.fromkeys([AS_READ, *readings, *more]))


def _joined(*choices: list[str]) -> Iterator[str]:
    """Every combination, “as read” for the empty one."""
    found = [""]
    for options in choices:
        found = ["+".join(filter(None, (before, option))) for before in found for option in options]
    yield from (reading or AS_READ for reading in found)


def _few(sae: Sae) -> int:
    """Rows for the first look at all readings: fewer for large dictionaries."""
    return max(64, min(_SCREENED, (1 << 33) // (sae.d_in * sae.d_sae)))


def _rows(sae: Sae, store: Source, read: str, target: str, n: int, seed: int) -> _Rows:
    """Random rows of text, image and sound positions, those of outlying norm left out."""
    wanted = [(read, sae.d_in)] if not sae.sources else list(sae.sources)
    wanted += [(target, sae.d_out)] if sae.hook_out else []
    for hook, width in wanted:
        if store.hook_points.get(hook) != width:
            held = ", ".join(f"{name} ({size})" for name, size in store.hook_points.items())
            raise AuditorError(
                f"The store does not hold “{hook}” in the width {width} that the dictionary asks for.",
                f"It holds {held}.",
            )
    runs = None
    if sae.context is not None:
        index, runs = whole_samples(store, n, seed)
    else:
        order = np.random.default_rng([seed, 0]).permutation(store.n_rows)[: 4 * n]
        index = np.sort(order[np.isin(np.asarray(store.positions(order).kind), _KINDS)][:n])
    where = store.positions(index)
    ordinary = np.isin(np.asarray(where.kind), _KINDS)
    if ordinary.sum() < 2:
        raise AuditorError("The store has no rows of text, image or sound positions.", "Record samples first.")
    columns = [torch.from_numpy(np.asarray(store.rows(index, hook), dtype=np.float32)) for hook, _ in wanted]
    y = columns.pop() if sae.hook_out else None
    x = torch.cat(columns, 1)
    norm = x.norm(dim=1)
    usual = (norm <= _OUTLYING * norm[torch.from_numpy(ordinary)].median()).numpy() & ordinary
    outlying, sample = int((ordinary & ~usual).sum()), np.unique(where.sample, return_inverse=True)[1]
    owner = drawn_together(sample)
    if runs is not None:
        return _Rows(x, x, sample, owner, usual, outlying, runs)
    # Neighbouring rows are alike, so the first few are to come from everywhere.
    kept = np.flatnonzero(usual)[np.random.default_rng([seed, 1]).permutation(int(usual.sum()))]
    x, y = x[kept], (x if y is None else y)[kept]
    return _Rows(x, y, sample[kept], owner[kept], np.ones(len(kept), bool), outlying)


def _try(sae: Sae, reading: str, rows: _Rows) -> _Tried:
    other = read_as(sae, reading)
    error, active = np.empty(len(rows.x)), np.empty(len(rows.x))
    for part, runs in other.blocks(len(rows.x), rows.runs):
        x = rows.x[part].to(other.device)
        if other.of_k:
            values, ids = other.encode_sparse(x, runs)
            decoded = other.decode_sparse(values, ids)
        else:  # plain ReLU keeps half of all features, of which a table of ids would be larger
            values = other.encode(x, runs)
            decoded = other.decode(values)
        off = other.complete(decoded, x, runs) - rows.target[part].to(other.device)
        error[part] = off.double().pow(2).sum(1).cpu().numpy()
        active[part] = (values > 0).sum(1).cpu().numpy()
    # What overflows reconstructs nothing.
    error = np.nan_to_num(error, nan=1e30, posinf=1e30).clip(0, 1e30)
    return _Tried(reading, error[rows.judged], active[rows.judged])


def _distinct(tried: list[_Tried]) -> list[_Tried]:
    """Without readings that give what one before them gives; of those, the simplest stands for all."""
    found: list[_Tried] = []
    for each in tried:
        for number, one in enumerate(found):
            if np.allclose(one.error, each.error, rtol=1e-3, atol=1e-6 * max(one.error.mean(), 1e-30)):
                simple, other = sorted((one, each), key=lambda item: (item.reading != AS_READ, item.reading.count("+")))
                names = (*one.same_as, *each.same_as, other.reading)
                found[number] = _Tried(simple.reading, simple.error, simple.active, names)
                break
        else:
            found.append(each)
    return found


def _judge(sae: Sae, tried: list[_Tried], rows: _Rows, seed: int) -> Examination:
    target = rows.target[torch.from_numpy(rows.judged)]
    owner = np.unique(rows.owner[rows.judged], return_inverse=True)[1]
    size = int(owner.max()) + 1
    spread = (target - target.mean(0)).double().pow(2).sum(1).numpy()
    total = np.bincount(owner, spread, size)
    weights = np.random.default_rng([seed, 2]).multinomial(size, np.full(size, 1 / size), size=_RESAMPLES)
    below = np.maximum(weights @ total, 1e-30)
    drawn = {t.reading: (weights @ np.bincount(owner, t.error, size)) / below for t in tried}
    table = tuple(
        Reading(
            reading=t.reading, title=title(t.reading), fvu=t.total / max(float(total.sum()), 1e-30),
            interval=_middle(drawn[t.reading]), l0=float(t.active.mean()), same_as=t.same_as,
        )
        for t in tried
    )  # fmt: skip
    as_read = next(row for row in table if row.reading == AS_READ)

    def clearly(a: Reading, b: Reading) -> bool:
        """Whether a is better than b beyond doubt, and by enough to matter."""
        return a.fvu < _CLEAR * b.fvu and float(np.quantile(drawn[a.reading] - drawn[b.reading], 0.975)) < 0

    best, figures = _fewest(table), f"FVU {as_read.fvu:.3g} with {as_read.l0:.3g} features a row"
    others = [row for row in table if row.reading != best.reading and not clearly(best, row) and not _kin(best, row)]
    if best.fvu > _FITS:
        told = f"No reading reconstructs these activations (the best leaves {best.fvu:.0%} of their variance); "
        return Examination(verdict="none fits", sentence=told + "they may be of another place.", table=table)
    if best.reading == AS_READ or not clearly(best, as_read):
        rivals = [
            row for row in others if row.reading != AS_READ and not (_kin(as_read, row) and row.fvu >= as_read.fvu)
        ]
        if not rivals:
            told = f"As it was read, it reconstructs best: {figures}."
            return Examination(verdict="as read", sentence=told, table=table)
        told = f"As it was read ({figures}), it cannot be told from “{rivals[0].title}” (FVU {rivals[0].fvu:.3g}); "
        return Examination(verdict="undecided", sentence=told + "it stays as it was read.", table=table)
    told = f"As it was read, it leaves FVU {as_read.fvu:.3g}; with “{best.title}” FVU {best.fvu:.3g}"
    if "relu" in best.reading.split("+") and best.l0 > _MORE * as_read.l0:
        told += f", but {best.l0:.3g} features a row for {as_read.l0:.3g}, which alone explains more; "
        return Examination(verdict="undecided", sentence=told + "it stays as it was read.", table=table)
    if rivals := [row for row in others if row.reading != AS_READ]:
        told += f" and with “{rivals[0].title}” FVU {rivals[0].fvu:.3g}, too close to choose between them."
        return Examination(verdict="undecided", sentence=told, table=table)
    told += f" and {best.l0:.3g} features a row. Import it with --convention {best.reading}"
    if len(counts := sorted(_k(row) for row in _near(table, best))) > 1:
        told += f"; k from {counts[0]} to {counts[-1]} do about as well, so ask its maker for it"
    return Examination(verdict="another", sentence=told, reading=best.reading, table=table)


def _fewest(table: tuple[Reading, ...]) -> Reading:
    """The best reading; of those by TopK that differ in k alone, the one of the smallest k that is nearly as good."""
    return min(_near(table, table[0]), key=_k, default=table[0])


def _near(table: tuple[Reading, ...], best: Reading) -> list[Reading]:
    """Readings by TopK that differ from `best`, which is one, in k alone and are nearly as good as the first."""
    topk = "topk=" in best.reading
    alike = [row for row in table if topk and _kin(row, best) and "topk=" in row.reading]
    return [row for row in alike if row.fvu <= _SMALLEST_K * table[0].fvu]


def _k(row: Reading) -> int:
    return int(row.reading.rpartition("topk=")[2].partition("+")[0])


def _kin(a: Reading, b: Reading) -> bool:
    """Whether both say the same but for how many features are kept: k is a number to set, not a convention."""
    return _without_k(a.reading) == _without_k(b.reading)


def _without_k(reading: str) -> frozenset[str]:
    return frozenset(part for part in reading.split("+") if part != AS_READ and not part.startswith("topk="))


def _middle(values: NDArray[Any]) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
