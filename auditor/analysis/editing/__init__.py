"""Edits as plain values that experiments, the command line, the window and run records name, and what they do.

A spec is one edit as a form, a line of text or a table of TOML or JSON; built in a `Scene` it is an edit of
`auditor.models.edits`. Listing and reading specs loads no engine.
"""

from __future__ import annotations

from auditor.analysis.editing.lines import is_list, parse_edit, read_edits, written
from auditor.analysis.editing.spec import KINDS, EditSpec

__all__ = ["KINDS", "EditSpec", "is_list", "parse_edit", "read_edits", "written"]
