"""What the features of dictionaries are good for: five measures, each beside its baselines, as one result."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.base.errors import AuditorError, Stop
from auditor.tasks.evaluation_result import MEASURES, Held, Missing, written_down
from auditor.tasks.labelled_rows import LabelledRows, labelled_rows, points_of
from auditor.tasks.pairing import digest_as_used, with_adapter
from auditor.tasks.task import Run

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from auditor.analysis.evaluation.entities import Asked
    from auditor.analysis.evaluation.figures import Figure
    from auditor.analysis.evaluation.labelled import Classes
    from auditor.analysis.evaluation.pooled import Pooled
    from auditor.models.model import Model
    from auditor.project import Artefact
    from auditor.sae.sae import Sae
    from auditor.tasks.compare import CompareConfig

    Floats = NDArray[np.float32]

_LABELLED = ("probing", "tpp", "scr")
_WARNING = (
    "Targeted probe perturbation and spurious correlation removal were found not to tell better dictionaries from "
    "worse (Chanin 2026, arXiv 2605.18229): do not choose a dictionary by them."
)
_EXAMPLES = 5


def evaluated(run: Run, config: CompareConfig) -> dict[str, Any]:
    """Evaluate each of the dictionaries on the same samples, words and facts; AuditorError before anything long where a
    measure lacks what it needs.

    A measure that fails later is left out, and the result says so; stopped or broken off, what was measured until then
    is kept as a result that says so.
    """
    work = _Evaluation(run, config, _opened(run, config))
    try:
        work.measure()
    except Exception as error:
        work.keep(error)
        raise
    if not work.measured and work.failures:
        raise next(iter(work.failures.values()))
    return written_down(run, config, work.held, work.notes, work.missing())


def _opened(run: Run, config: CompareConfig) -> list[Held]:
    from auditor.sae import load

    held = []
    for ref in config.dictionaries or ("",):
        artefact = run.input(ref, "dictionary")
        sae = load(artefact.path)
        if not sae.hook and not sae.sources:
            raise AuditorError(
                f"“{artefact.name}” does not say which hook point it reads.", "Import it again with its hook point."
            )
        if sae.kind == "transcoder" and set(config.evaluate) - set(_LABELLED):
            sae.must_be_plain("Absorption or RAVEL")
        if sae.kind != "transcoder" and set(config.evaluate) - {"probing"}:
            sae.must_be_plain("Every measure but probing")
        held.append(Held(artefact.name, artefact, sae))
    names = [one.name for one in held]
    for one in held:
        if names.count(one.name) > 1:
            one.name = f"{one.name} {one.artefact.digest[:6]}"
    if len({one.artefact.id for one in held}) < len(held):
        raise AuditorError("A dictionary is named twice.", "Name each once.")
    return held


class _Evaluation:
    """One under way: the dictionaries with their figures so far, notes, what was `measured` (measure, dictionary), and
    why some could not be."""

    def __init__(self, run: Run, config: CompareConfig, held: list[Held]) -> None:
        self.run, self.config, self.held = run, config, held
        self.wanted = [name for name in MEASURES if name in config.evaluate]
        self.notes: list[str] = []
        self.measured: set[tuple[str, str]] = set()
        self.failures: dict[tuple[str, str], AuditorError] = {}
        self._words: dict[tuple[Path, str], tuple[list[str], Floats]] = {}
        self._asked: dict[tuple[Path, str], Asked] = {}
        self._options: dict[str, Any] = {"seeds": config.splits, "seed": config.seed, "reporter": run.reporter}

    def measure(self) -> None:
        """Take every measure of every dictionary. AuditorError for what is known to be missing before."""
        self._must_ask()
        if "tpp" in self.wanted or "scr" in self.wanted:
            self.notes.append(_WARNING)
        if set(self.wanted) & set(_LABELLED):
            self._by_labels()
        if set(self.wanted) - set(_LABELLED):
            self._by_model()

    def missing(self, why: str = "") -> list[Missing]:
        """What was not measured: each with its own reason, or `why`."""
        every = [(name, one.name) for name in self.wanted for one in self.held]
        reasons = {key: str(error) for key, error in self.failures.items()}
        return [Missing(*key, reasons.get(key, why)) for key in every if key not in self.measured]

    def keep(self, error: Exception) -> None:
        """Save what was measured before this ended it, if anything was."""
        if not self.measured:
            return
        why = "It was stopped before." if isinstance(error, Stop) else f"It was broken off: {error}"
        with contextlib.suppress(AuditorError):  # what broke the work off is the one to tell
            told = written_down(self.run, self.config, self.held, self.notes, self.missing(why))
            self.run.kept(told, f"Kept as “{told['result']}”: what was measured.", error)

    def _take(self, measure: str, one: Held, work: Callable[[], list[Figure]]) -> None:
        """Add a measure's figures, or note why there are none."""
        try:
            one.figures += work()
        except AuditorError as error:
            self.failures[measure, one.name] = error
            self.run.remarks.append(f"Not measured: {MEASURES[measure]} of {one.name}.")
            self.run.reporter.partial("warning", message=f"Not measured: {MEASURES[measure]} of {one.name}. {error}")
        else:
            self.measured.add((measure, one.name))

    # models

    def _chosen(self, one: Held) -> Artefact:
        """The model that is named, else the dictionary's own."""
        from auditor.tasks.opening import model_of_dictionary

        if not self.config.model:
            return model_of_dictionary(self.run.project, one.sae)
        return self.run.input(self.config.model, "model")

    def _model(self, one: Held) -> Model:
        from auditor.tasks.opening import model_at

        chosen, own = self._chosen(one), one.sae.meta
        self.run.opens(chosen)
        model = with_adapter(model_at(chosen.path), "auto", [own.get("model_digest")])
        if own.get("model_digest") not in (None, "", digest_as_used(chosen, model)):
            self._note(f"{one.name} was trained on “{own.get('model')}” and is evaluated in “{model.name}”.")
        return model

    def _note(self, sentence: str) -> None:
        if sentence and sentence not in self.notes:
            self.notes.append(sentence)

    # by labels that samples keep

    def _by_labels(self) -> None:
        from auditor.analysis.evaluation.labelled import cells_of, classes_of, left_out
        from auditor.analysis.evaluation.tpp import FEWEST_CLASSES

        config = self.config
        if "scr" in self.wanted and not (config.label and config.spurious):
            raise AuditorError(
                "Spurious correlation removal needs two labels: one to keep and one that misleads.",
                "Name them as Label (--label) and Label that misleads (--spurious); the group counts as one, “group”.",
            )
        if config.samples:
            for one in self.held:  # a model that the project lacks is told before any is run
                self._chosen(one)
        own = {id(one.sae): one for one in self.held}
        source = labelled_rows(
            self.run, [one.sae for one in self.held], store=config.store, samples=config.samples,
            context=config.context, model=lambda sae: self._model(own[id(sae)]),
            written=bool({"tpp", "scr"} & set(self.wanted)),
        )  # fmt: skip
        self._note(source.said)
        facts = source.facts(self.run.reporter)
        classes: Classes | None = None
        kept: tuple[Classes, Classes] | None = None
        if {"probing", "tpp"} & set(self.wanted):
            fewest = FEWEST_CLASSES if "tpp" in self.wanted else 2
            classes = classes_of(facts, config.label, config.classes, config.n, config.seed, fewest)
            counts = np.bincount(classes.of)
            shown = ", ".join(f"{name} ({count})" for name, count in zip(classes.names, counts, strict=True))
            self._note(f"Classes of “{classes.label}”, with samples: {shown}.")
        if "scr" in self.wanted:
            kept = cells_of(facts, config.label, config.spurious, config.pairs_of_values, config.n, config.seed)
            four = " and ".join(f"“{one.label}” ({' or '.join(one.names)})" for one in kept)
            each = len(kept[0].of) // 4
            self._note(f"Spurious correlation removal: {four}, {each} samples of each of the four kinds.")
        labels = dict.fromkeys([*([classes.label] if classes else []), *(one.label for one in kept or ())])
        self._note(left_out(facts, list(labels)))
        for one in self.held:
            for chosen in (*([classes] if classes else []), *(kept[:1] if kept else ())):
                self._must_fit(one, len(chosen.numbers), len(chosen.names))
        for one in self.held:
            if classes is not None:
                self._probed(one, source, classes)
            if kept is not None:
                self._take("scr", one, functools.partial(self._scr, one, source, kept))

    def _probed(self, one: Held, source: LabelledRows, classes: Classes) -> None:
        """Both measures of one label, of the same means but where a transcoder reads here and writes there."""
        from auditor.analysis.evaluation.probing import probing
        from auditor.analysis.evaluation.tpp import tpp

        pooled: dict[bool, Pooled] = {}

        def means(written: bool) -> Pooled:
            written &= one.sae.kind == "transcoder"
            if written not in pooled:
                pooled.clear()
                pooled[written] = self._pooled(one, source, classes, written)
            return pooled[written]

        k, options = self.config.k, self._options
        if "probing" in self.wanted:
            self._take("probing", one, lambda: probing(means(False), classes, k, **options))
        if "tpp" in self.wanted:
            self._take("tpp", one, lambda: tpp(means(True), classes, k, **options))

    def _scr(self, one: Held, source: LabelledRows, kept: tuple[Classes, Classes]) -> list[Figure]:
        from auditor.analysis.evaluation.scr import scr

        pooled = self._pooled(one, source, kept[0], one.sae.kind == "transcoder")
        found, said = scr(pooled, *kept, self.config.k, **self._options)
        self._note(f"{one.name}: {said}" if said else "")
        return found

    def _pooled(self, one: Held, source: LabelledRows, classes: Classes, written: bool) -> Pooled:
        from auditor.analysis.evaluation.pooled import pool

        rows = source.rows(one.sae, classes.numbers.tolist(), points_of(one.sae, written))
        return pool(one.sae, rows, len(classes.numbers), seed=self.config.seed, reporter=self.run.reporter)

    def _must_fit(self, one: Held, n: int, tasks: int) -> None:
        """AuditorError where so many samples, or words where there are no classes to tell apart, take too much."""
        import torch

        from auditor.analysis.evaluation import memory
        from auditor.sae.memory import free_bytes

        config, words = self.config, not tasks
        needed = memory.evaluation_bytes(
            one.sae, n, tasks=26 if words else tasks, ks=1 if words else len(config.k), splits=config.splits,
            parts=2 if words else 1,
        )  # fmt: skip
        way = "fewer words (--words)" if words else "fewer samples of each class (--n)"
        memory.must_fit(needed, free_bytes(torch.device("cpu")), n, "words" if words else "samples", way)

    # by what the model itself knows

    def _must_ask(self) -> None:
        """AuditorError where a dictionary is of no text that its model can be asked in, or too much is asked."""
        from auditor.analysis.evaluation import entities, first_letters
        from auditor.analysis.evaluation.texts import must_read_text

        for one in self.held if {"absorption", "ravel"} & set(self.wanted) else ():
            model = self._model(one)
            if "absorption" in self.wanted:
                must_read_text(model, first_letters.WHY, one.sae.hook)
                known = len(first_letters.vocabulary(model))
                self._must_fit(one, min(known, self.config.words), 0)
            if "ravel" in self.wanted:
                entities.must_answer(model, one.sae.hook, self.config.entities)

    def _by_model(self) -> None:
        for one in self.held:
            if "absorption" in self.wanted:
                self._take("absorption", one, functools.partial(self._absorption, one))
            if "ravel" in self.wanted:
                self._take("ravel", one, functools.partial(self._ravel, one))

    def _absorption(self, one: Held) -> list[Figure]:
        from auditor.analysis.evaluation.absorption import absorption
        from auditor.analysis.evaluation.first_letters import word_rows

        model, hook, config = self._model(one), one.sae.hook, self.config
        place = (model.path, hook)
        if place not in self._words:
            self._words[place] = word_rows(model, hook, config.words, seed=config.seed, reporter=self.run.reporter)
        names, rows = self._words[place]
        found = absorption(self._each(one.sae, rows, "words"), names, hook=hook, **self._options)
        self._note(f"{one.name}: absorption was looked for in words that begin with {', '.join(found.letters)}.")
        for word, letter, by, mains in found.examples[:_EXAMPLES]:
            spoken = f"feature {by} speaks for “{letter}” in place of {', '.join(map(str, mains))}"
            self._note(f"{one.name}: in “{word}” {spoken}.")
        return found.figures

    def _ravel(self, one: Held) -> list[Figure]:
        from auditor.analysis.evaluation import entities
        from auditor.analysis.evaluation.ravel import RANKINGS, ravel

        model, hook, config = self._model(one), one.sae.hook, self.config
        place = (model.path, hook)
        if place not in self._asked:
            self._asked[place] = entities.Asked(model, hook, entities.KINDS[config.entities], self.run.reporter)
        asked = self._asked[place]
        rankings = tuple(RANKINGS) if config.ranking == "both" else (config.ranking,)
        found = ravel(self._each(one.sae, asked.rows, "prompts"), asked.entities, asked, k=config.exchange,
                      pairs=config.pairs, rankings=rankings, **self._options)  # fmt: skip
        known = zip(asked.entities.attributes, asked.entities.known.sum(0), strict=True)
        shown = ", ".join(f"{name} of {count}" for name, count in known)
        self._note(f"{one.name}: RAVEL with {config.exchange} features at most; of {len(asked.entities.known)} "
                   f"{config.entities} the model knows the {shown}.")  # fmt: skip
        return found

    def _each(self, sae: Sae, rows: Floats, what: str) -> Pooled:
        """Each row a sample of its own."""
        from auditor.analysis.evaluation.pooled import pool

        return pool(sae, (row[None] for row in rows), len(rows), seed=self.config.seed, what=what,
                    reporter=self.run.reporter)  # fmt: skip
