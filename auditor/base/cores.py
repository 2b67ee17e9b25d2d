"""How many threads or children prepare what other work waits for."""

import os

PREPARING = max(1, min(8, (os.cpu_count() or 1) // 2))
"""Half of the cores, eight at most: the other half is for what waits."""
