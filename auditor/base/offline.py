"""The closed network: hub clients switched off, HDF5 plug-ins cleared, and sockets to other machines refused."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from typing import Any

from auditor.base.errors import AuditorError

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HDF5_PLUGIN_PRELOAD": "::",
}
_CLEARED = ("HDF5_PLUGIN_PATH", "HDF5_VOL_CONNECTOR", "HDF5_DRIVER")
_EVENTS = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo")
_state = {"hook": False, "refused": 0}


@dataclass(frozen=True)
class Level:
    """One wall between the program and a network: whether it holds, and how that is known."""

    number: int
    name: str
    holds: bool
    detail: str


def go_offline() -> None:
    """Close the network for this process; call it before the first heavy import. Calling it again does nothing."""
    os.environ.update(_ENVIRONMENT)
    for name in _CLEARED:
        os.environ.pop(name, None)
    if not _state["hook"]:
        _state["hook"] = True
        sys.addaudithook(_refuse)


def levels() -> list[Level]:
    """The walls in order: settings, the refusal inside this process, and the absence of any network interface."""
    settings = all(os.environ.get(name) == value for name, value in _ENVIRONMENT.items())
    refused = f"{_state['refused']} attempts refused" if _state["hook"] else "not installed"
    interfaces = [name for _, name in socket.if_nameindex() if name != "lo"]
    return [
        Level(1, "settings", settings, "model hub, telemetry and HDF5 plug-ins are switched off"),
        Level(2, "process", bool(_state["hook"]), f"sockets to other machines are refused: {refused}"),
        Level(3, "machine", not interfaces, ", ".join(interfaces) or "no network interface but the loopback"),
    ]


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if event not in _EVENTS:
        return
    if event == "socket.getaddrinfo":
        address: Any = args[0]
    else:
        if args[0] is not None and args[0].family == getattr(socket, "AF_UNIX", None):
            return
        address = args[1]
    _state["refused"] = int(_state["refused"]) + 1
    raise AuditorError(f"A connection to {address!r} was refused: this program uses no network.", "")
