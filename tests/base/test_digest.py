"""Digests: equal things give equal digests, and nothing else does."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.base.digest import canonical_json, digest_files, digest_folder, digest_json, sha256_file

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(), x, max_size=4),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), JSON, min_size=2, max_size=4))
def test_that_the_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    turned = dict(reversed(value.items()))
    assert canonical_json(value) == canonical_json(turned) and digest_json(value) == digest_json(turned)


def test_that_nan_has_no_canonical_form() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json({"x": float("nan")})


def test_that_a_folder_s_digest_follows_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"2")
    first = digest_folder(tmp_path)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"1").hexdigest()
    (tmp_path / "sub" / "b").rename(tmp_path / "sub" / "c")
    renamed = digest_folder(tmp_path)
    (tmp_path / "sub" / "c").write_bytes(b"3")
    assert len({first, renamed, digest_folder(tmp_path)}) == 3


def test_that_every_file_of_a_folder_has_its_own_digest(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b", "sub/a"):
        (tmp_path / name).write_text(name)
    assert digest_files(tmp_path) == {"b": sha256_file(tmp_path / "b"), "sub/a": sha256_file(tmp_path / "sub" / "a")}
    assert digest_files(tmp_path / "b") == {"b": sha256_file(tmp_path / "b")}
