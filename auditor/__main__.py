"""`python -m auditor`: without arguments the window, with arguments the command line."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """The program; its exit code: 0 fine, 1 a check failed, 2 wrong use."""
    from auditor.base.offline import go_offline

    # Threads that spin while they wait cost a busy machine most of its speed; read by OpenMP when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    go_offline()
    if len(sys.argv) == 1:
        from auditor.ui.app import main as window

        return window(None)
    from auditor.cli.main import main as command_line

    return command_line(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
