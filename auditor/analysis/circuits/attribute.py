"""Tracing: from a prompt to its attribution graph, by exact linear effects between dictionary features.

A residual-stream dictionary cuts every path, so the graph is layered: embeddings → features and errors at the first
hook point → … → logits. The edge from source s to target t is (what s writes) · (gradient, at s's hook point, of t's
linear value) in the locally linear model (Ameisen et al. 2025; half rule at products of gate and up projection). A
feature writes activation × decoder row. An error node holds, at one position, all that the graph's features leave:
residual − b_dec − Σ activation × decoder row, features that were left out included. b_dec has no node, as in
circuit-tracer: what it brings to each target is in `Graph.bias`. At special tokens, which no dictionary is trained on,
there are no features and the error node holds the whole residual. Targets are encoder column · residual (without the
constants b_enc and −b_dec · W_enc) and the logit minus the mean logit.

Selection in two phases, when more features fire than `max_features`: (1) features of all hook points are ranked by
|activation × decoder row · gradient of the logits| without cuts, weighted by probability; this gives each hook point
its number of nodes. (2) From the logits downward, each hook point keeps that many features with the largest influence
through the graph itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from auditor.analysis.circuits.assemble import Label, assemble
from auditor.analysis.circuits.graph import Graph
from auditor.analysis.circuits.linear import as_sample, in_depth_order, trace, unembedding
from auditor.analysis.circuits.tracing import Candidates, Outputs, Tracer, active_features, features_of_each_hook
from auditor.base.config import Config, field
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data.sample import Sample
from auditor.models import Model
from auditor.models.inputs import Inputs
from auditor.models.tokens import following
from auditor.sae import Sae


class AttributeConfig(Config):
    """How a prompt is traced."""

    max_features: int = field(1500, title="Feature nodes", help="At most this many; the rest goes into errors.", ge=1)
    max_logits: int = field(
        10, title="Output tokens", help="At most this many of the most probable ones.", ge=1, le=100
    )
    logit_mass: float = field(0.95, title="Output probability", help="Stop once they hold this much.", ge=0.0, le=1.0)
    targets: tuple[str, ...] = field((), title="Tokens to explain", help="Instead of the most probable ones.")
    position: int = field(-1, title="Position to explain", help="Whose next token; −1 is the last.", unit="tokens")
    batch_size: int = field(64, title="Targets at once", help="Rows of one backward pass.", ge=1, advanced=True)


def attribute(
    model: Model,
    dictionaries: Mapping[str, Sae] | Sequence[Sae],
    prompt: str | Sample,
    config: AttributeConfig | None = None,
    reporter: Reporter | None = None,
    labels: Label | None = None,
) -> Graph:
    """The attribution graph of a prompt. `labels(hook, feature)` names features; image positions become patch nodes.

    AuditorError for an empty prompt, a model without next-token logits or a linearised form, and dictionaries that
    are not of this model's residual stream.
    """
    config, reporter = config or AttributeConfig(), reporter or Reporter()
    saes = in_depth_order(model, dictionaries)
    unembed = unembedding(model)
    run = trace(model, list(saes), prompt)
    position = _position(config.position, run.inputs.mask.shape[1])
    outputs = _outputs(model, run.top.detach()[0, position], unembed, config)
    fired = [active_features(run, level, sae, position) for level, sae in enumerate(saes.values(), start=1)]
    budget = features_of_each_hook(run, fired, outputs, position, config.max_features)
    reporter.started("Tracing the circuit", sum(budget) + len(outputs.ids), "targets")
    tracer = Tracer(run, fired, budget, outputs, position, config.batch_size, reporter)
    incoming = tracer.downward()
    facts = _facts(model, saes, prompt, config, position, run.inputs, fired, tracer.kept)
    return assemble(model, run, tracer, incoming, outputs, position, facts, labels)


def _seen(model: Model, sample: Sample) -> list[float] | None:
    """The part of the image under the grid, in shares of its height and width: top, left, bottom, right."""
    if sample.image is None:
        return None
    height, width = sample.image.load().shape[:2]
    return [at / (height, width)[way % 2] for way, at in enumerate(model.seen(height, width))]


def _panels(inputs: Inputs) -> dict[str, Any]:
    """Where on the grid the parts lie in which the image is read, if there are several: of each the first row and
    column, and how many of both."""
    sheet = inputs.sheets[0] if inputs.sheets else None
    if sheet is None or len(sheet.panels) == 1:
        return {}
    return {"panels": [[panel.top, panel.left, panel.rows, panel.columns] for panel in sheet.panels]}


def _position(position: int, length: int) -> int:
    if not -length <= position < length:
        raise AuditorError(f"Position {position} is not in a prompt of {length} positions.", "Choose one of them.")
    return position % length


def _outputs(model: Model, top: Tensor, unembed: Tensor, config: AttributeConfig) -> Outputs:
    """The tokens asked for, or the most probable ones up to a number and a mass."""
    logits = top @ unembed
    probs = model.readout(top).softmax(-1)
    if config.targets:
        ids = [_token_id(model, text) for text in config.targets]
    else:
        best = probs.topk(min(config.max_logits, len(probs)))
        held = best.values.cumsum(0)
        n = int((held < config.logit_mass).sum()) + 1
        ids = best.indices[:n].tolist()
    centred = unembed[:, ids] - unembed.mean(1, keepdim=True)
    values = (logits[ids] - logits.mean()).tolist()
    return Outputs(ids, probs[ids].tolist(), values, centred.T.contiguous())


def _token_id(model: Model, text: str) -> int:
    ids = following(model.tokenizer, text) if model.tokenizer is not None else []
    if len(ids) != 1:
        raise AuditorError(
            f"“{text}” is {len(ids)} tokens in this model, not one.", "Name one token, with its leading space."
        )
    return int(ids[0])


def _facts(
    model: Model,
    saes: dict[str, Sae],
    prompt: str | Sample,
    config: AttributeConfig,
    position: int,
    inputs: Inputs,
    fired: list[Candidates],
    kept: list[Candidates],
) -> dict[str, Any]:
    """What the graph was made from, so that it can be made again."""
    sample = as_sample(prompt)
    return {
        "model": {"name": model.name, "digest": model.digest, "n_layers": model.n_layers},
        "dictionaries": {hook: sae.digest for hook, sae in saes.items()},
        "hooks": list(saes),
        "sample": {"id": sample.id, "digest": sample.digest},
        "config": config.model_dump(mode="json"),
        "position": position,
        "grid": None if inputs.grid is None else list(inputs.grid),
        "seen": _seen(model, sample),
        **_panels(inputs),
        "fired": {hook: len(c.feature) for hook, c in zip(saes, fired, strict=True)},
        "kept": {hook: torch.stack([c.position, c.feature], 1).tolist() for hook, c in zip(saes, kept, strict=True)},
    }
