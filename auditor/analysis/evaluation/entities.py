"""Cities or people put before a model: which facts it knows, its rows at their last tokens, its answers with others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.analysis.evaluation import cities, people
from auditor.analysis.evaluation.ravel import Entities
from auditor.analysis.evaluation.texts import must_read_text
from auditor.analysis.next_token import SetRows, next_token_logits
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data.sample import Sample
from auditor.models import Model
from auditor.models.tokens import following

Rows = NDArray[np.int64]
_BATCH = 24


@dataclass(frozen=True)
class Kind:
    """What a model is asked about: entities with a value of each attribute, and a prompt for each, “{entity}” in it."""

    name: str
    attributes: tuple[str, ...]
    prompts: Mapping[str, str]
    facts: Sequence[tuple[str, tuple[str, ...]]]


KINDS = {
    "cities": Kind("cities", cities.ATTRIBUTES, cities.PROMPTS, cities.table()),
    "people": Kind("people", people.ATTRIBUTES, people.PROMPTS, people.table()),
}


@dataclass(frozen=True)
class _Prompt:
    """One entity in one prompt: its text, the position of the entity's last token, of the prompt's last one, and all
    rows [positions, d] at the hook point."""

    text: str
    place: int
    last: int
    rows: Tensor


def must_answer(model: Model, hook: str, kind: str = "cities") -> None:
    """AuditorError for a model that does not go on with the very text that is read at the hook point."""
    must_read_text(model, f"RAVEL asks it about {kind}", hook)
    if any(point.stream == "target" for point in model.hook_points.values()):
        raise AuditorError(
            f"“{model.name}” writes its answers in another text than it reads, and RAVEL asks it to go on with a text.",
            "Leave it out.",
        )


class Asked:
    """Entities of one kind in a model, read and changed at one hook point.

    `entities` has their values and which the model knows: of all values of an attribute, it gives the right one's first
    token the highest probability. Values whose first token another one shares are left out. `rows` float32
    [attributes · entities, d] are those at the entities' last tokens.
    """

    def __init__(self, model: Model, hook: str, kind: Kind, reporter: Reporter | None = None) -> None:
        must_answer(model, hook, kind.name)
        reporter = reporter or Reporter()
        self._model, self._hook = model, hook
        held = list(kind.facts)
        self.names = [entity for entity, _ in held]
        self._tokens: list[Tensor] = []
        columns, unclear = [], []
        for at in range(len(kind.attributes)):
            values = sorted({own[at] for _, own in held})
            first = [following(model.tokenizer, f" {value}")[0] for value in values]
            self._tokens.append(torch.tensor(first))
            columns.append([values.index(own[at]) for _, own in held])
            shared = [first.count(token) > 1 for token in first]
            unclear.append([shared[value] for value in columns[-1]])
        values_of = np.array(columns).T
        self._prompts: list[list[_Prompt]] = []
        known = np.zeros(values_of.shape, dtype=bool)
        total = len(kind.attributes) * len(held)
        reporter.started(f"Asking about {kind.name}", total, "prompts")
        for ask, name in enumerate(kind.attributes):
            prompts: list[_Prompt] = []
            for start in range(0, len(held), _BATCH):
                prompts += self._read(self.names[start : start + _BATCH], kind.prompts[name])
                reporter.step(ask * len(held) + len(prompts), total, unit="prompts")
            said = self._answers(ask, prompts, [prompt.rows for prompt in prompts])
            known[:, ask] = (said == values_of[:, ask]) & ~np.array(unclear[ask])
            self._prompts.append(prompts)
        self.entities = Entities(kind.attributes, values_of, known)
        self.rows: NDArray[np.float32] = np.array(
            [prompt.rows[prompt.place].numpy() for prompts in self._prompts for prompt in prompts]
        )

    def __call__(self, ask: int, bases: Rows, rows: NDArray[np.float32]) -> Rows:
        """`auditor.analysis.evaluation.ravel.Answers`."""
        prompts, changed = [self._prompts[ask][at] for at in bases], []
        for prompt, row in zip(prompts, rows, strict=True):
            held = prompt.rows.clone()
            held[prompt.place] = torch.from_numpy(np.asarray(row, dtype=np.float32))
            changed.append(held)
        return self._answers(ask, prompts, changed)

    def _answers(self, ask: int, prompts: Sequence[_Prompt], rows: Sequence[Tensor]) -> Rows:
        """The value that each prompt is completed with where it has these rows; prompts of one length together, since
        every position asked for is multiplied with the unembedding."""
        order = np.argsort([prompt.last for prompt in prompts], kind="stable")
        found = np.zeros(len(prompts), dtype=np.int64)
        for start in range(0, len(order), _BATCH):
            part = order[start : start + _BATCH]
            found[part] = self._answer(ask, [prompts[at] for at in part], [rows[at] for at in part])
        return found

    def _read(self, names: list[str], template: str) -> list[_Prompt]:
        """The prompts of entities with their rows."""
        texts = [template.format(entity=name) for name in names]
        inputs = self._model.encode([Sample(id=name, text=text) for name, text in zip(names, texts, strict=True)])
        run = self._model.run(inputs, record=[self._hook], logits=False)
        rows, ends = run.rows(self._hook).float().cpu(), inputs.mask.sum(1).tolist()
        # What follows the entity is told apart by its tokens: the same in every prompt.
        tail = following(self._model.tokenizer, template.split("{entity}")[1])
        return [
            _Prompt(text, int(end) - len(tail) - 1, int(end) - 1, rows[at, : int(end)].clone())
            for at, (text, end) in enumerate(zip(texts, ends, strict=True))
        ]

    def _answer(self, ask: int, prompts: list[_Prompt], rows: list[Tensor]) -> Rows:
        """The value that each prompt is completed with, where the network has these rows [positions, d] at the hook."""
        inputs = self._model.encode([Sample(id=str(at), text=prompt.text) for at, prompt in enumerate(prompts)])
        inputs = inputs.to(self._model.device)
        width = inputs.ids.shape[1]
        full = torch.stack([torch.nn.functional.pad(one, (0, 0, 0, width - len(one))) for one in rows])
        lasts, which = np.unique([prompt.last for prompt in prompts], return_inverse=True)
        with self._model.given(self._hook):
            edit = SetRows(self._hook, full.to(self._model.device))
            logits = next_token_logits(self._model, inputs, [edit], lasts.tolist())[0]
        own = logits[torch.arange(len(prompts)), torch.from_numpy(which).to(logits.device)].cpu()
        found: Rows = own[:, self._tokens[ask]].argmax(1).numpy()
        return found
