"""What edits are built in: the network, the samples that means and draws come from, other runs, and dictionaries."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from auditor.analysis.editing.freezing import numbers
from auditor.analysis.measures import first_token, ordinary
from auditor.analysis.nulls import random_directions
from auditor.base.errors import AuditorError
from auditor.base.patterns import is_pattern, matches
from auditor.data.sample import Sample, text_sample
from auditor.intake.npz import read_npy
from auditor.models import Model, Run
from auditor.models.aliases import spread_out
from auditor.models.hook_points import PATTERN, HookPoint
from auditor.models.inputs import Inputs
from auditor.sae import Sae
from auditor.store import Store

_MOST_ROWS = 4096
MOST_REFERENCE = 64
"""Samples that means, resampled rows and largest activations are taken from, at most."""


class Scene:
    """`reference`: the samples of the experiment, the first 64 of which are looked at; `dictionary` gives one by name,
    the experiment's for an empty one, `store` a store, and `file` the place of a file that an edit may read. Rows are
    taken once a hook point."""

    def __init__(
        self,
        model: Model,
        reference: Sequence[Sample],
        dictionary: Callable[[str], Sae],
        store: Callable[[str], Store] | None = None,
        file: Callable[[str], Path] = Path,
    ) -> None:
        self.model, self.reference = model, list(reference[:MOST_REFERENCE])
        self._dictionary, self._store, self._file = dictionary, store, file
        self._rows: dict[tuple[str, str], Tensor] = {}
        self._largest: dict[int, Tensor] = {}
        self._dictionaries: dict[str, Sae] = {}
        self._directions: dict[tuple[str, str, str], Tensor] = {}
        self._run: tuple[tuple[str, ...], Inputs, Run] | None = None

    def point(self, hook: str) -> HookPoint:
        """AuditorError with the nearest names for one that the network does not have."""
        return self.model._points([hook])[0]

    def points(self, pattern: str) -> list[HookPoint]:
        """The hook points that a pattern such as blocks.*.z stands for, in the network's order; the one of that name
        where it is no pattern. AuditorError where there is none."""
        if not is_pattern(pattern):
            return [self.point(pattern)]
        held = self.model.hook_points
        found = spread_out([pattern], held)
        if found == [pattern]:
            raise AuditorError(
                f"“{self.model.name}” has no hook points “{pattern}”.", "Write * for a number, as in blocks.*.z."
            )
        return [held[name] for name in found]

    def weights(self, pattern: str) -> list[str]:
        """Paths of the weights that a pattern stands for, in the network's order; as `points`."""
        if not is_pattern(pattern):
            return [pattern]
        held = [name for name, _ in self.model.network.named_parameters(remove_duplicate=False)]
        found = [name for name in held if matches(pattern, name)]
        if not found:
            raise AuditorError(f"“{self.model.name}” has no weights “{pattern}”.", f"One of them is {held[0]}.")
        return found

    def heads(self, point: HookPoint) -> int:
        """How many heads a hook point has; AuditorError for one that is not split into heads."""
        if not point.heads:
            raise AuditorError(
                f"“{point.name}” is not split into heads.", "Choose z, q, k, v or pattern of a block for heads."
            )
        return point.heads

    def columns(self, point: HookPoint, head: int, neuron: int) -> list[int] | None:
        """Channels of a head or neuron (of a pattern: its number), −1 for all; None for all of both."""
        if head >= 0:
            heads = self.heads(point)
            if head >= heads:
                raise AuditorError(f"“{point.name}” has no head {head}: it has {heads}.", "Choose one that it has.")
            size = point.width // heads
            return [head] if point.axes == PATTERN else list(range(head * size, (head + 1) * size))
        if neuron >= 0:
            if neuron >= point.width:
                raise AuditorError(
                    f"“{point.name}” has no channel {neuron}: it has {point.width}.", "Choose one that it has."
                )
            return [neuron]
        return None

    def positions(self, at: str, inputs: Inputs, point: HookPoint) -> list[int] | None:
        """Indices that `at` names in a batch of one sample; None for all."""
        if not at:
            return None
        if point.stream in ("vision", "pooled", "sound"):
            if at == "last":
                raise AuditorError(
                    f"“{at}” is said of text, and “{point.name}” has other positions.", "Name them by number."
                )
            if at == "ordinary":
                kind = self.run("", inputs, [point.name]).positions(point.name).kind[0]
                return [int(place) for place in torch.nonzero(ordinary(kind))[:, 0]]
            return numbers(at, None, "position")  # how many there are, the run tells
        read = inputs.predicted if point.stream == "target" else inputs
        length = int(read.mask[0].sum())
        if at == "last":
            return [length - 1]
        if at == "ordinary":
            return [int(place) for place in torch.nonzero(ordinary(read.kind[0]))[:, 0]]
        return numbers(at, length, "position")

    def rows(self, hook: str, store: str = "") -> Tensor:
        """Rows [n, width] of the ordinary positions of the reference samples, or of a store (4096 drawn at random)."""
        key = (hook, store)
        if key not in self._rows:
            self._rows[key] = self._of_store(hook, store) if store else self._of_samples(hook)
        return self._rows[key]

    def _of_store(self, hook: str, name: str) -> Tensor:
        if self._store is None:
            raise AuditorError(f"The store “{name}” is not at hand here.", "Leave it out.")
        store, width = self._store(name), self.point(hook).width
        rows = next(store.batches(_MOST_ROWS, hook=hook, epochs=1))
        if rows.shape[1] != width:
            raise AuditorError(
                f"“{hook}” has {rows.shape[1]} channels in the store “{store.name}” and {width} in this network.",
                "Choose a store of this model.",
            )
        return torch.from_numpy(rows.copy()).to(self.model.device)

    def _of_samples(self, hook: str) -> Tensor:
        if self.point(hook).axes == PATTERN:
            raise AuditorError(f"“{hook}” has no rows to take a mean of.", "Choose zero there.")
        found = []
        for sample in self.reference:
            with torch.no_grad():
                run = self.model.run(self.model.encode([sample]), record=[hook], logits=False)
            rows = run.rows(hook)[0]
            found.append(rows[ordinary(run.positions(hook).kind[0]).to(rows.device)])
        if not any(len(rows) for rows in found):
            raise AuditorError("The samples have no ordinary positions.", "Choose samples with text or images.")
        return torch.cat(found)

    def other(self, text: str, inputs: Inputs) -> Inputs:
        """The batch of another text, or `inputs` where it is empty."""
        return self.model.encode([text_sample(text)]).to(self.model.device) if text else inputs

    def run(self, text: str, inputs: Inputs, record: Sequence[str]) -> Run:
        """The unedited run on another text, or on `inputs`; the last one is kept, since edits of one hook point ask for
        the same."""
        asked, held = (text, *record), self._run
        if held is None or held[0] != asked or not (text or held[1] is inputs):
            with torch.no_grad():
                run = self.model.run(self.other(text, inputs), record=record, logits=False)
            self._run = held = (asked, inputs, run)
        return held[2]

    def dictionary(self, name: str) -> Sae:
        """AuditorError where there is none."""
        if name not in self._dictionaries:
            self._dictionaries[name] = self._dictionary(name).to(self.model.device)
        return self._dictionaries[name]

    def largest(self, sae: Sae, feature: int) -> float:
        """The feature's largest activation on the reference samples; AuditorError where it does not fire."""
        from auditor.analysis.feature_edit import check_feature

        check_feature(sae, feature)
        found = float(self.all_largest(sae)[feature])
        if found <= 0:
            raise AuditorError(
                f"Feature {feature} fires on none of these samples, so there is no level to clamp it to.",
                "Choose samples on which it fires.",
            )
        return found

    def all_largest(self, sae: Sae) -> Tensor:
        """The largest activation of every feature on the reference samples, [d_sae]; 0 of one that does not fire."""
        from auditor.analysis.feature_edit import must_read

        must_read(sae, sae.hook, self.point(sae.hook).width)
        if id(sae) not in self._largest:  # two dictionaries may be of one hook point; both are held here
            values, ids = sae.encode_sparse(self.rows(sae.hook).float())
            none = torch.zeros(sae.d_sae, dtype=values.dtype, device=values.device)
            self._largest[id(sae)] = none.scatter_reduce(0, ids.flatten(), values.flatten(), "amax").cpu()
        return self._largest[id(sae)]

    def matrix(self, path: str) -> Tensor:
        """The numbers of a .npy file. AuditorError where one is not finite."""
        found = read_npy(self._file(path)).astype(np.float32)
        if not np.isfinite(found).all():
            raise AuditorError(f"“{path}” holds numbers that are not finite.", "Choose another file.")
        return torch.from_numpy(found).to(self.model.device)

    def direction(self, named: str, hook: str, dictionary: str = "") -> Tensor:
        """[width] by its name, as the edit “add” takes it. AuditorError for none that fits the hook point."""
        asked = (named, hook, dictionary)
        if asked not in self._directions:
            self._directions[asked] = self._direction(named, hook, dictionary)
        found = self._directions[asked]
        width = self.point(hook).width
        if found.shape != (width,):
            raise AuditorError(
                f"The direction “{named}” is {list(found.shape)} and “{hook}” has {width} channels.",
                "Choose a direction of the hook point's own space.",
            )
        return found

    def _direction(self, named: str, hook: str, dictionary: str) -> Tensor:
        kind, _, value = named.partition(":")
        device = self.model.device
        if kind == "random" and re.fullmatch(r"\d*", value):
            return torch.from_numpy(random_directions(1, self.point(hook).width, int(value or 0))[0]).to(device)
        if kind == "token" and value:
            return self._token(value)
        if kind == "feature" and value.isdecimal():
            from auditor.analysis.feature_edit import check_feature

            sae = self.dictionary(dictionary)
            check_feature(sae, int(value))
            return sae.W_dec[int(value)]
        if kind == "difference" and value.count("|") == 1 and all(value.split("|")):
            first, second = (self._last(text, hook) for text in value.split("|"))
            return first - second
        if named.endswith(".npy"):
            return self.matrix(named)
        raise AuditorError(
            f"“{named}” is no direction.",
            "Write random, random:7, token:TEXT, feature:12, difference:TEXT|TEXT, or the path of a .npy file.",
        )

    def _last(self, text: str, hook: str) -> Tensor:
        with torch.no_grad():
            return self.model.run([text_sample(text)], record=[hook], logits=False).rows(hook)[0, -1]

    def _token(self, text: str) -> Tensor:
        if self.model.unembed is None or self.model.tokenizer is None:
            raise AuditorError(f"“{self.model.name}” has no unembedding.", "Choose another direction.")
        column = self.model.unembed[:, first_token(self.model, text)].float()
        unit: Tensor = column / column.norm()
        return unit
