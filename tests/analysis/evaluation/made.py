"""Made representations whose truth is known: rows written by planted features, and what reads them."""

from __future__ import annotations

import numpy as np

from auditor.analysis.evaluation.figures import CONTROL, DICTIONARY, Figure
from auditor.analysis.evaluation.labelled import Classes
from auditor.analysis.evaluation.pooled import Pooled, Representation


def represented(name: str, codes: np.ndarray, directions: np.ndarray, base: np.ndarray | None = None) -> Representation:
    """Features with these activations and directions."""
    m, d = directions.shape
    zero = np.zeros(d, np.float32) if base is None else base.astype(np.float32)
    return Representation(
        name, codes.astype(np.float32), directions.astype(np.float32), np.zeros(m, np.float32), zero, np.arange(m)
    )


def orthonormal(m: int, d: int, seed: int) -> np.ndarray:
    """m orthonormal directions of d dimensions."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, m)))[0].T


def pooled(codes: np.ndarray, directions: np.ndarray, noise: float = 0.0, seed: int = 0) -> Pooled:
    """Rows that are what these features write, with noise; beside them random directions that fire as much."""
    rng = np.random.default_rng(seed + 100)
    x = codes @ directions + noise * rng.standard_normal((len(codes), directions.shape[1]))
    drawn = rng.standard_normal(directions.shape)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    control = np.maximum((x - x.mean(0)) @ drawn.T, 0)
    return Pooled(
        x.astype(np.float32), represented(DICTIONARY, codes, directions),
        represented(CONTROL, control, drawn, x.mean(0)),
    )  # fmt: skip


def classes(of: np.ndarray, label: str = "kind") -> Classes:
    """Samples of these classes, each a group of its own."""
    names = tuple(f"class {at}" for at in range(int(of.max()) + 1))
    return Classes(label, names, np.arange(len(of)), of, tuple(str(at) for at in range(len(of))))


def one(figures: list[Figure], name: str, of: str) -> Figure:
    """The figure of that name of that contestant."""
    (found,) = [figure for figure in figures if (figure.name, figure.of) == (name, of)]
    return found
