"""Labelled samples of a project and their rows at a dictionary's hook points: from a store, or run through a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.tasks.task import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor.analysis.evaluation.labelled import Facts
    from auditor.data.samples import Samples
    from auditor.models.model import Model
    from auditor.sae.sae import Sae
    from auditor.store.reader import Store

    Floats = NDArray[np.float32]
    Points = Sequence[tuple[str, int]]

_BATCH = 8
_ROWS = 1 << 20


@dataclass(frozen=True)
class LabelledRows:
    """`facts` reads what is kept of each sample; `rows` gives what a dictionary's hook points (`points_of`) hold of the
    samples with these numbers, in turn, without special positions, [positions, widths]; `said` is a sentence where they
    are of another model than a dictionary's, else empty."""

    facts: Callable[[Reporter], list[Facts]]
    rows: Callable[[Sae, Sequence[int], Points], Iterator[Floats]]
    said: str = ""


def points_of(sae: Sae, written: bool = False) -> Points:
    """The hook points that a dictionary reads, with their widths; with `written`, that which a transcoder writes to
    stands behind them."""
    read = list(sae.sources) or [(sae.hook, sae.d_in)]
    return [*read, (sae.hook_out, sae.d_out)] if written and sae.hook_out else read


def labelled_rows(
    run: Run, saes: Sequence[Sae], *, store: str, samples: str, context: int, model: Callable[[Sae], Model],
    written: bool = False,
) -> LabelledRows:  # fmt: skip
    """Of the samples that are named, run through each dictionary's own `model`; else of the store that is named; else
    of the newest one that holds what the dictionaries read (and, with `written`, what transcoders write to), of the
    model that they were trained on if there is one. AuditorError where there is none."""
    if samples:
        from auditor.tasks.opening import open_samples_of

        return _run(model, open_samples_of(run, samples), context)
    from auditor.store import open_store

    points = [point for sae in saes for point in points_of(sae, written)]
    if store:
        return _stored(open_store(run.input(store, "store").path), points, saes)
    found = None
    for artefact in reversed(run.project.artefacts("store")):
        try:
            opened = open_store(artefact.path)
        except AuditorError:
            continue  # a store that is gone or damaged is told when it is used for itself
        if opened.complete and all(opened.hook_points.get(hook) == width for hook, width in points):
            if found is None or not _other_model(opened, saes):
                found = artefact, opened
            if not _other_model(opened, saes):
                break
    if found is not None:
        run.reads(found[0])
        return _stored(found[1], points, saes)
    wanted = " and ".join(dict.fromkeys(hook for hook, _ in points))
    raise AuditorError(
        f"The project has no store of {wanted} to take labelled samples from.",
        "Record samples with labels there, or name samples (--samples), which are then run through the model.",
    )


def _other_model(store: Store, saes: Sequence[Sae]) -> list[str]:
    """Names of the models that dictionaries were trained on, as far as they are known and not the store's."""
    digest = _facts_of(store).get("digest")
    known = [(sae.meta.get("model_digest"), str(sae.meta.get("model") or "")) for sae in saes]
    return [name for held, name in known if digest and held and held != digest]


def of_another(store: Store, saes: Sequence[Sae]) -> str:
    """In a sentence, that the rows of a store are of another model than dictionaries; empty where they are not."""
    others = " and ".join(f"“{name}”" for name in dict.fromkeys(_other_model(store, saes)))
    own = _facts_of(store).get("name", "")
    said = f"The rows of “{store.name}” are of the model “{own}”, and dictionaries were trained on {others}."
    return said if others else ""


def _facts_of(store: Store) -> Mapping[str, Any]:
    held = store.meta.get("model")
    return held if isinstance(held, Mapping) else {}


def _stored(store: Store, points: Points, saes: Sequence[Sae]) -> LabelledRows:
    from auditor.analysis.evaluation.labelled import Facts
    from auditor.data.sample import ORDINARY
    from auditor.store.layout import KINDS

    for hook, width in points:
        if store.hook_points.get(hook) != width:
            known = ", ".join(f"{name} ({held})" for name, held in store.hook_points.items())
            raise AuditorError(f"The store “{store.name}” does not hold {hook} of width {width}.", f"It holds {known}.")
    codes = [KINDS[kind] for kind in ORDINARY if kind in KINDS]

    def facts(reporter: Reporter) -> list[Facts]:
        read = np.ones(store.n_samples, dtype=bool)
        for hook in dict.fromkeys(hook for hook, _ in points):
            read &= _with_rows(store.at(hook), codes)
        reporter.started("Reading labels", store.n_samples, "samples")
        found = []
        for at in range(store.n_samples):
            one = store.sample(at)
            found.append(Facts(one.id, one.group, one.labels, bool(read[at])))
            if at % 256 == 0:
                reporter.step(at, store.n_samples, unit="samples")
        return found

    def rows(sae: Sae, numbers: Sequence[int], points: Points) -> Iterator[Floats]:
        hooks = [hook for hook, _ in points]
        held = store.at(*hooks)
        for at in numbers:
            one = held.sample(at)
            part = slice(one.first_row, one.first_row + one.n_rows)
            plain = np.isin(held.positions(part).kind, codes)
            yield np.concatenate([held.rows(part, hook)[plain] for hook in hooks], 1)

    return LabelledRows(facts, rows, of_another(store, saes))


def _with_rows(store: Store, codes: Sequence[int]) -> NDArray[np.bool_]:
    """Which samples have a position of one of these kinds."""
    found = np.zeros(store.n_samples, dtype=bool)
    for start in range(0, store.n_rows, _ROWS):
        positions = store.positions(slice(start, start + _ROWS))
        held = positions.sample[np.isin(positions.kind, codes)]
        found[held[(held >= 0) & (held < len(found))]] = True
    return found


def _run(model: Callable[[Sae], Model], samples: Samples, context: int) -> LabelledRows:
    from auditor.analysis.evaluation.labelled import Facts
    from auditor.data.sample import ORDINARY, PositionKind

    codes = [int(PositionKind[kind.upper()]) for kind in ORDINARY]

    def facts(reporter: Reporter) -> list[Facts]:
        return [Facts(s.id, s.group, s.told) for s in samples]

    def rows(sae: Sae, numbers: Sequence[int], points: Points) -> Iterator[Floats]:
        hooks, own = [hook for hook, _ in points], model(sae)
        for start in range(0, len(numbers), _BATCH):
            part = [samples[at] for at in numbers[start : start + _BATCH]]
            done = own.run(own.encode(part, context), record=hooks, logits=False)
            kind = done.positions(hooks[0]).kind.cpu().numpy()
            each = [done.rows(hook).float().cpu().numpy() for hook in hooks]
            for at in range(len(part)):
                yield np.concatenate([one[at][np.isin(kind[at], codes)] for one in each], 1)

    return LabelledRows(facts, rows)
