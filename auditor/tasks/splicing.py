"""The network that a dictionary's activations came from, put to the test with the dictionary in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.project import Artefact, Project
from auditor.sae.train_config import TrainConfig

if TYPE_CHECKING:
    from auditor.data.sample import Sample
    from auditor.models.model import Model
    from auditor.sae.sae import Sae
    from auditor.sae.source import Source
    from auditor.sae.splice import SplicedLoss

_TOKENS, _BATCH = 128, 4
# While training, fewer samples are run: training waits for it.
_PROBED = 4
_FITTED_ROWS = 8192


@dataclass
class Origin:
    """The model and the samples that a source's rows come from, as the project holds them."""

    model: Artefact
    samples: Sequence[Sample]


def origin_of(project: Project, source: Source) -> Origin:
    """AuditorError where the project does not hold the model or the samples."""
    from auditor.data import open_samples

    facts = {name: _facts(source.meta, name) for name in ("model", "samples")}
    model = next((a for a in reversed(project.artefacts("model")) if a.digest == facts["model"].get("digest")), None)
    if model is None:
        raise AuditorError("The project does not hold the model that was recorded.", "Open the model's folder first.")
    wanted = facts["samples"].get("digest")
    for artefact in reversed(project.artefacts("samples")):
        if artefact.digest == wanted and artefact.path.exists():
            return Origin(model, open_samples(artefact.path))
    name, mark, options = str(facts["samples"].get("path", "")).partition("?")
    if name:
        found = open_samples(f"{project.find(name, 'samples').path}{mark}{options}")
        if found.digest == wanted:
            return Origin(model, found)
    raise AuditorError("The project does not hold the samples that were recorded.", "Open them first.")


class Splicing:
    """Measures dictionaries in the model: a few samples while training (`probe`), `splice_samples` in the end. The
    model is opened when it is needed first: a training needs its memory for itself."""

    def __init__(
        self, opened: Callable[[], Model], samples: Sequence[Sample], source: Source, config: TrainConfig
    ) -> None:
        import numpy as np

        self._opened, self._source, self._seed = opened, source, config.seed
        texts = [number for number, sample in enumerate(samples) if sample.text or sample.messages]
        if not texts:
            raise AuditorError("None of the samples has a text to predict.", "Choose samples of text.")
        order = np.random.default_rng([config.seed, 3]).permutation(texts)
        self._samples = [samples[int(number)] for number in order[: config.splice_samples]]

    @cached_property
    def _model(self) -> Model:
        return self._opened()

    def probe(self, sae: Sae, reporter: Reporter) -> dict[str, float]:
        """Cross-entropy and KL on few samples, nats a token, and the baselines' KL."""
        found = self._loss(sae, self._samples[:_PROBED], reporter)
        return {
            "ce_increase": found.increase, "ce_recovered": found.recovered, "kl": found.kl,
            **{f"kl_{name}": stood.kl for name, stood in found.baselines.items()},
            "tokens": float(found.n), "samples": float(found.n_samples),
        }

    def measure(self, sae: Sae, reporter: Reporter) -> Mapping[str, Any]:
        """All figures, with intervals and baselines, as plain values."""
        return self._loss(sae, self._samples, reporter).model_dump(mode="json")

    def _loss(self, sae: Sae, samples: Sequence[Sample], reporter: Reporter) -> SplicedLoss:
        from auditor.sae.splice import spliced_loss

        return spliced_loss(
            self._model, sae, samples, rows=None if sae.hook_out else self._rows(sae.hook), max_tokens=_TOKENS,
            batch_size=_BATCH, seed=self._seed, reporter=_Heard(reporter),
        )

    def _rows(self, hook: str) -> Any:
        import numpy as np
        import torch

        rng = np.random.default_rng([self._seed, 4])
        index = np.sort(rng.permutation(self._source.n_rows)[: 2 * _FITTED_ROWS])
        index = index[np.isin(self._source.positions(index).kind, (1, 2))][:_FITTED_ROWS]
        return torch.from_numpy(self._source.rows(index, hook))


class _Heard(Reporter):
    """Hears the person's stop, and tells nothing: what is told is the training's."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def step(self, done: int, total: int = 0, note: str = "", unit: str = "") -> None:
        self._reporter.check()

    def check(self) -> None:
        self._reporter.check()


def _facts(meta: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = meta.get(name)
    return found if isinstance(found, Mapping) else {}
