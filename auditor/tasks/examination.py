"""On which activations a dictionary is examined, when it is taken in or later: a store of the project, or a few rows
recorded for the occasion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from auditor.base.errors import AuditorError
from auditor.project import Artefact
from auditor.project.catalogue import now
from auditor.tasks.labelled_rows import of_another
from auditor.tasks.pairing import with_adapter
from auditor.tasks.task import Run

if TYPE_CHECKING:
    from auditor.sae.doctor import Examination
    from auditor.sae.formats.format import Dictionary
    from auditor.sae.sae import Sae
    from auditor.sae.source import Source
    from auditor.store import Store

_SAMPLES, _TOKENS, _BATCH = 48, 64, 8


def examined(run: Run, dictionary: Dictionary, store: str = "") -> Examination:
    """The doctor's verdict on a dictionary: on the store named, else on the newest one of the project that holds its
    hook points, else on a few samples run through a model of the project that has them; else it says what is missing.

    AuditorError where the store that is named does not hold them.
    """
    from auditor.sae.doctor import examine, unchecked
    from auditor.sae.sae import Sae

    if not isinstance(dictionary, Sae):
        return unchecked("a cross-layer transcoder is read in one convention only.")
    if store:
        from auditor.store import open_store

        artefact = run.input(store, "store")
        opened = open_store(artefact.path)
        hooks = _points(dictionary, opened.hook_points)
        if hooks is None:
            raise AuditorError(
                f"The store “{artefact.name}” does not hold {_wanted(dictionary)}.",
                f"It holds {', '.join(f'{hook} ({width})' for hook, width in opened.hook_points.items())}.",
            )
        held = opened.at(*filter(None, hooks))
        return examine(dictionary, held, hooks=hooks, name=artefact.name, reporter=run.reporter)
    for source, name, hooks in _sources(run, dictionary):
        return examine(dictionary, source, hooks=hooks, name=name, reporter=run.reporter)
    return unchecked(
        f"the project holds no activations of {_wanted(dictionary)}; record them, or name the hook point that it is "
        "of, and let the doctor look again."
    )


def facts_of(found: Examination, run: Run) -> dict[str, Any]:
    """What a dictionary's entry keeps of an examination: plain values, and which activations it was made on."""
    return {
        "verdict": found.verdict, "sentence": found.sentence, "store": found.store, "hook": found.hook,
        "rows": found.n, "samples": found.n_samples, "outlying": found.outlying, "reading": found.reading,
        "when": now(), "store_digest": run.inputs.get(found.store, ""),
        "table": [
            {"reading": row.reading, "meaning": row.title, "fvu": row.fvu, "low": row.interval[0],
             "high": row.interval[1], "l0": row.l0, "same_as": "; ".join(row.same_as)} for row in found.table
        ],
    }  # fmt: skip


def _wanted(sae: Sae) -> str:
    points = list(sae.sources) or [(sae.hook, sae.d_in)]
    points += [(sae.hook_out, sae.d_out)] if sae.hook_out else []
    return " and ".join(f"“{hook}” (width {width})" if hook else f"width {width}" for hook, width in points)


def _points(sae: Sae, held: Mapping[str, int]) -> tuple[str, str] | None:
    """What a store with the hook points `held` calls what `sae` reads and predicts; a dictionary that names none, or
    none of this program's, is taken to be of the only one of its width."""
    if sae.sources:
        return (sae.hook, "") if all(held.get(hook) == width for hook, width in sae.sources) else None
    if held.get(sae.hook) == sae.d_in and (not sae.hook_out or held.get(sae.hook_out) == sae.d_out):
        return sae.hook, sae.hook_out
    alike = [hook for hook, width in held.items() if width == sae.d_in]
    return (alike[0], "") if not sae.hook and not sae.hook_out and len(alike) == 1 else None


def _sources(run: Run, sae: Sae) -> Iterator[tuple[Source, str, tuple[str, str]]]:
    """Stores of the model that it was trained on, or names, come before those of others."""
    from auditor.store import open_store

    found: list[tuple[tuple[bool, bool], Artefact, str, tuple[Source, str, tuple[str, str]]]] = []
    for artefact in reversed(run.project.artefacts("store")):
        try:
            opened = open_store(artefact.path)
        except AuditorError:
            continue  # a store that is gone or damaged is told when it is used for itself
        hooks = _points(sae, opened.hook_points)
        if hooks is None or not opened.complete:
            continue
        said = of_another(opened, [sae])
        turn = bool(said), not _names_model_of(sae, opened)
        found.append((turn, artefact, said, (opened.at(*filter(None, hooks)), artefact.name, hooks)))
    for _, artefact, said, source in sorted(found, key=lambda held: held[0]):
        run.reads(artefact)
        run.warn(said)
        yield source
    if (recorded := _recorded(run, sae)) is not None:
        yield recorded


def _names_model_of(sae: Sae, store: Store) -> bool:
    """Whether another tool's dictionary names the model of the store: several models have hook points of one name and
    width. That it names another says nothing: folders are renamed."""
    held, origin = store.meta.get("model"), sae.meta.get("origin")
    own = str(held.get("name") or "") if isinstance(held, Mapping) else ""
    named = str(origin.get("model_name") or "") if isinstance(origin, Mapping) else ""
    return bool(named) and named.rpartition("/")[2].lower() == own.lower()


def _recorded(run: Run, sae: Sae) -> tuple[Source, str, tuple[str, str]] | None:
    """A few samples of the project through a model of the project that has the dictionary's hook points."""
    samples = run.project.artefacts("samples")
    for model in reversed(run.project.artefacts("model")):
        held = {point["hook"]: point["width"] for point in model.meta.get("hook_points", [])}
        hooks = _points(sae, held) if sae.hook else None
        if hooks is None or not samples:
            continue
        try:
            source = _run(model, samples[-1], [name for name in (*_names(sae),) if name], sae.meta.get("model_digest"))
        except AuditorError:
            return None
        run.reads(model)
        run.reads(samples[-1])
        return source, f"{samples[-1].name} through {model.name}", hooks
    return None


def _names(sae: Sae) -> list[str]:
    return ([hook for hook, _ in sae.sources] or [sae.hook]) + ([sae.hook_out] if sae.hook_out else [])


def _run(model: Artefact, samples: Artefact, hooks: list[str], digest: object) -> Source:
    from auditor.data import open_samples
    from auditor.data.sample import PositionKind
    from auditor.tasks.opening import model_at

    network, held = with_adapter(model_at(model.path), "auto", [digest]), open_samples(samples.path)
    chosen = [held[number] for number in np.linspace(0, len(held) - 1, min(_SAMPLES, len(held))).astype(int)]
    found = Recorded(dict.fromkeys(hooks, 0))
    for begin in range(0, len(chosen), _BATCH):
        done = network.run(network.encode(chosen[begin : begin + _BATCH], _TOKENS), record=hooks)
        kind = done.positions(hooks[0]).kind.cpu().numpy()
        number = np.broadcast_to(begin + np.arange(len(kind))[:, None], kind.shape)
        real = kind != int(PositionKind.PAD)
        found.add({hook: done.rows(hook).float().cpu().numpy()[real] for hook in hooks}, kind[real], number[real])
    return found


@dataclass
class Recorded:
    """Rows in memory, as `auditor.sae.source.Source` wants them."""

    hook_points: dict[str, int]
    meta: dict[str, Any] = field(default_factory=dict)
    digest: str = "in memory"
    _rows: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    _kind: list[NDArray[np.uint8]] = field(default_factory=list)
    _sample: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, rows: dict[str, NDArray[np.float32]], kind: NDArray[np.uint8], sample: NDArray[np.int64]) -> None:
        """More rows [n, width] of every hook point, with the kind and sample of each."""
        for hook, some in rows.items():
            self._rows.setdefault(hook, []).append(some)
            self.hook_points[hook] = some.shape[1]
        self._kind.append(kind)
        self._sample.append(sample)

    @property
    def n_rows(self) -> int:
        return sum(map(len, self._kind))

    def rows(self, index: Any, hook: str | None = None) -> NDArray[np.float32]:
        found: NDArray[np.float32] = np.concatenate(self._rows[hook or next(iter(self._rows))])[index]
        return found

    def positions(self, index: Any) -> Any:
        kind, sample = np.concatenate(self._kind)[index], np.concatenate(self._sample)[index]
        return SimpleNamespace(kind=kind, sample=sample.astype(np.int32))

    def counts(self) -> dict[str, int]:
        kind = np.concatenate(self._kind)
        return {"text": int((kind == 1).sum()), "image": int((kind == 2).sum())}

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        hook: str | Sequence[str] | None = None,
        start: int = 0,
        kinds: Sequence[str] = (),
    ) -> Iterator[NDArray[np.float32]]:
        raise TypeError("rows recorded for an examination are not trained on")
