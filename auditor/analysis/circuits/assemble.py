"""From traced effects to a graph: its nodes in circuit-tracer's order and its edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditor.analysis.circuits.graph import Graph, Node
from auditor.analysis.circuits.linear import Trace, as_sample
from auditor.analysis.circuits.tracing import Candidates, Incoming, Outputs, Tracer
from auditor.data.sample import PositionKind
from auditor.models import Model
from auditor.models.inputs import Inputs

Label = Callable[[str, int], str]


def assemble(
    model: Model,
    run: Trace,
    tracer: Tracer,
    incoming: list[Incoming],
    outputs: Outputs,
    position: int,
    facts: dict[str, Any],
    labels: Label | None,
) -> Graph:
    """Nodes in circuit-tracer's order (features, errors, embeddings, logits) with their edges."""
    tokens = position_names(model, run.inputs)[: position + 1]
    features: list[Node] = []
    errors: list[Node] = []
    spans: list[int] = []
    for level, (hook, kept) in enumerate(zip(facts["hooks"], tracer.kept, strict=True), start=1):
        spans.append(len(features))
        features += _feature_nodes(level, hook, kept, tokens, labels)
        errors += _error_nodes(run, level, hook, kept, tokens)
    inputs = _input_nodes(run, tokens)
    logits = _logit_nodes(model, outputs, position, len(facts["hooks"]) + 1)
    nodes = [*features, *errors, *inputs, *logits]
    n, first_error, first_input = len(nodes), len(features), len(features) + len(errors)
    adjacency = np.zeros((n, n), dtype=np.float32)
    value, bias = np.zeros(n, dtype=np.float32), np.zeros(n, dtype=np.float32)
    spans += [len(features)]
    for level, effects in enumerate(incoming):  # sources at cut `level`, targets right above it
        last = level == len(tracer.kept)
        rows = slice(n - len(logits), n) if last else slice(spans[level], spans[level + 1])
        bias[rows] = effects.bias.cpu().numpy()
        if level == 0:
            adjacency[rows, first_input : first_input + len(inputs)] = effects.rest.cpu().numpy()
        else:
            adjacency[rows, spans[level - 1] : spans[level]] = effects.features.cpu().numpy()
            at = first_error + (level - 1) * len(tokens)
            adjacency[rows, at : at + len(tokens)] = effects.rest.cpu().numpy()
        if last:
            value[rows] = outputs.values
        else:
            kept = tracer.kept[level]
            x = run.rows(level + 1)[kept.position]
            value[rows] = (x * kept.sae.W_enc.T[kept.feature]).sum(1).cpu().numpy()
    text = as_sample(run.inputs.samples[0]).text or ""
    return Graph(nodes, adjacency, text, tokens, value, bias, facts)


def _feature_nodes(level: int, hook: str, kept: Candidates, tokens: list[str], labels: Label | None) -> list[Node]:
    return [
        Node(
            id=f"{hook}/{p}/{f}",
            kind="feature",
            layer=level,
            position=p,
            feature=f,
            activation=a,
            label=labels(hook, f) if labels else "",
            token=tokens[p],
            hook=hook,
        )
        for p, f, a in zip(kept.position.tolist(), kept.feature.tolist(), kept.activation.tolist(), strict=True)
    ]


def error_vectors(x: Tensor, described: Tensor, kept: Candidates) -> Tensor:
    """What the kept features leave of residual rows x [P, width]; `described` [P]: positions where b_dec counts."""
    error = x.clone()
    error[described] -= kept.sae.b_dec
    return error.index_add(0, kept.position, kept.writes(torch.arange(len(kept.feature), device=x.device)), alpha=-1)


def _error_nodes(run: Trace, level: int, hook: str, kept: Candidates, tokens: list[str]) -> list[Node]:
    x = run.rows(level)[: len(tokens)]
    sizes = error_vectors(x, run.described[: len(x)], kept).norm(dim=1).tolist()
    return [
        Node(f"{hook}/{p}/error", "error", level, p, activation=size, token=tokens[p], hook=hook)
        for p, size in enumerate(sizes)
    ]


def _input_nodes(run: Trace, tokens: list[str]) -> list[Node]:
    sizes = run.rows(0).norm(dim=1).tolist()
    kinds, units, ids = (t[0].tolist() for t in (run.inputs.kind, run.inputs.unit, run.inputs.ids))
    nodes = []
    for p, token in enumerate(tokens):
        if kinds[p] == int(PositionKind.IMAGE) and run.inputs.grid is not None:
            cell = divmod(units[p], run.inputs.grid[1])
            nodes.append(Node(f"patch/{p}", "patch", 0, p, activation=sizes[p], token=token, cell=cell))
        else:
            nodes.append(Node(f"token/{p}", "token", 0, p, activation=sizes[p], token=token, token_id=ids[p]))
    return nodes


def _logit_nodes(model: Model, outputs: Outputs, position: int, layer: int) -> list[Node]:
    names = model.token_strings(outputs.ids)
    return [
        Node(f"logit/{position}/{i}", "logit", layer, position, None, v, "", name, prob, token_id=i)
        for i, prob, v, name in zip(outputs.ids, outputs.probs, outputs.values, names, strict=True)
    ]


def position_names(model: Model, inputs: Inputs) -> list[str]:
    """What stands at each position of a one-sample batch: its token, or its place in the image."""
    ids, kinds, units = (t[0].tolist() for t in (inputs.ids, inputs.kind, inputs.unit))
    known = iter(model.token_strings([i for i in ids if i >= 0]))
    names = []
    for i, kind, unit in zip(ids, kinds, units, strict=True):
        if kind == int(PositionKind.IMAGE) and inputs.grid is not None:
            row, column = divmod(unit, inputs.grid[1])
            names.append(f"[{row},{column}]")
        else:
            names.append(next(known) if i >= 0 else "")
    return names
