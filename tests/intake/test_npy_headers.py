"""Headers of .npy files, which numpy reads as Python reads a literal: whatever stands in one gets a sentence."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from auditor.base.errors import AuditorError
from auditor.intake.arrays import open_arrays
from auditor.intake.npz import read_npy


@pytest.mark.parametrize("read", [read_npy, open_arrays])
@pytest.mark.parametrize(
    "header",
    ["-" * 9000 + "1", "~" * 900 + "1", "1+" * 3000 + "1", "[" * 180 + "]" * 180, "{", "",
     "{'descr': '|O', 'fortran_order': False, 'shape': (0,)}", "{'descr': 'V0', 'fortran_order': False, 'shape': (0,)}",
     "{'descr': '<f4', 'fortran_order': False, 'shape': (0, -1)}",
     "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999999, 0)}"],
)  # fmt: skip
def test_that_a_strange_header_is_told_in_a_sentence(
    tmp_path: Path, read: Callable[[Path], object], header: str
) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
    with pytest.raises(AuditorError, match=r"“a\.npy”"):
        read(path)
