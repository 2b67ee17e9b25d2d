"""Recording: what lies in the store is what the network says, in any case of interruption."""

from __future__ import annotations

import io
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from auditor.base.errors import AuditorError, Stop
from auditor.base.reporter import Control, EventReporter, Reporter
from auditor.data import ImageRef, PositionKind, Sample
from auditor.models import Model, open_model
from auditor.store import open_store
from auditor.store.capture import capture, encode, launch
from auditor.store.layout import KINDS
from auditor.store.plan import _Probe, surely_fits
from auditor.store.recipe import groups_of
from auditor.store.record import RecordConfig, _behind, plan, record
from auditor.store.replay import replay
from tests.models.tiny import ALL


@pytest.fixture(autouse=True)
def small_shards(monkeypatch) -> None:
    monkeypatch.setattr("auditor.store.writer.SHARD_BYTES", 150_000)


def config(**changes) -> RecordConfig:
    return RecordConfig(
        **{"model": "tiny", "samples": "texts", "batch_size": 8, "context": 40, "split_long": False} | changes
    )


class StopsAfter(Reporter):
    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, done: int, total: int = 0, note: str = "", unit: str = "") -> None:
        self.left -= 1
        if self.left <= 0:
            raise Stop


def test_that_the_format_and_the_samples_name_kinds_alike() -> None:
    assert {kind.name.lower(): kind.value for kind in PositionKind} == KINDS


def test_that_each_row_is_the_networks_own_at_its_token(tiny_llama, texts, tmp_path) -> None:
    hooks = ("blocks.1.mlp_out", "blocks.0.resid_post")
    store = record(config(hooks=hooks), tiny_llama, texts, tmp_path / "a.store")
    assert list(store.hook_points) == ["blocks.0.resid_post", "blocks.1.mlp_out"]
    assert store.n_samples == len(texts) and store.meta["model"]["digest"] == tiny_llama.digest
    assert store.meta["samples"]["count"] == len(texts) and store.meta["model"]["path"] == str(tiny_llama.path)
    by_id = {sample.id: sample for sample in texts}
    for number in np.random.default_rng(3).integers(0, len(texts), 12):
        stored = store.sample(int(number))
        inputs = tiny_llama.encode([by_id[stored.id]], 40)
        run = tiny_llama.run(inputs, record=hooks, logits=False)
        index = slice(stored.first_row, stored.first_row + stored.n_rows)
        where = store.positions(index)
        assert where.token.tolist() == inputs.ids[0].tolist() and stored.text == by_id[stored.id].text
        assert stored.tokens == tiny_llama.token_strings(inputs.ids[0]) and stored.group == by_id[stored.id].group
        assert where.kind[0] == KINDS["special"] and set(where.kind[1:]) == {KINDS["text"]}
        for hook in hooks:
            np.testing.assert_allclose(store.rows(index, hook), run.rows(hook)[0].numpy(), rtol=2e-3, atol=2e-3)


def test_that_a_cancelled_recording_goes_on_and_ends_with_the_same_bytes(tiny_llama, texts, tmp_path) -> None:
    straight = record(config(), tiny_llama, texts, tmp_path / "a.store")
    assert list(straight.hook_points) == ["blocks.1.resid_post"]
    kept = []
    for steps in (3, 9, 4):
        with pytest.raises(Stop):
            record(config(), tiny_llama, texts, tmp_path / "b.store", StopsAfter(steps))
        kept.append(
            open_store(tmp_path / "b.store").n_rows if (tmp_path / "b.store/manifest.json.partial").exists() else 0
        )
    assert kept == sorted(kept) and kept[-1] > kept[0] and not open_store(tmp_path / "b.store").complete
    with pytest.raises(AuditorError, match="other settings"):
        record(config(seed=1), tiny_llama, texts, tmp_path / "b.store")
    resumed = record(config(), tiny_llama, texts, tmp_path / "b.store")
    assert resumed.digest == straight.digest
    with pytest.raises(AuditorError, match="finished"):
        record(config(), tiny_llama, texts, tmp_path / "b.store")


def test_that_a_recorded_batch_replays_to_the_same_bytes(tiny_llama_folder, texts, tmp_path) -> None:
    tiny_llama = open_model(tiny_llama_folder)
    store = record(config(max_tokens=1500), tiny_llama, texts, tmp_path / "a.store")
    assert 1500 <= store.n_rows < 1500 + 8 * 40
    for batch in (0, 3):
        again = replay(store, tiny_llama, texts, batch)
        assert again.equal and again.rows > 40 and again.differing == []
    with pytest.raises(AuditorError, match="another sampl"):
        replay(store, tiny_llama, texts[:-1])
    with torch.no_grad():
        weight = tiny_llama.network.get_parameter("model.layers.0.mlp.down_proj.weight")
        weight += 0.01
        changed = replay(store, tiny_llama, texts, 3)
        weight -= 0.01
    assert not changed.equal and changed.largest_difference > 0


def test_that_the_first_token_can_be_kept_for_training(tiny_llama, tmp_path) -> None:
    # A text that itself begins with no begin token: the model's own one is special in either case.
    samples = [Sample("a", text="the cat sat")]
    store = record(config(skip_first=False), tiny_llama, samples, tmp_path / "a.store")
    assert store.counts() == {"special": 1, "text": store.n_rows - 1}


def test_that_what_cannot_be_recorded_is_told_and_leaves_whole_shards(tiny_llama_folder, texts, tmp_path) -> None:
    tiny_llama = open_model(tiny_llama_folder)
    with pytest.raises(AuditorError, match="no hook point"):
        record(config(hooks=("blocks.9",)), tiny_llama, texts, tmp_path / "a.store")
    with pytest.raises(AuditorError, match="no samples"):
        record(config(), tiny_llama, [], tmp_path / "a.store")
    with pytest.raises(AuditorError, match="opened in float32"):
        record(config(dtype="bfloat16"), tiny_llama, texts, tmp_path / "a.store")
    with torch.no_grad():
        weight = tiny_llama.network.get_parameter("model.embed_tokens.weight")
        token = int(tiny_llama.encode([Sample("x", text=" moon")]).ids[0, -1])
        kept = weight[token].clone()
        weight[token] = float("nan")
        try:
            with pytest.raises(AuditorError, match=r"Not a finite number.*hook point blocks\.1\.resid_post, sample “s"):
                record(config(), tiny_llama, texts, tmp_path / "b.store")
        finally:
            weight[token] = kept


def test_that_a_plan_is_close_to_what_happens(tiny_llama, texts, tmp_path) -> None:
    estimate = plan(config(), tiny_llama, texts, tmp_path / "a.store")
    store = record(config(), tiny_llama, texts, tmp_path / "a.store")
    size = sum(file.stat().st_size for file in store.path.glob("shard*"))
    assert abs(estimate.rows / store.n_rows - 1) < 0.3 and abs(estimate.bytes / size - 1) < 0.5
    assert estimate.fits and estimate.minutes > 0 and estimate.probed == 32
    weights = sum(p.numel() * p.element_size() for p in tiny_llama.network.parameters())
    assert weights < estimate.memory_bytes < estimate.free_memory_bytes
    for settings in (config(max_tokens=500), config(max_tokens=50, batch_size=64, split_long=True)):
        told = record(settings, tiny_llama, texts, tmp_path / f"{settings.max_tokens}.store").n_rows
        assert plan(settings, tiny_llama, texts).rows == pytest.approx(told, rel=0.15) and told > settings.max_tokens


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_that_a_batch_that_does_not_fit_is_told_in_a_sentence_and_what_is_there_stays(
    tiny_llama, texts, tmp_path, monkeypatch, error
) -> None:
    whole, turns = record(config(), tiny_llama, texts, tmp_path / "whole.store"), []

    def full(*given, **named):
        turns.append(None)
        if len(turns) == 3:
            raise error
        return launch(*given, **named)

    with monkeypatch.context() as patch, pytest.raises(AuditorError, match=r"A batch of 8 samples at 1 hook") as told:
        patch.setattr("auditor.store.record.launch", full)
        record(config(), tiny_llama, texts, tmp_path / "a.store")
    assert "smaller batch size" in told.value.hint
    assert record(config(), tiny_llama, texts, tmp_path / "a.store").digest == whole.digest


def test_that_a_plan_counts_the_tokens_of_texts_and_the_pictures_of_all_samples(tiny_paired, texts, tmp_path) -> None:
    rng = np.random.default_rng(3)
    pictures = [ImageRef.of(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(20)]
    long = [Sample(f"l{n}", text=" ".join([sample.text] * 6)) for n, sample in enumerate(texts)]
    short = [Sample(f"s{n}", text="a cat") for n in range(90)]
    samples = [*long, *short, *(Sample(f"p{n}", image=picture) for n, picture in enumerate(pictures))]
    settings = config(split_long=True, batch_size=4)
    estimate = plan(settings, tiny_paired, samples, tmp_path / "a.store")
    store = record(settings, tiny_paired, samples, tmp_path / "a.store")
    assert estimate.probed == 16
    assert estimate.rows == pytest.approx(store.n_rows, rel=0.02)


@pytest.mark.parametrize(
    ("device", "tokenizer", "spent", "seconds"),
    [
        ("cpu", None, (8.0, 2.0, 1.0), 11.0),  # one after the other
        ("cuda", None, (8.0, 2.0, 1.0), 2.0),  # four threads draw while the network runs,
        ("cuda", None, (1.0, 16.0, 1.0), 4.0),  # and prepare batches,
        ("cuda", object(), (1.0, 16.0, 1.0), 16.0),  # but one where there is a tokenizer
        ("cuda", None, (1.0, 2.0, 30.0), 30.0),
    ],
)
def test_that_a_plan_counts_what_goes_on_while_a_gpu_runs_once(
    device, tokenizer, spent, seconds, tiny_llama, texts, monkeypatch
) -> None:
    for where in ("plan", "capture"):
        monkeypatch.setattr(f"auditor.store.{where}.PREPARING", 4)
    hooks = ["blocks.0.resid_post"]
    probe = _Probe(groups_of(tiny_llama, hooks))
    captured = capture(tiny_llama, encode(tiny_llama, texts[:4], config()), hooks, config())
    probe.add(captured, spent, [])
    model: Any = SimpleNamespace(device=torch.device(device), tokenizer=tokenizer)
    assert probe.seconds_of(texts[:4], model) == pytest.approx(seconds)
    assert probe.seconds_of(texts[:12], model) == pytest.approx(3 * seconds)


def test_that_a_plan_counts_the_thumbnails_of_pictures_that_have_no_rows(tmp_path) -> None:
    ALL["clip"].save(tmp_path / "m")
    model, rng = open_model(tmp_path / "m"), np.random.default_rng(3)
    pictures = [ImageRef.of(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(70)]
    samples = [*(Sample(f"p{n}", image=picture) for n, picture in enumerate(pictures))]
    samples += [Sample(f"t{n}", text="one two red") for n in range(10)]
    settings = config(hooks=("blocks.0.resid_post",), batch_size=4)
    estimate = plan(settings, model, samples, tmp_path / "a.store")
    store = record(settings, model, samples, tmp_path / "a.store")
    assert estimate.rows == store.n_rows == 50
    assert estimate.bytes == pytest.approx(sum(shard.bytes for shard in store.manifest.shards), rel=0.1)


def test_that_captioned_images_and_texts_share_one_store(tiny_paired, texts, tmp_path) -> None:
    rng = np.random.default_rng(2)
    pictures = [ImageRef.of(rng.integers(0, 255, (90, 150, 3), dtype=np.uint8)) for _ in range(6)]
    images = [Sample(f"p{n}", image=picture, labels={"caption": f"noise {n}"}) for n, picture in enumerate(pictures)]
    store = record(config(batch_size=4), tiny_paired, [*images, *texts[:6]], tmp_path / "a.store")
    counts = store.counts()
    assert counts["image"] == 6 * 16 and counts["text"] > 0
    for number in range(store.n_samples):
        stored = store.sample(number)
        where = store.positions(slice(stored.first_row, stored.first_row + stored.n_rows))
        patches = where.kind == KINDS["image"]
        if stored.id.startswith("p"):
            assert where.unit[patches].tolist() == list(range(16)) and stored.grid == (4, 4)
            assert stored.caption == f"noise {stored.id[1:]}" and (where.token[patches] == -1).all()
            picture = Image.open(io.BytesIO(stored.image))
            assert picture.format == "WEBP" and picture.size == (96, 58)
        else:
            assert not patches.any() and stored.image is None and stored.grid is None
    maps = record(config(hooks=("vision.blocks.3.resid_post",)), tiny_paired, images, tmp_path / "c.store")
    rows, columns = maps.sample(0).grid
    assert maps.counts() == {"image": 6 * rows * columns} and maps.sample(0).tokens is None


def test_that_long_texts_are_recorded_in_pieces(tiny_llama, texts, tmp_path) -> None:
    whole = record(config(context=200), tiny_llama, texts[:20], tmp_path / "a.store")
    told: list[tuple[int, str]] = []
    reporter = Reporter()
    reporter.step = lambda done, total=0, note="", unit="": told.append((total, unit))  # type: ignore[method-assign]
    split = record(config(context=16, split_long=True), tiny_llama, texts[:20], tmp_path / "b.store", reporter)
    assert told[-1] == (split.n_samples, "pieces") and split.meta["pieces"] == split.n_samples > 20
    assert split.counts()["text"] == whole.counts()["text"]
    assert max(split.sample(number).n_rows for number in range(split.n_samples)) <= 16
    assert replay(split, tiny_llama, texts[:20], 1).equal
    assert any(split.sample(number).id.endswith("#2") for number in range(split.n_samples))


def test_that_a_small_recording_of_texts_is_known_to_fit_without_a_run(
    tiny_llama: Model, texts: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = plan(config(), tiny_llama, texts, tmp_path).bytes
    monkeypatch.setattr(Model, "run", lambda *_, **__: pytest.fail("the network ran"))
    assert surely_fits(config(), tiny_llama, texts, tmp_path)
    monkeypatch.setattr("auditor.store.plan._free", lambda _: needed)
    assert not surely_fits(config(), tiny_llama, texts, tmp_path)


def test_that_planning_stops_when_asked(tiny_llama: Model, texts: list[Sample], tmp_path: Path) -> None:
    control = Control()
    control.cancel()
    with pytest.raises(Stop):
        plan(config(), tiny_llama, texts, tmp_path, EventReporter(lambda _: None, control))


def test_that_a_stopped_recording_below_a_shard_s_size_is_not_begun_anew(
    tiny_llama: Model, texts: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditor.store.writer.SHARD_BYTES", 256 << 20)
    straight = record(config(), tiny_llama, texts[:40], tmp_path / "a.store")
    stops, ran = StopsAfter(3), []
    inner = Model.run
    monkeypatch.setattr(Model, "run", lambda *given, **how: ran.append(1) or inner(*given, **how))
    with pytest.raises(Stop):
        record(config(), tiny_llama, texts[:40], tmp_path / "b.store", stops)
    kept, before = open_store(tmp_path / "b.store"), len(ran)
    assert 0 < kept.n_samples < 40 and kept.n_samples == 8 * before
    assert record(config(), tiny_llama, texts[:40], tmp_path / "b.store").digest == straight.digest
    assert len(ran) == 5


def test_that_int8_is_measured_before_and_gathered_and_replayed_to_the_same_bytes(
    tiny_llama: Model, texts: list[Sample], tmp_path: Path
) -> None:
    from auditor.store.record import Recording
    from auditor.store.together import Gathering

    small = config(store_dtype="int8")
    store = record(small, tiny_llama, texts[:60], tmp_path / "a.store")
    gathering = Gathering(Recording.of(small, tiny_llama, texts[:60]), tmp_path / "b.store", Reporter())
    assert gathering.run(lambda: None).digest == store.digest
    assert replay(store, tiny_llama, texts[:60], 2).equal
    exact = record(config(store_dtype="float32"), tiny_llama, texts[:60], tmp_path / "c.store")
    usual = exact.positions().kind != KINDS["special"]
    rows, kept = exact.rows(usual), store.rows(usual)
    (cost,) = store.quantisation().values()
    fvu = np.square(kept - rows).sum() / np.square(rows - rows.mean(0)).sum()
    assert cost.fvu == pytest.approx(fvu, rel=0.02) and cost.fvu < 1e-3 and cost.clipped == 0


def test_that_a_folder_that_is_refused_is_left_as_it_was(tmp_path: Path) -> None:
    from auditor.store.writer import StoreWriter

    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "a.jpg").write_bytes(b"x")
    with pytest.raises(AuditorError, match="holds other files"):
        StoreWriter(foreign, {"blocks.0.resid_post": 4}, {})
    assert [file.name for file in foreign.iterdir()] == ["a.jpg"]
    with pytest.raises(ValueError, match="scales"):
        StoreWriter(tmp_path / "new", {"blocks.0.resid_post": 4}, {}, "int8")
    assert not (tmp_path / "new").exists()


def test_that_a_recording_that_fails_before_its_first_row_leaves_nothing(
    tiny_llama, texts, tmp_path, monkeypatch
) -> None:
    def fails(*_: object) -> None:
        raise AuditorError("No.", "Nothing.")

    monkeypatch.setattr("auditor.store.ahead.encode_inputs", fails)
    with pytest.raises(AuditorError, match="No"):
        record(config(), tiny_llama, texts, tmp_path / "a.store")
    assert list(tmp_path.iterdir()) == []


class Slow:
    """A writer whose disk takes nothing until it is let."""

    def __init__(self) -> None:
        self.let, self.batches = threading.Event(), list[int]()

    def append_groups(self, samples: list[int], rows: object, at: object) -> None:
        assert self.let.wait(60)
        self.batches += samples


class Ran:
    """A launched batch of so many bytes."""

    def __init__(self, number: int, n_bytes: int) -> None:
        self.samples, self.n_bytes = [number], n_bytes
        self.rows = self.at = None

    def captured(self) -> Ran:
        return self


def test_that_the_network_goes_on_while_the_disk_is_busy_as_far_as_its_bound() -> None:
    slow, told = Slow(), []
    with _behind(slow) as write:  # type: ignore[arg-type]
        for number in range(20):  # far more than two
            write(Ran(number, 1 << 20))  # type: ignore[arg-type]
        ahead = threading.Thread(target=lambda: told.append(write(Ran(20, 64 << 20))))  # type: ignore[arg-type]
        ahead.start()
        ahead.join(0.05)
        assert ahead.is_alive() and not slow.batches  # 84 MiB wait for the disk, and it waits too
        slow.let.set()
        ahead.join(60)
        assert told == [None]
    assert slow.batches == list(range(21))


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_that_rows_which_a_gpu_selects_and_narrows_are_those_of_a_cpu(
    tiny_paired: Model, texts, tmp_path, monkeypatch, stored
) -> None:
    rng = np.random.default_rng(2)
    pictures = [ImageRef.of(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(3)]
    samples = [*(Sample(f"p{n}", image=picture) for n, picture in enumerate(pictures)), *texts[:9]]
    settings = config(batch_size=4, store_dtype=stored, hooks=("vision.blocks.0.resid_post", "blocks.0.resid_post"))
    assert set(settings.hooks) <= set(tiny_paired.hook_points)
    store = record(settings, tiny_paired, samples, tmp_path / "a.store")
    monkeypatch.setattr("auditor.store.capture._selects", lambda device: True)
    again = record(settings, tiny_paired, samples, tmp_path / "b.store")
    assert again.digest == store.digest
    batch = encode(tiny_paired, texts[:5], settings)
    launched = launch(tiny_paired, batch, list(settings.hooks), settings, narrow=True)
    taken = launched.groups["text"]
    values = taken.values["blocks.0.resid_post"]
    assert values.shape == (len(taken.at), tiny_paired.hook_points["blocks.0.resid_post"].width)
    assert len(taken.at) < batch.inputs.ids.numel()
    assert values.dtype == (torch.float16 if stored == "float16" else torch.float32)


def test_that_what_a_batch_was_fed_is_let_go_before_its_rows_are_written(tiny_paired: Model) -> None:
    picture = Sample("p", text="a cat", image=ImageRef.of(np.zeros((32, 32, 3), np.uint8)))
    settings = config(hooks=("blocks.0.resid_post",))
    batch = encode(tiny_paired, [picture], settings)
    launched = launch(tiny_paired, batch, list(settings.hooks), settings)
    assert batch.inputs.pixels is not None and launched.captured().samples[0].image == batch.thumbnails[0]
    held = [weakref.ref(batch.inputs.pixels), weakref.ref(batch.inputs)]
    del batch
    assert [one() for one in held] == [None, None]
    assert launched.n_rows == len(launched.captured().rows["blocks.0.resid_post"])
    assert launched.n_bytes == 4 * launched.groups[""].values["blocks.0.resid_post"].numel()
