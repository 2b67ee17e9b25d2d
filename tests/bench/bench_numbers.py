"""What storing activations in each number format costs: bytes a number, and FVU on a real model's real activations.

int8 is shown three ways: as stores have it, with steps for each dimension that grow with the number; with even steps
for each dimension, over a quarter more than the range that was measured; and with a scale for each row. The FVU of all
dimensions but the eight largest tells what the figure over all hides.
Attention sinks and other special rows are left out, as they are when a store's scales are measured.

    auditor bench numbers [--model build/models/smollm2-135m] [--hook blocks.14.resid_post] [--texts 64]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from auditor.base.paths import root
from auditor.data import open_samples
from auditor.models import open_model
from auditor.store.capture import capture, encode
from auditor.store.convert import Numbers, scale_of
from auditor.store.layout import KINDS, RAW, Scale
from auditor.store.recipe import RecordConfig

LARGE = 8


def activations(model_path: Path, hook: str, texts: int) -> np.ndarray:
    """Rows [n, width] of ordinary positions."""
    model = open_model(model_path)
    samples = open_samples(str(root() / "sample_data" / "texts"))
    config = RecordConfig(model="", samples="", context=128)
    rows = []
    for start in range(0, min(texts, len(samples)), 16):
        chosen = [samples[number] for number in range(start, min(start + 16, len(samples)))]
        captured = capture(model, encode(model, chosen, config), [hook], config)
        rows.append(captured.rows[hook][captured.at[""].kind != KINDS["special"]])
    return np.concatenate(rows)


def fvu(rows: np.ndarray, kept: np.ndarray, dimensions: np.ndarray | slice = slice(None)) -> float:
    """Fraction of the variance of some dimensions that is lost."""
    held = np.square(rows[:, dimensions] - rows[:, dimensions].mean(0), dtype=np.float64).sum()
    return float(np.square((kept - rows)[:, dimensions], dtype=np.float64).sum() / held)


def stored(rows: np.ndarray, dtype: str, scale: Scale) -> np.ndarray:
    """`rows` as a store of `dtype` gives them back."""
    numbers = Numbers.of(dtype, [scale])
    return numbers.widened(numbers.narrowed(rows, str))


def one_scale_a_row(rows: np.ndarray) -> np.ndarray:
    """int8 with the step that the largest number of each row needs."""
    step = np.abs(rows).max(axis=1, keepdims=True) / 127
    return np.round(rows / step) * step


def even_steps(rows: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """int8 with even steps for each dimension."""
    low, high = measured.min(axis=0), measured.max(axis=0)
    step, zero = (high - low) * 1.25 / 254, (high + low) / 2
    return zero + step * np.clip(np.round((rows - zero) / step), -127, 127)


def compared(rows: np.ndarray) -> list[tuple[str, float, float]]:
    """Name, FVU over all dimensions, FVU over all but the largest. Scales are measured on every other row, and the
    figures are of the rest."""
    measured, rows = rows[::2], rows[1::2]
    small, scale = np.argsort(rows.var(axis=0))[:-LARGE], scale_of(measured)
    ways = {dtype: stored(rows, dtype, scale) for dtype in RAW}
    ways |= {"int8, a scale a row": one_scale_a_row(rows), "int8, even steps": even_steps(rows, measured)}
    return [(name, fvu(rows, kept), fvu(rows, kept, small)) for name, kept in ways.items()]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--model", type=Path, default=root() / "build" / "models" / "smollm2-135m")
    arguments.add_argument("--hook", action="append", help="may be given again")
    arguments.add_argument("--texts", type=int, default=64)
    asked = arguments.parse_args()
    for hook in asked.hook or ["blocks.1.resid_post", "blocks.14.resid_post", "blocks.28.resid_post"]:
        rows = activations(asked.model, hook, asked.texts)
        print(f"{asked.model.name} {hook}: {len(rows) // 2:,} rows of {rows.shape[1]} measured, as many compared")
        print(f"  {'':22} {'bytes':>5} {'FVU':>9} {f'all but the {LARGE} largest dimensions':>35}")
        for name, everything, small in compared(rows):
            size = np.dtype(RAW[name.split(",")[0]]).itemsize
            print(f"  {name:22} {size:5} {everything:9.1e} {small:35.1e}", flush=True)


if __name__ == "__main__":
    main()
