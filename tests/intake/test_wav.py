"""WAV files: every form that is read, against its bytes; and headers that lie."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.intake.wav import inspect_wav, read_wav

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
TAIL = bytes.fromhex("000000001000800000aa00389b71")


def part(kind: bytes, body: bytes, length: int | None = None) -> bytes:
    return kind + struct.pack("<I", len(body) if length is None else length) + body + b"\0" * (len(body) % 2)


def head(code: int, channels: int, rate: int, bits: int, *, block: int | None = None, sub: int | None = None) -> bytes:
    block = channels * bits // 8 if block is None else block
    plain = struct.pack("<HHIIHH", code, channels, rate, rate * block, block, bits)
    return plain if sub is None else plain + struct.pack("<HHIH", 22, bits, 0, sub) + TAIL


def write(path: Path, *parts: bytes) -> Path:
    body = b"WAVE" + b"".join(parts)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


@pytest.mark.parametrize("bits", [8, 16, 24, 32, "float32", "float64"])
@pytest.mark.parametrize("extensible", [False, True])
def test_that_every_form_gives_the_values_that_were_written(tmp_path: Path, bits: int | str, extensible: bool) -> None:
    wanted = np.random.default_rng(5).uniform(-1, 1, (37, 2))
    if isinstance(bits, str):
        code, width = FLOAT, int(bits[5:])
        data, close = wanted.astype(f"<f{width // 8}").tobytes(), 1e-7
    else:
        code, width, close = PCM, bits, 2.0 ** (1 - bits) + 1e-7
        numbers = np.clip(np.round(wanted * 2 ** (bits - 1)), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(np.int64)
        numbers = numbers + 128 if bits == 8 else numbers
        data = b"".join(int(n).to_bytes(bits // 8, "little", signed=bits != 8) for n in numbers.reshape(-1))
    form = head(EXTENSIBLE, 2, 8000, width, sub=code) if extensible else head(code, 2, 8000, width)
    path = write(
        tmp_path / "a.wav", part(b"LIST", b"odd"), part(b"fmt ", form), part(b"data", data), part(b"cue ", b"")
    )
    values, facts = read_wav(path)
    assert (facts.rate, facts.channels, facts.frames, facts.seconds) == (8000, 2, 37, 37 / 8000)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, wanted, atol=close)
    some, _ = read_wav(path, 5, 9)
    np.testing.assert_array_equal(some, values[5:9])


def test_that_sound_from_a_pipe_goes_on_to_the_end_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", part(b"fmt ", head(PCM, 1, 8000, 16)), part(b"data", b"\0" * 10, 0xFFFFFFFF))
    assert inspect_wav(path).frames == 5


GOOD = part(b"fmt ", head(PCM, 1, 8000, 16))
LIES: dict[str, tuple[tuple[bytes, ...], str]] = {
    "no sound": ((GOOD,), "no sound in it"),
    "empty": ((GOOD, part(b"data", b"")), "is empty"),
    "cut short": ((GOOD, part(b"data", b"\0\0", 1 << 30)), "cut short"),
    "a part beyond the file": ((part(b"LIST", b"ab", 1 << 31), GOOD), "is promised"),
    "sound before its form": ((part(b"data", b"\0\0"), GOOD), "before what says"),
    "a short form": ((part(b"fmt ", b"\1\0\1\0"), part(b"data", b"\0\0")), "header is cut short"),
    "compressed": ((part(b"fmt ", head(85, 1, 8000, 16)), part(b"data", b"\0\0")), "not read"),
    "12 bits": ((part(b"fmt ", head(PCM, 1, 8000, 12)), part(b"data", b"\0\0")), "not read"),
    "no channels": ((part(b"fmt ", head(PCM, 0, 8000, 16)), part(b"data", b"\0\0")), "0 channels"),
    "60,000 channels": ((part(b"fmt ", head(PCM, 60_000, 8000, 16, block=2)), part(b"data", b"\0\0")), "channels"),
    "another block": ((part(b"fmt ", head(PCM, 2, 8000, 16, block=3)), part(b"data", b"\0\0")), "do not make 3 bytes"),
    "no rate": ((part(b"fmt ", head(PCM, 1, 0, 16)), part(b"data", b"\0\0")), "impossible"),
    "a mad rate": ((part(b"fmt ", head(PCM, 1, 0x7FFFFFFF, 8, block=1)), part(b"data", b"\0\0")), "impossible"),
    "many parts": (tuple(part(b"junk", b"") for _ in range(5000)), "no sound in it"),
}


@pytest.mark.parametrize("lie", LIES)
def test_that_a_header_that_lies_is_told(tmp_path: Path, lie: str) -> None:
    parts, said = LIES[lie]
    path = write(tmp_path / "a.wav", *parts)
    with pytest.raises(AuditorError, match=said) as told:
        inspect_wav(path)
    assert "a.wav" in told.value.message


@pytest.mark.parametrize("data", [b"", b"RIFF", b"RIFX\0\0\0\0WAVE", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_that_another_file_is_told(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    with pytest.raises(AuditorError, match="does not start as one"):
        inspect_wav(path)


def test_that_values_that_are_not_finite_are_told(tmp_path: Path) -> None:
    data = np.array([0.0, np.nan], "<f4").tobytes()
    path = write(tmp_path / "a.wav", part(b"fmt ", head(FLOAT, 1, 8000, 32)), part(b"data", data))
    with pytest.raises(AuditorError, match="not finite"):
        read_wav(path)
