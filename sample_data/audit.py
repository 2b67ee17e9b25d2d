"""Makes sample_data/audit, the finished sample audit, from the project that `auditor demo --from-scratch` made.

Run ``python sample_data/audit.py``. Shipped are the dictionaries, indices, circuits, results, the case
and its signed bundle; the store (a gigabyte) is left out and is made again on demand.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from auditor.base.paths import build  # noqa: E402
from auditor.project import Project  # noqa: E402
from auditor.tasks.sample_audit import ship, shipped  # noqa: E402


def main() -> int:
    with Project.open(build() / "sample-audit" / "project") as project:
        ship(project, shipped())
    size = sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file())
    print(f"sample_data holds {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
