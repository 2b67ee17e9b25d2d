"""The `*.graph.json.gz` file: gzipped canonical JSON whose edges are little-endian arrays in base64.

Keys: format "auditor.graph", version 1, prompt, tokens, meta, nodes (list of objects with `Node`'s fields), edges
{targets, sources: int32; weights: float32}, value and bias: float32. The same graph gives the same bytes.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.analysis.circuits.graph import NODE_KINDS, Graph, Node
from auditor.base.digest import canonical_json
from auditor.base.errors import AuditorError
from auditor.base.files import write_atomic

MOST_BYTES = 1 << 30
MOST_NODES = 20_000
_MOST_CELLS = 1 << 24
_FIELDS = {field.name for field in fields(Node)}


def write_graph(graph: Graph, path: Path | str) -> Path:
    """Write the graph; the name must end in `.json.gz`."""
    target = Path(path)
    if not target.name.endswith(".json.gz"):
        raise AuditorError(f"“{target.name}” is not a graph's name.", "Let the name end in .graph.json.gz.")
    write_atomic(target, graph_bytes(graph))
    return target


def graph_bytes(graph: Graph) -> bytes:
    """The file's bytes."""
    targets, sources = np.nonzero(graph.adjacency)
    content = {
        "format": "auditor.graph",
        "version": 1,
        "prompt": graph.prompt,
        "tokens": graph.tokens,
        "meta": graph.meta,
        "nodes": [asdict(node) for node in graph.nodes],
        "edges": {
            "targets": _packed(targets, "<i4"),
            "sources": _packed(sources, "<i4"),
            "weights": _packed(graph.adjacency[targets, sources], "<f4"),
        },
        "value": _packed(graph.value, "<f4"),
        "bias": _packed(graph.bias, "<f4"),
    }
    return gzip.compress(canonical_json(content), compresslevel=6, mtime=0)


def read_graph(path: Path | str) -> Graph:
    """Read a graph file of any origin; AuditorError names what is wrong with it."""
    name = Path(path).name
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != "auditor.graph":
        raise AuditorError(f"“{name}” is not a graph of this program.", "Import other tools' graphs instead.")
    if content.get("version") != 1:
        raise AuditorError(f"“{name}” was written by a newer version.", "Open it with that version.")
    try:
        return _graph(content)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise AuditorError(f"The graph “{name}” is damaged: {error}.", "Trace the prompt again.") from None


def read_json(path: Path | str) -> Any:
    """JSON of a plain or gzipped file of at most 1 GiB; AuditorError otherwise."""
    name = Path(path).name
    try:
        with open(path, "rb") as file:
            head = file.read(2)
            file.seek(0)
            stream: io.IOBase = gzip.GzipFile(fileobj=file) if head == b"\x1f\x8b" else file
            data = stream.read(MOST_BYTES + 1)
    except (OSError, EOFError) as error:
        raise AuditorError(f"“{name}” could not be read: {error}.", "Choose a graph file.") from None
    except Exception as error:  # zlib.error has no public base class beside Exception
        raise AuditorError(f"“{name}” is not a whole gzip file: {error}.", "Copy it again.") from None
    if len(data) > MOST_BYTES:
        raise AuditorError(f"“{name}” unpacks to over 1 GiB.", "Prune the graph before it is saved.")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise AuditorError(f"“{name}” does not hold JSON.", "Choose a graph file.") from None


def check_size(n_nodes: int) -> None:
    """AuditorError for more nodes than fit in memory as a square matrix."""
    if n_nodes > MOST_NODES:
        raise AuditorError(f"The graph has {n_nodes} nodes; at most {MOST_NODES} are read.", "Prune it first.")


def check_nodes(nodes: Sequence[Node], n_tokens: int) -> None:
    """ValueError where two nodes have one name, or where they stand at more layers and tokens than can be drawn."""
    if len({node.id for node in nodes}) != len(nodes):
        raise ValueError("two nodes have the same type, layer, feature and position")
    layers = 1 + max((node.layer for node in nodes), default=0)
    if layers * max(n_tokens, 1) > _MOST_CELLS:
        raise ValueError(f"{layers:,} layers of {n_tokens:,} tokens are too many to draw")


def _graph(content: dict[str, Any]) -> Graph:
    check_size(len(content["nodes"]))
    tokens = [str(token) for token in content["tokens"]]
    nodes = [_node(item, len(tokens)) for item in content["nodes"]]
    check_nodes(nodes, len(tokens))
    n = len(nodes)
    targets, sources = (_unpacked(content["edges"][key], "<i4") for key in ("targets", "sources"))
    weights = _unpacked(content["edges"]["weights"], "<f4")
    for ends in (targets, sources):
        if len(ends) != len(weights) or (len(ends) and (ends.min() < 0 or ends.max() >= n)):
            raise ValueError("an edge names a node that is not there")
    value, bias = _unpacked(content["value"], "<f4"), _unpacked(content["bias"], "<f4")
    if not all(np.isfinite(array).all() for array in (weights, value, bias)):
        raise ValueError("a weight is not finite")
    adjacency = np.zeros((n, n), dtype=np.float32)
    adjacency[targets, sources] = weights
    return Graph(nodes, adjacency, str(content["prompt"]), tokens, value, bias, dict(content["meta"]))


def _node(item: dict[str, Any], n_tokens: int) -> Node:
    if set(item) != _FIELDS or item["kind"] not in NODE_KINDS:
        raise ValueError("a node has other fields than it should")
    for key, most in (("layer", _MOST_CELLS), ("position", n_tokens)):
        if type(item[key]) is not int or not 0 <= item[key] < most:
            raise ValueError(f"a node's {key} is not one that there is")
    for key in ("id", "label", "token", "hook"):
        if not isinstance(item[key], str):
            raise ValueError(f"a node's {key} is not a text")
    for key in ("activation", "prob", "feature", "token_id"):
        if not _fits(item[key], whole=key in ("feature", "token_id"), none=key != "activation"):
            raise ValueError(f"a node's {key} is not a number")
    cell = item["cell"]
    if cell is not None and (len(cell) != 2 or not all(type(side) is int for side in cell)):
        raise ValueError("a node's cell is not a row and a column")
    return Node(**{**item, "cell": None if cell is None else tuple(cell)})


def _fits(value: Any, *, whole: bool, none: bool) -> bool:
    if value is None:
        return none
    return type(value) is int or (not whole and type(value) is float and math.isfinite(value))


def _packed(array: NDArray[Any], dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype=dtype).tobytes()).decode("ascii")


def _unpacked(text: str, dtype: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype=dtype).astype(np.dtype(dtype).newbyteorder("="))
