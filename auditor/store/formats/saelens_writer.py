"""A hook point's rows as SAELens caches activations: the folder that `auditor.store.formats.saelens` reads.

Sequences there are all of one length. Samples of one length are its sequences. Others are written one after the other
and cut at every 128th row, as SAELens joins and cuts texts itself; what is left at the end is counted. Hook points get
TransformerLens' names, numbers are float32, as they are there unless something else is asked for.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.base.errors import AuditorError
from auditor.base.files import partial
from auditor.base.reporter import Reporter
from auditor.store.export import check_room
from auditor.store.layout import COLUMNS
from auditor.store.reader import Store

if TYPE_CHECKING:
    import pyarrow as pa

FILE_BYTES = 500_000_000
CONTEXT = 128  # what SAELens cuts texts at where nobody says it
_PIECE_BYTES = 16 << 20
_NAMES = (
    (r"blocks\.(\d+)\.(resid_pre|resid_mid|resid_post|attn_out|mlp_out)", r"blocks.\1.hook_\2"),
    (r"blocks\.(\d+)\.mlp_hidden", r"blocks.\1.mlp.hook_post"),
    (r"blocks\.(\d+)\.(q|k|v|z)", r"blocks.\1.attn.hook_\2"),
    (r"embed", "hook_embed"),
    (r"final_norm", "ln_final.hook_normalized"),
)


def write_cache(store: Store, hook: str | None, folder: Path, reporter: Reporter | None = None) -> dict[str, int]:
    """Write the rows of `hook` into the new folder; counts of sequences, positions in each, and rows left out.

    The folder appears whole or not at all. AuditorError where there is no room.
    """
    reporter, name = reporter or Reporter(), store.hook(hook)
    held = store.at(name)
    numbers, context, left_out = _sequences(held)
    width = held.hook_points[name]
    check_room(folder, 4 * len(numbers) * context * (width + 2))
    with partial(folder) as unfinished:
        unfinished.mkdir()
        reporter.started(f"Export {name} of {store.name}", len(numbers), "sequences")
        tokens = _write(held, name, numbers, context, unfinished, reporter)
        described: dict[str, Any] = {_told(name): {"shape": [context, width], "dtype": "float32", "_type": "Array2D"}}
        if tokens:
            ids = {"feature": {"dtype": "int32", "_type": "Value"}, "length": context, "_type": "Sequence"}
            described["token_ids"] = ids
        info = {"citation": "", "description": "", "features": described, "homepage": "", "license": ""}
        (unfinished / "dataset_info.json").write_text(json.dumps(info, indent=2), encoding="utf-8")
        state: dict[str, Any] = {
            "_data_files": [{"filename": path.name} for path in sorted(unfinished.glob("*.arrow"))],
            "_fingerprint": store.digest[:16], "_format_columns": None, "_format_kwargs": {}, "_format_type": None,
            "_output_all_columns": False, "_split": None,
        }  # fmt: skip
        (unfinished / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
    return {"sequences": len(numbers), "context": context, "rows_left_out": left_out}


def _sequences(store: Store) -> tuple[np.ndarray, int, int]:
    """First rows of the sequences, their length, and how many rows do not fill one."""
    lengths = np.unique(_column(store, "sample"), return_counts=True)[1]
    if not len(lengths):
        raise AuditorError(f"The store “{store.name}” has no rows.", "Choose another store.")
    context = int(lengths[0]) if (lengths == lengths[0]).all() else min(CONTEXT, store.n_rows)
    return np.arange(store.n_rows // context) * context, context, store.n_rows % context


def _write(store: Store, hook: str, starts: np.ndarray, context: int, folder: Path, reporter: Reporter) -> bool:
    """The Arrow files; whether they have token ids."""
    import pyarrow as pa

    width = store.hook_points[hook]
    tokens = bool((_column(store, "token") >= 0).all())
    schema = _schema(_told(hook), context, width, tokens)
    per_file = max(1, FILE_BYTES // (4 * context * width))
    per_piece = max(1, _PIECE_BYTES // (4 * context * width))
    files = -(-len(starts) // per_file)
    for file in range(files):
        path = folder / f"data-{file:05d}-of-{files:05d}.arrow"
        last = min(len(starts), (file + 1) * per_file)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for first in range(file * per_file, last, per_piece):
                some = starts[first : min(last, first + per_piece)]
                rows = (some[:, None] + np.arange(context)).reshape(-1)
                held = pa.array(store.rows(rows, hook).reshape(-1))
                inner = pa.ListArray.from_arrays(_offsets(len(rows), width), held)
                columns = [pa.ListArray.from_arrays(_offsets(len(some), context), inner)]
                if tokens:
                    ids = pa.array(store.positions(rows).token.astype(np.int32))
                    columns.append(pa.FixedSizeListArray.from_arrays(ids, context))
                writer.write_batch(pa.record_batch(columns, schema=schema))
                reporter.step(first + len(some), len(starts), unit="sequences")
    return tokens


def _schema(hook: str, context: int, width: int, tokens: bool) -> pa.Schema:
    """What `datasets` writes for a matrix of fixed shape: nested lists under the name of a type of its own."""
    import pyarrow as pa

    kind = {
        "ARROW:extension:name": "datasets.features.features.Array2DExtensionType",
        "ARROW:extension:metadata": json.dumps([[context, width], "float32"]),
    }
    fields = [pa.field(hook, pa.list_(pa.list_(pa.float32())), metadata=kind)]
    if tokens:
        fields.append(pa.field("token_ids", pa.list_(pa.int32(), context)))
    return pa.schema(fields)


def _offsets(count: int, each: int) -> pa.Array:
    import pyarrow as pa

    return pa.array(np.arange(count + 1, dtype=np.int32) * each)


def _column(store: Store, name: str) -> np.ndarray:
    out = np.empty(store.n_rows, COLUMNS[name])
    store.fill(name, [(0, store.n_rows)], out)
    return out


def _told(hook: str) -> str:
    """TransformerLens' name of a hook point; its own where that has none."""
    for ours, theirs in _NAMES:
        if match := re.fullmatch(ours, hook):
            return match.expand(theirs)
    return hook
