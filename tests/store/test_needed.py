"""A small recording of many pictures: no more of them are looked at than it takes, the same ones each time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from auditor.base.errors import AuditorError, Stop
from auditor.base.reporter import Reporter
from auditor.data import ImageRef, Sample, Samples, open_samples
from auditor.data.draw import Draw
from auditor.models import Model, open_model
from auditor.models.hook_points import PATTERN
from auditor.store import open_store, recipe
from auditor.store.capture import encode, launch
from auditor.store.layout import UNFINISHED
from auditor.store.needed import Needed
from auditor.store.plan import plan
from auditor.store.recipe import RecordConfig, groups_of
from auditor.store.record import Recording, record
from auditor.store.replay import replay
from auditor.store.together import Gathering
from tests.models.tiny import ALL, opened
from tests.models.tiny.multimodal import MULTIMODAL
from tests.models.tiny.vision import VISION

HOOK = "vision.blocks.0.resid_post"
SEEING = [tiny.name for tiny in (*MULTIMODAL, *VISION) if any(sample.image is not None for sample in tiny.samples())]


@pytest.mark.parametrize("name", SEEING)
def test_that_the_rows_of_a_picture_are_told_without_it(name: str) -> None:
    """Of every family, at one hook point of each row group."""
    model, rng = opened(ALL[name]).model, np.random.default_rng(0)
    stored = [hook for hook, point in model.hook_points.items() if point.axes != PATTERN]
    groups = groups_of(model, stored)
    hooks = [inside[0] for inside in groups.values()]
    given = next(sample for sample in ALL[name].samples() if sample.image is not None)
    for rows, columns in ((20, 24), (40, 30), (31, 65)):
        picture = ImageRef.of(rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8))
        sample = Sample("a", text=given.text, image=picture)
        needed = Needed(model, hooks, 64)
        for hook in hooks:
            config = RecordConfig(model="m", samples="s", hooks=(hook,), context=64)
            recorded = launch(model, encode(model, [sample], config), [hook], config).captured().n_rows
            assert Needed(model, [hook], 64).rows(sample, [(rows, columns)]) == recorded, hook
        each = [Needed(model, [hook], 64).rows(sample, [(rows, columns)]) for hook in hooks]
        assert needed.rows(sample, [(rows, columns)]) == sum(each)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("models") / "vit"
    ALL["vit"].save(folder)
    return open_model(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 pictures, of which every tenth is damaged, and one is another once more."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(150):
        pixels = np.random.default_rng(number % 149).integers(0, 256, (12, 15, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file := folder / f"{number:03}.png")
        if number % 10 == 3:
            file.write_bytes(file.read_bytes()[:60])
    return folder


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "_FEW_PICTURES", 60)
    monkeypatch.setattr("auditor.data.checked._AT_ONCE_DRAWN", 8)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of pictures that were looked at."""
    seen: list[str] = []
    facts = ImageRef.facts

    def look(self: ImageRef) -> tuple[str, int, int]:
        seen.append(self.name)
        return facts(self)

    monkeypatch.setattr(ImageRef, "facts", look)
    return seen


def config(**changes: object) -> RecordConfig:
    usual = {"model": "m", "samples": "s", "hooks": (HOOK,), "batch_size": 4, "max_tokens": 100}
    return RecordConfig(**usual | changes)


def names(store: object) -> list[str]:
    return [store.sample(number).id for number in range(store.n_samples)]  # type: ignore[attr-defined]


def test_that_as_many_pictures_are_looked_at_as_a_recording_takes(
    vit: Model, pictures: Path, looked: list[str], tmp_path: Path
) -> None:
    """A picture has 5 rows."""
    store = record(config(), vit, open_samples(pictures), tmp_path / "a.store")
    damaged = [name for name in looked if int(name[:3]) % 10 == 3]
    assert store.n_rows == 100 and store.meta["drawn"] == len(looked) and 20 < len(looked) <= 32 and damaged
    assert store.meta["left_out"]["unreadable"] == len(damaged) and store.meta["samples"]["count"] == 150
    assert all(any(name in told for told in store.meta["left_out"]["first"]) for name in damaged)
    assert set(names(store)) <= set(looked) - set(damaged)
    others = record(config(seed=3), vit, open_samples(pictures), tmp_path / "b.store")
    assert set(names(others)) != set(names(store)) and not set(names(store)) <= {f"{n:03}.png" for n in range(100)}
    assert replay(store, vit, open_samples(pictures), 2).equal
    whole = record(config(max_tokens=0), vit, open_samples(pictures), tmp_path / "c.store")
    assert "drawn" not in whole.meta and whole.n_samples == 135
    all_ = record(config(max_tokens=5000), vit, open_samples(pictures), tmp_path / "d.store")
    assert "drawn" not in all_.meta and names(all_) == names(whole)


def test_that_repeats_and_strictness_hold_for_the_pictures_that_are_drawn(
    vit: Model, pictures: Path, tmp_path: Path
) -> None:
    store = record(config(max_tokens=670, unique=True), vit, open_samples(pictures), tmp_path / "a.store")
    assert store.meta["left_out"]["repeats"] == 1 and store.n_rows == 134 * 5
    with pytest.raises(AuditorError, match="damaged"):
        record(config(strict=True), vit, open_samples(pictures), tmp_path / "b.store")
    assert not (tmp_path / "b.store").exists()
    fine = next(seed for seed in range(99) if 3 not in Draw(seed, 0, 8).numbers(150) % 10)
    found = record(config(strict=True, seed=fine, max_tokens=40), vit, open_samples(pictures), tmp_path / "c.store")
    assert found.n_rows == 40


class Stops(Reporter):
    """In the middle of running the network."""

    def started(self, title: str, total: int = 0, unit: str = "") -> None:
        self.runs = title.startswith("Record")

    def step(self, done: int, total: int = 0, note: str = "", unit: str = "") -> None:
        if self.runs and done >= 8:
            raise Stop


def test_that_a_recording_of_some_pictures_goes_on_with_the_same_ones(
    vit: Model, pictures: Path, looked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = record(config(), vit, open_samples(pictures), tmp_path / "a.store")
    with pytest.raises(Stop):
        record(config(), vit, open_samples(pictures), tmp_path / "b.store", Stops())
    begun = open_store(tmp_path / "b.store")
    assert 0 < begun.n_rows < 100 and begun.meta["drawn"] == straight.meta["drawn"]
    monkeypatch.setattr("auditor.data.checked._AT_ONCE_DRAWN", 64)  # as a later program may
    del looked[:]
    assert record(config(), vit, open_samples(pictures), tmp_path / "b.store").digest == straight.digest
    assert len(looked) == straight.meta["drawn"]


def test_that_a_recording_begun_of_all_pictures_goes_on_so(
    vit: Model, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of earlier programs are."""
    monkeypatch.setattr(recipe, "_FEW_PICTURES", 1000)
    straight = record(config(), vit, open_samples(pictures), tmp_path / "a.store")
    with pytest.raises(Stop):
        record(config(), vit, open_samples(pictures), tmp_path / "b.store", Stops())
    assert "drawn" not in json.loads((tmp_path / "b.store" / UNFINISHED).read_text("utf-8"))["meta"]
    monkeypatch.setattr(recipe, "_FEW_PICTURES", 60)
    assert record(config(), vit, open_samples(pictures), tmp_path / "b.store").digest == straight.digest


def test_that_a_plan_says_how_many_pictures_are_taken_and_looks_at_few(
    vit: Model, pictures: Path, looked: list[str], tmp_path: Path
) -> None:
    estimate = plan(config(), vit, open_samples(pictures), tmp_path)
    assert estimate.rows == 100 and (estimate.pieces, estimate.of) == (20, 150) and len(looked) <= 20
    assert estimate.facts()["samples"] == 20
    whole = plan(config(max_tokens=0), vit, open_samples(pictures), tmp_path)
    assert (whole.pieces, whole.of) == (0, 0) and "samples" not in whole.facts()


def test_that_several_processes_and_recordings_behind_a_store_take_the_same_pictures(
    vit: Model, pictures: Path, looked: list[str], tmp_path: Path
) -> None:
    alone = record(config(), vit, open_samples(pictures), tmp_path / "a.store")
    recording = Recording.of(config(), vit, open_samples(pictures))
    del looked[:]
    follows = Recording.of(recording.config, vit, open_samples(pictures), drawn=recording.drawn)
    assert len(looked) == recording.drawn and [one.id for one in follows.pieces] == [one.id for one in recording.pieces]
    together = Gathering(recording, tmp_path / "b.store", Reporter()).run(lambda: None)
    assert together.digest == alone.digest
    base = record(config(seed=1), vit, open_samples(pictures), tmp_path / "c.store")
    behind = record(config(max_tokens=200), vit, open_samples(pictures), tmp_path / "d.store", base=base)
    assert behind.n_rows >= 200 and names(behind)[: base.n_samples] == names(base)


def test_that_texts_and_pictures_of_one_set_are_drawn_together(tiny_paired: Model, tmp_path: Path) -> None:
    """Each gives its begin token, its words, and 16 tokens of a picture; a text alone may come in pieces."""
    grey = ImageRef.of(np.full((32, 32, 3), 90, np.uint8))
    rng, words = np.random.default_rng(0), ["the", "cat", "sat", "on"]
    given = Samples("mixed", [
        Sample(str(number), text=" ".join(rng.choice(words, number % 9 + 1)), image=grey if number % 3 else None)
        for number in range(200)
    ])  # fmt: skip
    hook = "blocks.0.resid_post"
    store = record(config(hooks=(hook,), max_tokens=500), tiny_paired, given, tmp_path / "a.store")
    assert 500 <= store.n_rows < 500 + 4 * 30 and 20 < store.meta["drawn"] < 60
    kinds = set(store.positions(slice(0, store.n_rows)).kind.tolist())
    assert {1, 2} <= kinds and replay(store, tiny_paired, given, 1).equal
