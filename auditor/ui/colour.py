"""Arithmetic of colour without Qt: contrast ratios and perceptually even colour maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

STEPS = 256

_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def rgb(colour: str) -> tuple[int, int, int]:
    """`#RRGGBB` as three bytes."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def luminance(colour: Sequence[float] | NDArray[np.uint8]) -> float:
    """Relative luminance of sRGB bytes (WCAG 2.2), 0 to 1."""
    linear = _linear(np.asarray(colour[:3], dtype=np.float64))
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def contrast(one: Sequence[float] | NDArray[np.uint8], other: Sequence[float] | NDArray[np.uint8]) -> float:
    """Contrast ratio of two sRGB colours (WCAG 2.2), 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def oklab(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """sRGB bytes [n, 3] as OKLab [n, 3] (Ottosson 2020)."""
    lab: NDArray[np.float64] = np.cbrt(_linear(colours) @ _TO_LMS.T) @ _TO_LAB.T
    return lab


def ramp(stops: Sequence[str], steps: int = STEPS) -> NDArray[np.uint8]:
    """A colour map uint8 [steps, 4] through `stops`, each step the same OKLab distance from the last."""
    marks = oklab(np.array([rgb(stop) for stop in stops], dtype=np.float64))
    along = np.linspace(0, len(stops) - 1, 64 * len(stops) + 1)
    path = np.stack([np.interp(along, np.arange(len(stops)), marks[:, i]) for i in range(3)], axis=1)
    travelled = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    wanted = np.linspace(0, travelled[-1], steps)
    even = np.stack([np.interp(wanted, travelled, path[:, i]) for i in range(3)], axis=1)
    return _bytes(even)


def two_sided(stops: Sequence[str], steps: int = STEPS) -> NDArray[np.uint8]:
    """A diverging map uint8 [steps, 4]: negative, middle, positive; the middle sits exactly at half."""
    negative, middle, positive = stops
    half = steps // 2
    return np.concatenate([ramp([middle, negative], half)[::-1], ramp([middle, positive], steps - half)])


def _linear(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    part = colours / 255.0
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def _bytes(lab: NDArray[np.float64]) -> NDArray[np.uint8]:
    linear = (lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_LMS).T
    linear = np.clip(linear, 0, 1)
    srgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    out = np.full((len(lab), 4), 255, dtype=np.uint8)
    out[:, :3] = np.round(srgb * 255)
    return out
