"""Every icon that the window names is shipped, with its licence."""

from __future__ import annotations

import re
from pathlib import Path

import auditor.ui
from auditor.base.paths import resources

_NAMED = re.compile(
    r"""(?:(?<!title,\ )icon\s*=\s*
      | id,\ title,\ icon\ =\ "[^"]+",\ "[^"]+",\ 
      | set_icon\([^,()]+,\s*
      | pixmap\(\s*
      | \btool\(\s*)"([a-z0-9-]+)\"""",
    re.VERBOSE,
)


def test_that_every_icon_named_in_the_window_is_shipped_with_its_licence() -> None:
    folder = Path(auditor.ui.__file__).parent
    named = {name for file in folder.rglob("*.py") for name in _NAMED.findall(file.read_text("utf-8"))}
    assert len(named) > 20
    shipped = {path.stem for path in (resources() / "icons").glob("*.svg")}
    assert named <= shipped, f"not shipped: {sorted(named - shipped)}"
    assert "ISC" in (resources() / "icons" / "LICENSE-lucide.txt").read_text()
