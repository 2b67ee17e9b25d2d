"""Text tokens and image patches of the same samples in one store, where each has positions of its own."""

from __future__ import annotations

import json

import numpy as np
import pytest

from auditor.base.errors import AuditorError, Stop
from auditor.base.reporter import Reporter
from auditor.data import ImageRef, Sample, text_sample
from auditor.intake.hdf5 import h5py
from auditor.models import open_model
from auditor.store import open_store
from auditor.store.layout import KINDS, MANIFEST
from auditor.store.record import RecordConfig, plan, record
from auditor.store.replay import replay
from auditor.store.row import row_of
from auditor.store.together import Gathering
from tests.models.tiny import ALL
from tests.models.tiny.entry import two_images

TEXT, VISION = "blocks.0.resid_post", "vision.blocks.3.resid_post"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch) -> None:
    monkeypatch.setattr("auditor.store.writer.SHARD_BYTES", 60_000)


@pytest.fixture(scope="module")
def samples(texts) -> list[Sample]:
    rng = np.random.default_rng(2)
    pictures = [ImageRef.of(rng.integers(0, 255, (90, 150, 3), dtype=np.uint8)) for _ in range(6)]
    images = [Sample(f"p{n}", image=picture, labels={"caption": f"noise {n}"}) for n, picture in enumerate(pictures)]
    return [*images, *texts[:12]]


def config(*hooks: str, **changes) -> RecordConfig:
    settings = {"model": "paired", "samples": "mixed", "batch_size": 4, "context": 40, "hooks": hooks}
    return RecordConfig(**settings | changes)


@pytest.fixture(scope="module")
def mixed(tiny_paired, samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("auditor.store.writer.SHARD_BYTES", 60_000)
        return record(config(TEXT, VISION), tiny_paired, samples, folder / "a.store")


def test_that_a_pattern_records_what_the_names_do_that_it_stands_for(mixed, tiny_paired, samples, tmp_path) -> None:
    by_pattern = config("blocks.0:1.resid_post", "vision.blocks.3:4.*_post")
    assert record(by_pattern, tiny_paired, samples, tmp_path / "a.store").digest == mixed.digest
    estimate = plan(by_pattern, tiny_paired, samples, tmp_path)
    assert estimate.rows == pytest.approx(sum(group.n_rows for group in mixed.each_group()), rel=0.3)
    assert replay(open_store(tmp_path / "a.store"), tiny_paired, samples, 1).equal


def test_that_each_group_is_what_a_store_of_its_own_holds(mixed, tiny_paired, samples, tmp_path) -> None:
    assert list(mixed.hook_points) == [VISION, TEXT] and len(list(mixed.path.glob("shard-*.h5"))) > 2
    for hook in (TEXT, VISION):
        alone, home = record(config(hook), tiny_paired, samples, tmp_path / f"{hook}.store"), mixed.at(hook)
        assert list(home.hook_points) == [hook] and home.n_rows == alone.n_rows and home.counts() == alone.counts()
        np.testing.assert_array_equal(home.rows(slice(None)), alone.rows(slice(None)))
        np.testing.assert_array_equal(mixed.rows([5, 3], hook), alone.rows([5, 3]))
        for name in ("sample", "unit", "kind", "token"):
            np.testing.assert_array_equal(getattr(home.positions(), name), getattr(alone.positions(), name))
        for number in range(len(samples)):
            here, there = home.sample(number), alone.sample(number)
            assert (here.id, here.tokens, here.grid, here.n_rows) == (there.id, there.tokens, there.grid, there.n_rows)
            assert here.image == there.image and here.labels == there.labels
        ours, theirs = mixed.batches(32, seed=4, hook=hook, epochs=1), alone.batches(32, seed=4, epochs=1)
        order = [np.concatenate(list(source)) for source in (ours, theirs)]
        np.testing.assert_array_equal(*(rows[np.lexsort(rows.T)] for rows in order))


def test_that_a_sample_leads_from_its_tokens_to_its_patches(mixed) -> None:
    text, vision = mixed.at(TEXT), mixed.at(VISION)
    for number in range(mixed.n_samples):
        one, other = text.sample(number), vision.sample(number)
        assert one.id == other.id and one.tokens is not None and other.tokens is None
        rows = slice(other.first_row, other.first_row + other.n_rows)
        assert (vision.positions(rows).sample == number).all()
        assert (other.n_rows > 0) == (other.image is not None)
        assert set(vision.positions(rows).kind) <= {KINDS["image"], KINDS["special"]}


def test_that_what_belongs_to_two_groups_is_told(mixed) -> None:
    with pytest.raises(AuditorError, match="different positions"):
        mixed.at(TEXT, VISION)
    with pytest.raises(AuditorError, match="different positions"):
        next(mixed.batches(8, hook=[TEXT, VISION]))
    with pytest.raises(AuditorError, match="no hook point"):
        mixed.at(TEXT).rows([0], VISION)


def test_that_any_hdf5_program_finds_each_group(mixed) -> None:
    mixed.check()
    with h5py.File(mixed.path / "shard-00000.h5") as file:
        for group, hook in (("text", TEXT), ("vision", VISION)):
            assert len(file[f"{group}/kind"]) == len(file[f"rows/{hook}"]) == file[f"samples/rows_{group}"][...].sum()


def test_that_a_mixed_recording_goes_on_replays_and_is_gathered_to_the_same_bytes(
    mixed, tiny_paired, samples, tmp_path
) -> None:
    class StopsAtOnce(Reporter):
        recording = False

        def started(self, title: str, total: int = 0, unit: str = "") -> None:
            self.recording = title.startswith("Record")

        def step(self, done: int, total: int = 0, note: str = "", unit: str = "") -> None:
            if self.recording:
                raise Stop

    both = config(TEXT, VISION)
    for _ in range(2):
        with pytest.raises(Stop):
            record(both, tiny_paired, samples, tmp_path / "b.store", StopsAtOnce())
    assert open_store(tmp_path / "b.store").n_samples > 0
    assert record(both, tiny_paired, samples, tmp_path / "b.store").digest == mixed.digest
    assert replay(mixed, tiny_paired, samples, 2).equal
    from auditor.store.record import Recording

    gathered = Gathering(Recording.of(both, tiny_paired, samples), tmp_path / "c.store", Reporter()).run(lambda: None)
    assert gathered.digest == mixed.digest


def test_that_a_dictionary_is_learned_from_and_indexed_on_either_group(mixed, tmp_path) -> None:
    from auditor.features.build import BuildConfig, build
    from auditor.sae.train_config import TrainConfig
    from auditor.sae.trainer import train
    from auditor.store.joined import learned_from

    for hook in (TEXT, VISION):
        settings = {"d_sae": 32, "k": 2, "steps": 3, "batch_size": 32, "evaluate_rows": 64, "splice_samples": 0}
        config = TrainConfig(hook=hook, device="cpu", **settings)
        source = learned_from([mixed], hook)
        assert source.n_rows == mixed.at(hook).n_rows
        sae = train(config, source, tmp_path / f"{hook}.sae")
        with build(BuildConfig(), mixed, sae, None, tmp_path / f"{hook}.index") as index:
            assert index.meta["hook"] == hook and index.n_features == 32


def test_that_forged_groups_are_refused(mixed, tmp_path) -> None:
    manifest = json.loads((mixed.path / MANIFEST).read_text())
    for groups in ({"text": [TEXT]}, {"rows": [TEXT], "vision": [VISION]}, {"../x": [TEXT], "vision": [VISION]}, {}):
        (tmp_path / MANIFEST).write_text(json.dumps(manifest | {"groups": groups}))
        with pytest.raises(AuditorError):
            open_store(tmp_path)


def test_that_hook_points_that_divide_a_picture_otherwise_are_told(tmp_path) -> None:
    ALL["resnet"].save(tmp_path / "model")
    model = open_model(tmp_path / "model")
    pictures = [Sample(f"p{n}", image=picture) for n, picture in enumerate(two_images())]
    hooks, path = ("vision.blocks.0.resid_post", "vision.blocks.2.resid_post"), tmp_path / "a.store"
    with pytest.raises(AuditorError, match=r"“vision.blocks.0.resid_post” and “vision.blocks.2.resid_post” have other"):
        record(config(*hooks), model, pictures, path)
    assert not path.exists()
    assert [record(config(hook), model, pictures, tmp_path / hook).n_rows for hook in hooks] == [128, 32]


def test_that_a_store_is_seen_as_a_group_that_has_rows(tmp_path) -> None:
    ALL["clip"].save(tmp_path / "m")
    pictures = [Sample(f"p{n}", image=one) for n, one in enumerate(two_images())]
    hooks = (TEXT, "vision.blocks.0.resid_post")
    store = record(config(*hooks), open_model(tmp_path / "m"), pictures, tmp_path / "a.store")
    assert set(store.hook_points) == set(hooks) and list(store.manifest.by_group) == ["text", "vision"]
    assert store.group == "vision" and store.n_rows == store.at(hooks[1]).n_rows > 0 == store.at(TEXT).n_rows
    assert store.counts() and row_of(store, hooks[1], 3).sample.id in ("p0", "p1")
    with pytest.raises(AuditorError, match=r"has no rows at blocks\.0\.resid_post"):
        row_of(store, TEXT, 0)


def test_that_a_piece_of_a_shared_recording_may_have_no_position_of_the_hook_point(tmp_path, monkeypatch) -> None:
    from auditor.store.record import Recording

    monkeypatch.setattr("auditor.store.together._PIECE_BATCHES", 1)
    ALL["clip"].save(tmp_path / "m")
    model = open_model(tmp_path / "m")
    some = [text_sample("one two red", "t"), *(Sample(f"p{n}", image=one) for n, one in enumerate(two_images()))]
    alone = config(TEXT, batch_size=1)
    expected = record(alone, model, some, tmp_path / "a.store")
    gathered = Gathering(Recording.of(alone, model, some), tmp_path / "b.store", Reporter()).run(lambda: None)
    assert gathered.digest == expected.digest and (gathered.n_rows, gathered.n_samples) == (5, 3)
    pictures, none = some[1:], r"none of 2 samples has a position at blocks\.0\.resid_post"
    with pytest.raises(AuditorError, match=none):
        record(alone, model, pictures, tmp_path / "c.store")
    with pytest.raises(AuditorError, match=none):
        Gathering(Recording.of(alone, model, pictures), tmp_path / "d.store", Reporter()).run(lambda: None)
    assert not [*tmp_path.glob("c*"), *tmp_path.glob("d*"), *tmp_path.glob("*.parts")]
