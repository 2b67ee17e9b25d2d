"""The jailed child: plain data in and out, limits, and that the caller survives its death."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from auditor.base.errors import AuditorError
from auditor.intake import jail as jail_module
from auditor.intake.child import answer
from auditor.intake.jail import Jail, Jails, Limits, jailed, shared_jails
from auditor.intake.wire import message, parsed

MISDEEDS = """
import os, time
def echo(value): return value
def grow(): return len(bytearray(8 << 30))
def hang(): time.sleep(60)
def rest(): time.sleep(0.003)
def die(): os._exit(9)
def write(path):
    with open(path, "wb") as file: file.write(b"x" * 4096)
def connect():
    import socket
    socket.create_connection(("127.0.0.1", 9), 1)
def spin():
    while True: pass
served = 0
def tire(most):
    global served
    served += 1
    if served == most: os._exit(9)
    return served
def chatter():
    os.write(1, b"not a message")
    print("hello")
    return "kept apart"
"""


@pytest.fixture
def misdeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of a module that the child can import as part of the program, full of what must be contained."""
    package = tmp_path / "auditor"
    package.mkdir()
    real = Path(jail_module.__file__).parents[1]
    (package / "__init__.py").write_text(f"__path__.append({str(real)!r})", encoding="utf-8")
    (package / "misdeeds.py").write_text(MISDEEDS, encoding="utf-8")
    monkeypatch.setattr(jail_module, "root", lambda: tmp_path)
    return "auditor.misdeeds"


@pytest.fixture
def jail(misdeeds: str) -> Iterator[Jail]:
    built = Jail(Limits(memory_bytes=1 << 30, cpu_seconds=1, wall_seconds=3.0))
    yield built
    built.close()


def test_that_plain_data_comes_back_as_it_went(jail: Jail) -> None:
    value = {"a": [1, 2.5, None, True, "é"], "b": b"\x00\xff" * 1000, "c": [b"", b"x"]}
    assert jail.call("auditor.misdeeds:echo", value) == value
    assert parsed(message(value)) == value


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("grow", "memory"),
        ("hang", "within 3 seconds"),
        ("die", "was stopped"),
        ("connect", "refused"),
        ("spin", "was stopped"),
    ],
)
def test_that_a_misdeed_becomes_one_sentence_and_the_next_call_works(jail: Jail, name: str, said: str) -> None:
    if name == "spin":  # a second of a busy processor may take over three
        jail.limits = replace(jail.limits, wall_seconds=9.0)
    started = time.monotonic()
    with pytest.raises(AuditorError, match=said):
        jail.call(f"auditor.misdeeds:{name}")
    assert time.monotonic() - started < 10
    assert jail.call("auditor.misdeeds:echo", 7) == 7


def test_that_a_call_that_found_a_tired_child_gets_a_fresh_one(jail: Jail) -> None:
    assert [jail.call("auditor.misdeeds:tire", 3) for _ in range(4)] == [1, 2, 1, 2]
    once = Jail(jail.limits, again=False)
    assert once.call("auditor.misdeeds:tire", 2) == 1
    with pytest.raises(AuditorError, match="was stopped"):
        once.call("auditor.misdeeds:tire", 2)
    once.close()


def test_that_an_answer_that_was_not_read_is_not_taken_for_the_next(
    jail: Jail, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(jail_module, "_read_message", interrupted)
        jail.call("auditor.misdeeds:echo", 1)
    assert jail.call("auditor.misdeeds:echo", 2) == 2


def test_that_the_child_writes_no_file_and_its_chatter_is_not_heard(jail: Jail, tmp_path: Path) -> None:
    with pytest.raises(AuditorError):
        jail.call("auditor.misdeeds:write", str(tmp_path / "file"))
    assert not (tmp_path / "file").exists() or (tmp_path / "file").stat().st_size == 0
    assert jail.call("auditor.misdeeds:chatter") == "kept apart"


def test_that_only_functions_of_this_program_are_called() -> None:
    assert answer(message(["os:getcwd", []]))[0] == "failed"
    with pytest.raises(AuditorError, match="not of this program"):
        jailed("os:getcwd")


DEEP = b"[" * 900 + b"]" * 900


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00" * 16 + b"x", message({"$bytes": [0, 99]}), message({"$bytes": 5}), message({"$bytes": ["0", 1]}),
     message({"$bytes": [0, 1, 2]}), struct.pack("<QQ", len(DEEP), 0) + DEEP],
)  # fmt: skip
def test_that_a_forged_message_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        parsed(data)


def test_that_several_calls_at_once_have_a_child_each_up_to_a_number(misdeeds: str) -> None:
    jails = Jails(Limits(wall_seconds=20.0), 2)
    try:
        for _ in range(3):  # one after the other they share one
            assert jails.call(f"{misdeeds}:echo", 1) == 1
        assert len(jails._made) == 1
        with ThreadPoolExecutor(5) as pool:
            assert list(pool.map(lambda value: jails.call(f"{misdeeds}:echo", value), range(20))) == [*range(20)]
            with pytest.raises(AuditorError):
                jails.call(f"{misdeeds}:die")
            assert jails.call(f"{misdeeds}:echo", 2) == 2, "a child that died is started anew"
        assert len(jails._made) == 2
    finally:
        jails.close()


def test_that_threads_that_begin_together_have_the_same_children(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Jails):
        def __init__(self, limits: Limits, most: int) -> None:
            time.sleep(0.05)
            super().__init__(limits, most)

    monkeypatch.setattr(jail_module, "Jails", Slow)
    with ThreadPoolExecutor(4) as pool:
        assert len({id(one) for one in pool.map(lambda _: shared_jails(), range(4))}) == 1


def test_that_who_calls_once_has_a_turn_beside_those_who_call_without_end(misdeeds: str) -> None:
    jails, stopped, calls = Jails(Limits(wall_seconds=20.0), 1), threading.Event(), [0]

    def without_end() -> None:
        while not stopped.is_set() and calls[0] < 500:
            jails.call(f"{misdeeds}:rest")
            calls[0] += 1

    try:
        with ThreadPoolExecutor(1) as pool:
            busy = pool.submit(without_end)
            try:
                for _ in range(9):
                    assert jails.call(f"{misdeeds}:echo", "once") == "once"
                assert calls[0] < 500, "none had to wait until the others had no more to do"
            finally:
                stopped.set()
            busy.result(20)
    finally:
        jails.close()


def test_that_who_was_interrupted_before_its_turn_keeps_no_child(misdeeds: str) -> None:
    jails = Jails(Limits(wall_seconds=20.0), 1)
    try:
        first, interrupted = jails._taken(), jails._taken()
        assert first.done() and interrupted.cancel()
        with ThreadPoolExecutor(1) as pool:
            third = pool.submit(jails.call, f"{misdeeds}:echo", 3)
            jails._left(first.result())
            assert third.result(20) == 3
    finally:
        jails.close()
