"""The closed network: connections are refused and counted, local sockets are not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from auditor.base.errors import AuditorError
from auditor.base.offline import go_offline, levels


@pytest.mark.parametrize("address", [("127.0.0.1", 9), ("192.0.2.1", 80)])
def test_that_a_planted_connect_is_refused(address: tuple[str, int]) -> None:
    go_offline()
    with socket.socket() as planted, pytest.raises(AuditorError, match="uses no network"):
        planted.connect(address)


def test_that_a_name_is_not_looked_up() -> None:
    go_offline()
    with pytest.raises(AuditorError, match="uses no network"):
        socket.getaddrinfo("example.org", 443)


def test_that_local_pairs_still_work() -> None:
    go_offline()
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"x")
        assert right.recv(1) == b"x"


def test_that_plug_in_paths_are_cleared_before_anything_loads() -> None:
    code = (
        "from auditor.base.offline import go_offline; go_offline(); import os\n"
        "print(os.environ.get('HDF5_PLUGIN_PATH'))"
    )
    planted = os.environ | {"HDF5_PLUGIN_PATH": "planted"}
    told = subprocess.run([sys.executable, "-c", code], env=planted, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "None"


def test_that_the_levels_tell_what_holds() -> None:
    go_offline()
    first, second, third = levels()
    assert first.holds and second.holds and "refused" in second.detail
    interfaces = {name for _, name in socket.if_nameindex()} - {"lo"}
    assert third.holds == (not interfaces)
