"""How many threads or children prepare what other work waits for."""

import os


def preparing() -> int:
    """Half of the cores that this process may use, or of its share where several processes record or train together on
    this machine; eight at most: the other half is for what waits."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = os.environ.get("LOCAL_WORLD_SIZE", "")
    processes = int(told) if told.isdecimal() else 1
    return max(1, min(8, usable // (2 * max(processes, 1))))


PREPARING = preparing()
