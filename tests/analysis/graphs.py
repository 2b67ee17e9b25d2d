"""Random layered graphs for tests."""

from __future__ import annotations

import numpy as np

from auditor.analysis.circuits.graph import Graph, Node


def random_graph(seed=0, positions=4, hooks=3, per_cell=3, logits=3, sparsity=0.3):
    """Embeddings, `hooks` layers of features and errors, logits; each node fed by the layer right below it."""
    generator = np.random.default_rng(seed)
    words = [f" t{p}" for p in range(positions)]
    nodes = [Node(f"token/{p}", "token", 0, p, activation=1.0, token=t, token_id=p + 7) for p, t in enumerate(words)]
    for layer in range(1, hooks + 1):
        hook = f"blocks.{layer * 7}.resid_post"
        for p in range(positions):
            ids = generator.choice(1000, size=per_cell, replace=False)
            for f in sorted(int(i) for i in ids):
                size = float(generator.exponential() + 0.1)
                nodes.append(Node(f"{hook}/{p}/{f}", "feature", layer, p, f, size, f"label {f}", f" t{p}", hook=hook))
            nodes.append(Node(f"{hook}/{p}/error", "error", layer, p, activation=1.0, token=f" t{p}", hook=hook))
    probs = generator.dirichlet(np.ones(logits)) * 0.9
    for i in range(logits):
        last, top, prob = positions - 1, hooks + 1, float(probs[i])
        nodes.append(Node(f"logit/{last}/{i}", "logit", top, last, None, 2.0, "", f" out{i}", prob, token_id=i))
    layer = np.array([n.layer for n in nodes])
    position = np.array([n.position for n in nodes])
    allowed = (layer[:, None] == layer[None, :] + 1) & (position[:, None] >= position[None, :])
    allowed &= np.array([n.kind in ("feature", "logit") for n in nodes])[:, None]
    allowed &= generator.random(allowed.shape) > sparsity
    adjacency = np.where(allowed, generator.standard_normal(allowed.shape), 0).astype(np.float32)
    bias = np.where(adjacency.any(1), generator.standard_normal(len(nodes)), 0).astype(np.float32)
    value = adjacency.sum(1) + bias
    hook_points = [f"blocks.{k * 7}.resid_post" for k in range(1, hooks + 1)]
    meta = {"model": {"name": "random", "n_layers": 30}, "hooks": hook_points}
    return Graph(nodes, adjacency, "".join(words), words, value, bias, meta)
