"""Breaking nodes and edges of a graph in the real network, beside what the graph predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from auditor.analysis.circuits.graph import Graph, Node, top_nodes
from auditor.analysis.circuits.linear import as_sample, in_depth_order, trace, unembedding
from auditor.analysis.next_token import next_token_logits, top_tokens
from auditor.analysis.nulls import Estimate, bootstrap_interval, mean_estimate, null_p
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data.sample import Sample
from auditor.models import Model
from auditor.models.edits import Edit
from auditor.models.inputs import Inputs
from auditor.sae import Sae


@dataclass(frozen=True)
class NodeEffect:
    """What removing nodes (or an edge) does to the graph's outputs; changes of mean-centred logits, in nats.

    `predicted` is the graph's linear answer (error nodes stay as they are), `linear` that of the locally linear network
    without dictionaries in between (summed over the nodes of a set), `true` the network's own, with attention, norms
    and gates free to follow: predicted against linear shows what the dictionaries lose, linear against true what the
    linearisation loses. `before` and `after`: most probable next tokens. `kl`: KL divergence of
    the next-token distribution, clean from ablated.
    """

    nodes: list[str]
    outputs: list[str]
    predicted: list[float]
    linear: list[float]
    true: list[float]
    before: list[tuple[str, float]]
    after: list[tuple[str, float]]
    kl: float


@dataclass(frozen=True)
class Faithfulness:
    """Do the graph's strongest features matter, and as predicted? Each single-node ablation is one sample.

    `correlation`: of predicted and true logit changes over the nodes with most influence (bootstrap over nodes);
    `linear`: the same of the linear network's answer.
    `top` and `random`: mean KL of ablating one of them, or one drawn at random at the same layers; `p`: share of
    random nodes whose KL reaches the mean of the top ones.
    """

    correlation: Estimate
    linear: Estimate
    top: Estimate
    random: Estimate
    p: float
    effects: list[NodeEffect] = field(default_factory=list)


class _Break(Edit):
    """At one hook point, for each row of a batch: take away features' current writing, or vectors."""

    def __init__(self, hook: str, sae: Sae | None) -> None:
        super().__init__(hook)
        self.sae = sae
        self.features: list[tuple[int, int, int, float]] = []  # row, position, feature, how much less it is to be
        self.vectors: list[tuple[int, int, Tensor]] = []

    def apply(self, x: Tensor) -> Tensor:
        out = x.clone()
        for row, position, vector in self.vectors:
            out[row, position] -= vector.to(x)
        for row, position, feature, less in self.features:
            assert self.sae is not None
            now = float(self._active(x, row, position, feature))
            out[row, position] += (max(now - less, 0.0) - now) * self.sae.W_dec[feature].to(x)
        return out

    def _active(self, x: Tensor, row: int, position: int, feature: int) -> Tensor:
        assert self.sae is not None
        values, ids = self.sae.encode_sparse(x[row, position][None])
        return values[ids == feature].sum()


def ablate_node(
    model: Model,
    dictionaries: Mapping[str, Sae] | Sequence[Sae],
    prompt: str | Sample,
    graph: Graph,
    node_id: str | Sequence[str],
) -> NodeEffect:
    """Remove one node, or a set together, and run the network.

    A feature's activation goes to 0 at its position (whatever it then is), an error vector is subtracted, an
    embedding is put to zero. AuditorError for a logit, an unknown node or another prompt.
    """
    ids = [node_id] if isinstance(node_id, str) else list(node_id)
    return _ablated(_Scene(model, dictionaries, prompt, graph), [ids])[0]


def ablate_edge(
    model: Model,
    dictionaries: Mapping[str, Sae] | Sequence[Sae],
    prompt: str | Sample,
    graph: Graph,
    source: str,
    target: str,
) -> NodeEffect:
    """Take from a target feature what one source adds to it, leaving the source's other effects alone."""
    node, weight = graph.node(target), float(graph.adjacency[graph.row(target), graph.row(source)])
    if node.kind != "feature" or node.feature is None or node.activation <= 0:
        raise AuditorError("Only an edge into a feature can be cut by itself.", "Ablate the source node instead.")
    scene = _Scene(model, dictionaries, prompt, graph)
    edit = _Break(node.hook, scene.saes[node.hook])
    edit.features.append((0, node.position, node.feature, weight))
    # An activation does not fall below 0, so no more than all of it is taken in the prediction either.
    change = {target: -min(weight / node.activation, 1.0)}
    return scene.effect([f"{source} → {target}"], change, scene.logits(scene.inputs, [edit])[0])


def faithfulness(
    model: Model,
    dictionaries: Mapping[str, Sae] | Sequence[Sae],
    prompt: str | Sample,
    graph: Graph,
    n: int = 24,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Faithfulness:
    """Ablate the n features with most influence one by one, and as many drawn at random from the same layers."""
    reporter = reporter or Reporter()
    top = top_nodes(graph, n)
    if len(top) < 2:
        raise AuditorError("The graph has fewer than two features to ablate.", "Trace with more feature nodes.")
    generator = np.random.default_rng(seed)
    chosen, drawn = set(top), []
    for layer in [graph.node(i).layer for i in top]:
        pool = [x.id for x in graph.nodes if x.kind == "feature" and x.layer == layer and x.id not in chosen]
        if pool:
            drawn.append(pool[int(generator.integers(len(pool)))])
            chosen.add(drawn[-1])
    reporter.started("Ablating nodes", len(top) + len(drawn), "nodes")
    effects = _ablated(_Scene(model, dictionaries, prompt, graph), [[i] for i in [*top, *drawn]], reporter)
    strong, weak = effects[: len(top)], effects[len(top) :]
    predicted, linear, true = (np.array([getattr(e, name) for e in strong]) for name in ("predicted", "linear", "true"))
    kl, null = [e.kl for e in strong], [e.kl for e in weak]
    none = Estimate(0.0, (0.0, 0.0), 0, "nats")
    return Faithfulness(
        correlation=_correlation(predicted, true, seed),
        linear=_correlation(linear, true, seed),
        top=mean_estimate(kl, "nats", seed=seed),
        random=mean_estimate(null, "nats", seed=seed) if null else none,
        p=null_p(float(np.mean(kl)), null, two_sided=False),
        effects=effects,
    )


def _correlation(predicted: np.ndarray, true: np.ndarray, seed: int) -> Estimate:
    """Pearson correlation over (node, output) pairs, whole nodes resampled."""
    rows = np.arange(len(predicted), dtype=np.float64)

    def figure(drawn: np.ndarray, axis: int) -> np.ndarray:
        at = drawn.astype(np.int64)
        a, b = (m[at].reshape(len(at), -1) for m in (predicted, true))
        a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
        return np.asarray((a * b).sum(1) / np.maximum(np.sqrt((a**2).sum(1) * (b**2).sum(1)), 1e-30))

    estimate = float(figure(rows[None], 1)[0])
    return Estimate(estimate, bootstrap_interval(rows, statistic=figure, draws=1000, seed=seed), len(rows))


class _Scene:
    """One prompt ready to be broken: clean logits, and the vector and linear effect of each node."""

    def __init__(
        self, model: Model, dictionaries: Mapping[str, Sae] | Sequence[Sae], prompt: str | Sample, graph: Graph
    ) -> None:
        sample = as_sample(prompt)
        if "position" not in graph.meta:
            raise AuditorError("An imported graph cannot be re-run.", "Trace the prompt with this program.")
        if sample.digest != graph.meta["sample"]["digest"]:
            raise AuditorError("The graph was traced from another prompt.", "Give the prompt that the graph shows.")
        self.saes = in_depth_order(model, dictionaries)
        missing = [hook for hook in graph.meta["hooks"] if hook not in self.saes]
        if missing:
            raise AuditorError(f"The dictionary of “{missing[0]}” is missing.", "Give the dictionaries of the trace.")
        self.model, self.graph, self.position = model, graph, int(graph.meta["position"])
        self.outputs = [node for node in graph.nodes if node.kind == "logit"]
        run = trace(model, graph.meta["hooks"], sample)
        unembed = unembedding(model)
        directions = unembed[:, [n.token_id for n in self.outputs]] - unembed.mean(1, keepdim=True)
        self.gradients = run.uncut(self.position, directions.T.contiguous())
        self.rows = [run.rows(level) for level in range(len(run.cuts))]
        self.inputs, self.described = run.inputs, run.described
        self.clean = self.logits(self.inputs, [])[0]

    def logits(self, inputs: Inputs, edits: Sequence[Edit]) -> Tensor:
        """Next-token logits [B, vocabulary] at the graph's position."""
        return next_token_logits(self.model, inputs, edits, [self.position])[0][:, 0]

    def writes(self, node: Node) -> Tensor:
        """The vector [width] of a node in the clean run."""
        if node.kind == "logit":
            raise AuditorError("A logit is an outcome and cannot be ablated.", "Choose a feature, an error or a token.")
        x = self.rows[node.layer][node.position]
        if node.kind == "feature" and node.feature is not None:
            return node.activation * self.saes[node.hook].W_dec[node.feature]
        if node.kind in ("token", "patch"):
            return x
        sae = self.saes[node.hook]
        traced = [f for p, f in self.graph.meta["kept"][node.hook] if p == node.position]
        values, found = sae.encode_sparse(x[None])
        used = values * torch.isin(found, torch.tensor(traced, dtype=torch.int64, device=x.device))
        constant = sae.b_dec if bool(self.described[node.position]) else torch.zeros_like(x)
        return x - constant - (sae.decode_sparse(used, found)[0] - sae.b_dec)

    def effect(self, ids: list[str], change: dict[str, float], ablated: Tensor) -> NodeEffect:
        """The result for nodes whose shares `change`, from logits [vocabulary] of the edited run."""
        clean, tokens = self.clean, [node.token_id for node in self.outputs]
        log_clean, log_ablated = clean.log_softmax(-1), ablated.log_softmax(-1)
        linear = torch.zeros(len(tokens), device=clean.device)
        for node_id, share in change.items():
            node = self.graph.node(node_id)
            linear += share * (self.gradients[node.layer][:, node.position] @ self.writes(node))
        return NodeEffect(
            nodes=ids,
            outputs=[node.token for node in self.outputs],
            predicted=self.graph.response(change)[self.graph.mask("logit")].tolist(),
            linear=linear.tolist(),
            true=(ablated - ablated.mean() - clean + clean.mean())[tokens].tolist(),
            before=top_tokens(self.model, clean),
            after=top_tokens(self.model, ablated),
            kl=float((log_clean.exp() * (log_clean - log_ablated)).sum().clamp(min=0)),
        )


def _ablated(scene: _Scene, sets: list[list[str]], reporter: Reporter | None = None) -> list[NodeEffect]:
    """Each set removed in its own row of a batch."""
    effects: list[NodeEffect] = []
    at_once = max(1, 1024 // scene.inputs.mask.shape[1])
    for start in range(0, len(sets), at_once):
        part = sets[start : start + at_once]
        edits: dict[str, _Break] = {}
        for row, ids in enumerate(part):
            for node in map(scene.graph.node, ids):
                hook = node.hook or "embed"
                edit = edits.setdefault(hook, _Break(hook, scene.saes.get(hook)))
                if node.kind == "feature" and node.feature is not None:
                    edit.features.append((row, node.position, node.feature, float("inf")))
                else:
                    edit.vectors.append((row, node.position, scene.writes(node)))
        logits = scene.logits(scene.model.copies(scene.inputs, len(part)), list(edits.values()))
        for ids, ablated in zip(part, logits, strict=True):
            effects.append(scene.effect(ids, dict.fromkeys(ids, -1.0), ablated))
        if reporter:
            reporter.step(len(effects), len(sets), unit="nodes")
    return effects
