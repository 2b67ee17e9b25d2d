"""A small recording of many texts: of as many as it takes, the same ones each time."""

from __future__ import annotations

import gc
import json
import weakref

import numpy as np
import pytest

from auditor.base.errors import Stop
from auditor.base.reporter import Reporter
from auditor.data import ImageRef, Sample, Samples
from auditor.data import chunking as counting
from auditor.data import draw as drawing
from auditor.data.chunking import chunks
from auditor.data.draw import Draw
from auditor.store import open_store, recipe
from auditor.store.layout import UNFINISHED
from auditor.store.record import Recording, plan, record
from auditor.store.replay import replay
from tests.store.test_record import config as config_of


@pytest.fixture(autouse=True)
def few(monkeypatch) -> None:
    monkeypatch.setattr(counting, "_AT_ONCE", 8)
    set_few(monkeypatch, 20)


def set_few(monkeypatch, count: int) -> None:
    for module in (drawing, recipe):
        monkeypatch.setattr(module, "FEW", count)


def config(**changes):
    return config_of(**{"split_long": True, "max_tokens": 1200, "context": 24} | changes)


class Stops(Reporter):
    """In the middle of running the network."""

    def started(self, title: str, total: int = 0, unit: str = "") -> None:
        self.runs = title.startswith("Record")

    def step(self, done: int, total: int = 0, note: str = "", unit: str = "") -> None:
        if self.runs and done >= 60:
            raise Stop


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    """How many texts each call of the tokenizer counted."""
    sizes: list[int] = []
    lengths = counting._lengths
    monkeypatch.setattr(counting, "_lengths", lambda of, texts: sizes.append(len(texts)) or lengths(of, texts))
    return sizes


def whose(store) -> set[str]:
    return {store.sample(number).id.split("#")[0] for number in range(store.n_samples)}


def test_that_as_many_texts_are_counted_as_a_recording_takes(tiny_llama, texts, counted, tmp_path) -> None:
    store = record(config(), tiny_llama, texts, tmp_path / "a.store")
    assert 20 <= sum(counted) < 80 and store.meta["drawn"] == sum(counted)
    assert 1200 <= store.n_rows < 1200 + 8 * 24 and store.meta["samples"]["count"] == 150
    drawn = {text.id for text in np.array(texts, object)[Draw(0, 1200).numbers(150)[: sum(counted)]]}
    assert whose(store) <= drawn and not whose(store) <= {text.id for text in texts[:100]}
    others = record(config(seed=5), tiny_llama, texts, tmp_path / "b.store")
    assert whose(others) != whose(store)
    again = replay(store, tiny_llama, texts, 2)
    assert again.equal and again.rows > 40


def test_that_a_plan_and_its_recording_count_once(tiny_llama, texts, counted, tmp_path) -> None:
    for settings in (config(), config(max_tokens=0)):
        samples = Samples("texts", texts)
        estimate = plan(settings, tiny_llama, samples, tmp_path)
        before = sum(counted)
        store = record(settings, tiny_llama, samples, tmp_path / f"{settings.max_tokens}.store")
        assert sum(counted) == before and abs(estimate.rows - store.n_rows) < 0.2 * store.n_rows
        record(settings.model_copy(update={"context": 12}), tiny_llama, samples, tmp_path / f"{before}.store")
        assert sum(counted) > before
        counted.clear()


def test_that_the_texts_of_a_recording_are_let_go_of_with_its_samples(tiny_llama, texts, tmp_path) -> None:
    """They lie in a file on the disk, which would stay until the collector of circles comes by."""
    samples = Samples("texts", texts)
    pieces = weakref.ref(Recording.of(config(), tiny_llama, samples).pieces)
    gc.disable()
    try:
        assert pieces() is not None
        del samples
        assert pieces() is None
    finally:
        gc.enable()


def test_that_a_recording_of_some_goes_on_with_the_same_ones(tiny_llama, texts, tmp_path, monkeypatch) -> None:
    straight = record(config(), tiny_llama, texts, tmp_path / "a.store")
    with pytest.raises(Stop):
        record(config(), tiny_llama, texts, tmp_path / "b.store", Stops())
    begun = open_store(tmp_path / "b.store")
    assert 0 < begun.n_rows < straight.n_rows and begun.meta["drawn"] == straight.meta["drawn"]
    set_few(monkeypatch, 40)  # as a later program may
    resumed = Recording.of(config(), tiny_llama, texts, out=tmp_path / "b.store")
    assert resumed.drawn == straight.meta["drawn"] and resumed.unit == "pieces"
    assert record(config(), tiny_llama, texts, tmp_path / "b.store").digest == straight.digest
    assert replay(straight, tiny_llama, texts, 1).equal


def test_that_a_recording_begun_of_all_goes_on_so(tiny_llama, texts, tmp_path, monkeypatch) -> None:
    set_few(monkeypatch, 4096)
    straight = record(config(), tiny_llama, texts, tmp_path / "a.store")
    with pytest.raises(Stop):
        record(config(), tiny_llama, texts, tmp_path / "b.store", Stops())
    assert "drawn" not in json.loads((tmp_path / "b.store" / UNFINISHED).read_text("utf-8"))["meta"]
    set_few(monkeypatch, 20)
    assert record(config(), tiny_llama, texts, tmp_path / "b.store").digest == straight.digest
    assert replay(straight, tiny_llama, texts, 1).equal


def test_that_all_are_taken_in_their_order_where_all_are_needed(tiny_llama, texts) -> None:
    straight = chunks(texts, tiny_llama.tokenizer, 24)
    drawn = chunks(texts, tiny_llama.tokenizer, 24, draw=Draw(0, 10**6))
    assert drawn.drawn == 0 and [piece.id for piece in drawn] == [piece.id for piece in straight]
    assert drawn.tokens == straight.tokens and drawn.characters == straight.characters
    some = chunks(texts, tiny_llama.tokenizer, 24, draw=Draw(0, 0, 30))
    assert some.drawn == 30 and len({piece.id.split("#")[0] for piece in some}) == 30
    at = {text.id: number for number, text in enumerate(texts)}
    order = [at[piece.id.split("#")[0]] for piece in some]
    assert order == sorted(order) and some[0].text == texts[order[0]].text[: len(some[0].text)]
    assert [len(piece.text) for piece in some] == list(some.characters)


def test_that_all_are_counted_where_a_sample_may_give_any_number_of_rows(tiny_paired, texts, counted, tmp_path) -> None:
    picture = Sample("picture", text="the cat", image=ImageRef.of(np.zeros((32, 32, 3), np.uint8)))
    settings = config(hooks=("blocks.0.resid_post",), context=40)
    store = record(settings, tiny_paired, [*texts, picture], tmp_path / "a.store")
    assert "drawn" not in store.meta and sum(counted) == len(texts)


def test_that_counting_is_told_and_can_be_cancelled(tiny_llama, texts, tmp_path) -> None:
    class Listens(Reporter):
        def __init__(self, most: int) -> None:
            self.told, self.most = list[tuple[str, int, int]](), most

        def started(self, title: str, total: int = 0, unit: str = "") -> None:
            self.title = title

        def step(self, done: int, total: int = 0, note: str = "", unit: str = "") -> None:
            self.told.append((self.title, done, total))
            if done >= self.most:
                raise Stop

    with pytest.raises(Stop):
        record(config(max_tokens=0), tiny_llama, texts, tmp_path / "a.store", listens := Listens(32))
    assert [("Count the tokens", done, 150) for done in (8, 16, 24, 32)] == listens.told
    assert not (tmp_path / "a.store").exists()
    store = record(config(), tiny_llama, texts, tmp_path / "b.store", listens := Listens(1000))
    counting_told = [(done, total) for title, done, total in listens.told if title == "Count the tokens"]
    assert counting_told[-2:] == [(store.meta["drawn"] - 8, 150), (store.meta["drawn"], store.meta["drawn"])]
