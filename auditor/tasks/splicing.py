"""The network that a dictionary's activations came from, put to the test with the dictionary in it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.project import Artefact, Project
from auditor.sae.train_config import TrainConfig
from auditor.tasks.pairing import model_with, with_adapter

if TYPE_CHECKING:
    from auditor.data.sample import Sample
    from auditor.models.model import Model
    from auditor.sae.baselines import Fitted
    from auditor.sae.looks import Look
    from auditor.sae.sae import Sae
    from auditor.sae.source import Source
    from auditor.sae.splice import SplicedLoss

_TOKENS, _BATCH = 128, 4
# While training, fewer samples are run, since training waits for it: so many at least.
_PROBED = 4
# Runs of the network for each sample: to record, clean, with the dictionary, and with three baselines.
_RUNS = 6
# Of a text, for each token.
_LETTERS = 4
# Bytes of weights that are read and widened in a second, as measured with SmolLM2 on two cores.
_READ_BYTES = 4e8
_FITTED_ROWS = 8192
_NUMBER_BYTES = {"bfloat16": 2, "float16": 2, "int8": 1}
# Of a tokenizer for each of its tokens, as measured with SmolLM2's 49,152.
_TOKEN_BYTES = 1700


@dataclass
class Origin:
    """The model, whose `digest` may be that of the base below its adapter, and the samples that a source's rows come
    from, as the project holds them."""

    model: Artefact
    digest: str
    samples: Sequence[Sample]


def origin_of(project: Project, source: Source) -> Origin:
    """AuditorError where the project does not hold the model or the samples."""
    from auditor.data import open_samples

    facts = {name: _facts(source.meta, name) for name in ("model", "samples")}
    digest = str(facts["model"].get("digest") or "")
    model = model_with(project, digest)
    if model is None:
        raise AuditorError("The project does not hold the model that was recorded.", "Open the model's folder first.")
    wanted = facts["samples"].get("digest")
    held = [artefact for artefact in reversed(project.artefacts("samples")) if artefact.path.exists()]
    for artefact in held:
        if artefact.digest == wanted:
            return Origin(model, digest, open_samples(artefact.path))
    name, mark, options = str(facts["samples"].get("path", "")).partition("?")
    # What the project called them then may have another name by now.
    file = facts["samples"].get("name")
    for artefact in sorted(held, key=lambda one: name not in (one.name, one.id)):
        if name in (artefact.name, artefact.id) or artefact.path.name == file:
            with contextlib.suppress(AuditorError):  # a file that is another now
                found = open_samples(f"{artefact.path}{mark}{options}")
                if found.digest == wanted:
                    return Origin(model, digest, found)
    raise AuditorError("The project does not hold the samples that were recorded.", "Open them first.")


def splicing_of(
    project: Project, source: Source, config: TrainConfig, opens: Callable[[Artefact], object] | None = None
) -> Splicing | None:
    """What looks at the dictionaries of a training in the network that `source` comes from; None where they are not to
    be looked at, or stand for no single place of it. `opens` hears of the model when it is opened. AuditorError where
    model or samples are not at hand."""
    from auditor.sae.archs import ARCHITECTURES
    from auditor.sae.stream import Stream
    from auditor.tasks.opening import is_open, model_at

    if not config.splice_samples or ARCHITECTURES.get(config.arch).takes in ("several", "layers"):
        return None
    if isinstance(source, Stream):
        streamed = source.model
        return Splicing(lambda: streamed, source.held, source, config, sizes_of(streamed.path, "float32", is_open=True))
    origin, dtype = origin_of(project, source), str(source.meta.get("dtype", "float32"))
    path = origin.model.path
    sizes = sizes_of(path, dtype, is_open=is_open(path, dtype, config.device))

    def opened() -> Model:
        if opens is not None:
            opens(origin.model)
        return with_adapter(model_at(path, dtype, config.device), "auto", [origin.digest])

    return Splicing(opened, origin.samples, source, config, sizes)


@dataclass(frozen=True)
class Sizes:
    """Of a network: `weights`, bytes of memory, and how many bytes each of their `numbers` takes; `open` where it is
    there already; `vocabulary`, tokens."""

    weights: int = 0
    numbers: int = 4
    vocabulary: int = 0
    open: bool = False


def sizes_of(model: Path, dtype: str, *, is_open: bool) -> Sizes:
    """By the headers of its files and its config; where only loading could tell how many weights there are, as if the
    files held 16 bits for each."""
    from auditor.intake.weights import inspect_model

    try:
        facts = inspect_model(model)
    except AuditorError:  # laid over another, which opening it finds
        return Sizes(open=is_open)
    parts = (facts.config, *(part for part in facts.config.values() if isinstance(part, dict)))
    found = [part["vocab_size"] for part in parts if isinstance(part.get("vocab_size"), int)]
    numbers = _NUMBER_BYTES.get(dtype, 4)
    weights = (facts.parameters or facts.bytes // 2) * numbers
    return Sizes(weights, numbers, max(found, default=0), is_open)


class Splicing:
    """Measures dictionaries in the model: a few samples while training (`probe`; `looked_at` of them, as a plan found
    that there is time for, unless the settings say how many), `splice_samples` in the end. The model is opened when it
    is needed first: a training needs its memory for itself."""

    def __init__(
        self, opened: Callable[[], Model], samples: Sequence[Sample], source: Source, config: TrainConfig,
        sizes: Sizes | None = None,
    ) -> None:
        import numpy as np

        self._sizes = sizes or Sizes()
        self._opened, self._source, self._seed, self._device = opened, source, config.seed, config.device
        self.looked_at, self._asked = _PROBED, config.look_samples
        self._fits = not config.target  # what stands in for a transcoder is not fitted
        self._fitted: dict[str, Fitted] = {}
        made = _facts(source.meta, "config") or _facts(source.meta, "stream")
        self._skip_first = bool(made.get("skip_first", False))
        texts = [number for number, sample in enumerate(samples) if sample.text or sample.messages]
        if not texts:
            raise AuditorError("None of the samples has a text to predict.", "Choose samples of text.")
        order = np.random.default_rng([config.seed, 3]).permutation(texts)
        self._samples = [samples[int(number)] for number in order[: config.splice_samples]]

    @cached_property
    def _model(self) -> Model:
        return self._opened()

    def probe(self, sae: Sae, reporter: Reporter) -> dict[str, float]:
        """Cross-entropy and KL on few samples, nats a token, the FVU there, and the baselines' KL; each with the ends
        of its 95 % interval over samples, as `…_low` and `…_high`. A training that goes on looks at as many samples as
        it did before."""
        before = sae.meta.get("probed") or [{}]
        count = self._asked or int(before[-1].get("samples", self.looked_at))
        found = self._loss(sae, self._samples[:count], _Heard(reporter))
        told = {name: (value, found.intervals.get(key)) for name, key, value in (
            ("ce_increase", "increase", found.increase), ("ce_recovered", "recovered", found.recovered),
            ("kl", "kl", found.kl), ("fvu", "fvu", found.fvu),
        ) if value is not None}  # fmt: skip
        told |= {f"kl_{name}": (stood.kl, stood.intervals.get("kl")) for name, stood in found.baselines.items()}
        looked = {"tokens": float(found.n), "samples": float(found.n_samples), "rows": float(found.rows)}
        for name, (value, interval) in told.items():
            looked[name] = value
            if interval is not None:
                looked[f"{name}_low"], looked[f"{name}_high"] = interval
        return looked

    @property
    def bytes(self) -> int:
        """Of the network and its tokenizer in memory."""
        return self._sizes.weights + _TOKEN_BYTES * self._sizes.vocabulary

    @property
    def open(self) -> bool:
        """Whether it was open before this."""
        return self._sizes.open

    @property
    def look_bytes(self) -> int:
        """Beside the weights: two batches' predictions, and one sample's while they are compared; the rows that
        baselines are fitted to, and their components in float64."""
        width, tokens = self._width, (2 * _BATCH + 3) * _TOKENS
        fitted = 2 * 4 * min(self._source.n_rows, _FITTED_ROWS) * width + 3 * 8 * width**2
        return 4 * tokens * self._sizes.vocabulary + fitted

    @property
    def drawing_bytes(self) -> int:
        """Of the numbers drawn for its largest matrix, the tokens' embedding."""
        return 4 * self._sizes.vocabulary * self._width

    @property
    def _width(self) -> int:
        return max(self._source.hook_points.values())

    def tried(self, sae: Sae) -> Look:
        """Look at a dictionary as the training will (`auditor.sae.looks.Network`); the baselines stay fitted."""
        from auditor.models.device import device_named
        from auditor.sae import memory
        from auditor.sae.looks import Look

        with memory.measured(device_named(self._device)) as peak:
            begun = time.perf_counter()
            model = self._model
            opening = 0.0 if self.open else time.perf_counter() - begun
            if not sae.hook_out:
                self._fitted_to(sae.hook)
            fewest, most = min(_PROBED, len(self._samples)), len(self._samples)
            seconds, longer = self._seconds(sae, fewest), 0.0
            if (more := min(most, fewest + _BATCH)) > fewest:  # a part of it takes the same at any number of samples
                all_of_them = self._seconds(sae, more)
                # Where a GPU's first run or other work held up the fewer samples, others cost something all the same.
                held_up = all_of_them <= seconds
                longer = all_of_them / more if held_up else (all_of_them - seconds) / (more - fewest)
                seconds = min(seconds, all_of_them)
        inputs = model.encode(self._samples[:_PROBED], _TOKENS).to(model.device)
        begun = time.perf_counter()
        run = model.run(inputs, record=[sae.hook], logits=False)
        once = (time.perf_counter() - begun) / max(1, len(run.rows(sae.hook).flatten(0, -2)))
        return Look(
            seconds, 0 if peak.shared else peak.bytes, once, opening, seconds + longer * (most - fewest), fewest, most,
            longer,
        )  # fmt: skip

    def _seconds(self, sae: Sae, samples: int) -> float:
        begun = time.perf_counter()
        self._loss(sae, self._samples[:samples], Reporter())
        return time.perf_counter() - begun

    def measure(self, sae: Sae, reporter: Reporter) -> Mapping[str, Any]:
        """All figures, with intervals and baselines, as plain values."""
        return self._loss(sae, self._samples, reporter).model_dump(mode="json")

    def end_seconds(self, opened: bool = False) -> float:
        """About what `measure` will take, by the sizes of the network and how fast this device multiplies, for what
        comes before it is opened; with what opening it and fitting the baselines take, unless it will be `opened` by
        then."""
        from auditor.sae.baselines import component_seconds

        lengths = [2 + len(sample.text) // _LETTERS if sample.text else _TOKENS for sample in self._samples]
        tokens = sum(min(_TOKENS, length) for length in lengths)
        running = _RUNS * tokens * self._sizes.weights / self._sizes.numbers / _products_a_second(self._device)
        if opened:
            return running
        fitting = component_seconds(self._width, min(self._source.n_rows, _FITTED_ROWS)) if self._fits else 0.0
        return running + fitting + (0.0 if self.open else self._sizes.weights / _READ_BYTES)

    def _loss(self, sae: Sae, samples: Sequence[Sample], reporter: Reporter) -> SplicedLoss:
        from auditor.sae.splice import spliced_loss

        return spliced_loss(
            self._model, sae, samples, fitted=None if sae.hook_out else self._fitted_to(sae.hook), max_tokens=_TOKENS,
            batch_size=_BATCH, seed=self._seed, skip_first=self._skip_first, reporter=reporter,
        )

    def _fitted_to(self, hook: str) -> Fitted:
        """The baselines of a hook point, which all dictionaries of a run are held against at all its steps."""
        import numpy as np
        import torch

        from auditor.sae.baselines import Fitted

        if hook not in self._fitted:
            rng = np.random.default_rng([self._seed, 4])
            index = rng.permutation(self._source.n_rows)[: 2 * _FITTED_ROWS]
            index = index[np.isin(self._source.positions(index).kind, (1, 2))]
            index = np.sort(index[:_FITTED_ROWS])
            self._fitted[hook] = Fitted.to(torch.from_numpy(self._source.rows(index, hook)))
        return self._fitted[hook]


def _products_a_second(device: str) -> float:
    """How many numbers of a matrix this device multiplies with those of a token, and adds, in a second."""
    import torch

    from auditor.models.device import device_named

    place = device_named(device)
    tokens, weights = torch.randn(_BATCH * _TOKENS, 1024, device=place), torch.randn(1024, 1024, device=place)
    spent = []
    for _ in range(3):
        begun = time.perf_counter()
        float((tokens @ weights)[0, 0])  # waits for the device
        spent.append(time.perf_counter() - begun)
    return tokens.numel() * 1024 / min(spent)


class _Heard(Reporter):
    """Hears the person's stop, and tells nothing: what is told is the training's."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    @property
    def rested(self) -> float:
        return self._reporter.rested

    def step(self, done: int, total: int = 0, note: str = "", unit: str = "") -> None:
        self._reporter.check()

    def check(self) -> None:
        self._reporter.check()


def _facts(meta: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = meta.get(name)
    return found if isinstance(found, Mapping) else {}
