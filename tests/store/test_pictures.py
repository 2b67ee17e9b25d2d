"""Recordings of samples with several pictures: which picture and patch a row is of, and what is shown of it."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data import ImageRef, Sample, Samples, open_samples
from auditor.features.build import BuildConfig, build
from auditor.features.fires import fires_on
from auditor.models import Inputs, Model, open_model
from auditor.sae import Sae
from auditor.sae.splice import spliced_loss
from auditor.store.ahead import encoded_ahead
from auditor.store.plan import plan
from auditor.store.recipe import checked_samples
from auditor.store.record import RecordConfig, Recording, record
from auditor.store.replay import replay
from auditor.store.row import row_of
from auditor.store.samples import StoredSample, pack, unpack
from auditor.store.together import Gathering
from tests.models.tiny import ALL

HOOK = "blocks.1.resid_post"
SHADES = {"parts": (20, 230), "talk": (230, 120)}
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in "
    "m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %} "
    "{% endfor %}"
)


@pytest.fixture(scope="module", params=["qwen2_5_vl", "smolvlm"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder = tmp_path_factory.mktemp("models") / request.param
    ALL[request.param].save(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    yield open_model(folder)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    folder = tmp_path_factory.mktemp("pictures")
    for name, shade, size in (("dark", 20, (24, 20)), ("light", 230, (12, 33)), ("mid", 120, (24, 20))):
        pixels = np.random.default_rng(shade).integers(-15, 16, (size[1], size[0], 3)) + shade
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes((folder / "mid.png").read_bytes()[:60])
    Image.new("RGB", (1, 700)).save(folder / "narrow.png")
    user = [{"type": "text", "text": "one"}, {"type": "image"}, {"type": "text", "text": "two"}, {"type": "image"}]
    rows = [
        {"id": "parts", "parts": ["red ", {"image": "dark.png"}, " cat ", {"image": "light.png"}], "group": "g"},
        {"id": "talk", "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": "three"}],
         "images": ["light.png", "mid.png"]},
        {"id": "one", "parts": ["red ", {"image": "mid.png"}]},
        {"id": "text", "parts": ["one two three <image>"]},
        {"id": "broken", "parts": ["red ", {"image": "dark.png"}, {"image": "broken.png"}]},
        {"id": "narrow", "parts": ["red ", {"image": "narrow.png"}]},
    ]  # fmt: skip
    (folder / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return open_samples(folder / "set.jsonl")


def config(*hooks: str) -> RecordConfig:
    return RecordConfig(model="m", samples="s", hooks=hooks, batch_size=2, store_dtype="float32", context=64)


def test_that_each_row_tells_its_picture_and_its_patch_there(model: Model, samples: Samples, tmp_path: Path) -> None:
    hooks = ("vision.blocks.0.resid_post", HOOK)
    estimate = plan(config(*hooks), model, samples, tmp_path)
    store = record(config(*hooks), model, samples, tmp_path / "a.store")
    refused = model.family == "qwen2_5_vl"
    assert estimate.rows > 0 and store.meta["left_out"]["unreadable"] == 1 + refused
    told = store.meta["left_out"]["first"]
    assert "broken.png" in told[0] and (not refused or "1 × 700 pixels is too long and narrow" in told[1])
    names = [store.at(HOOK).sample(n).id for n in range(store.n_samples)]
    assert sorted(names) == [*(["narrow"] if not refused else []), "one", "parts", "talk", "text"]
    for hook in hooks:
        held = store.at(hook)
        for number, name in enumerate(names):
            sample = held.sample(number)
            at = held.positions(slice(sample.first_row, sample.first_row + sample.n_rows))
            places = [sample.place(int(unit)) for unit, kind in zip(at.unit, at.kind, strict=True) if kind == 2]
            seen = {place[0] for place in places if place is not None}
            assert None not in places and seen == ({0, 1} if name in SHADES else set() if name == "text" else {0})
            assert len(set(at.unit[at.kind == 2])) == len(places)
            # What a thumbnail shows under a patch is the picture that the patch is of.
            if name in SHADES:
                thumbnail = np.asarray(Image.open(io.BytesIO(sample.image or b"")).convert("L"), float)
                assert sample.grid is not None
                for unit in at.unit[at.kind == 2].tolist():
                    y, x = divmod(unit, sample.grid[1])
                    place = sample.place(unit)
                    assert place is not None
                    high, wide = thumbnail.shape[0] / sample.grid[0], thumbnail.shape[1] / sample.grid[1]
                    found = thumbnail[int((y + 0.5) * high), int((x + 0.5) * wide)]
                    assert abs(found - SHADES[name][place[0]]) < 40


def test_that_the_thumbnail_of_parts_lies_under_the_patches_that_are_recorded(samples: Samples, tmp_path: Path) -> None:
    ALL["idefics2"].save(tmp_path / "idefics2")
    model, hook = open_model(tmp_path / "idefics2"), "vision.blocks.0.resid_post"
    store = record(config(hook), model, [sample for sample in samples if sample.id == "parts"], tmp_path / "a.store")
    sample = store.sample(0)
    assert sample.grid is not None and len(sample.panels) == 10
    thumbnail = np.asarray(Image.open(io.BytesIO(sample.image or b"")).convert("L"), float)
    high, wide = thumbnail.shape[0] / sample.grid[0], thumbnail.shape[1] / sample.grid[1]
    for unit in store.positions(slice(0, store.n_rows)).unit.tolist():
        y, x = divmod(unit, sample.grid[1])
        place = sample.place(unit)
        assert place is not None
        assert abs(thumbnail[int((y + 0.5) * high), int((x + 0.5) * wide)] - SHADES["parts"][place[0]]) < 40


@pytest.mark.parametrize("processes", [1, 2])
def test_that_the_tower_and_the_text_each_have_a_thumbnail_where_tokens_were_joined(
    tmp_path: Path, processes: int
) -> None:
    """Of a picture of 200 × 150 pixels that is dark above and bright below, tiles have 8 × 6 cells, the text 4 × 3."""
    ALL["llava_onevision"].save(tmp_path / "onevision")
    model, hooks = open_model(tmp_path / "onevision"), ("vision.blocks.0.resid_post", HOOK)
    shades = np.broadcast_to(np.linspace(0, 240, 200)[:, None, None], (200, 150, 3)).astype(np.uint8)
    sample = Sample("a", text="one <image> red", image=ImageRef.of(shades))
    if processes == 1:
        store = record(config(*hooks), model, [sample], tmp_path / "a.store")
    else:  # as a queue, whose pieces are put together
        recording, out = Recording.of(config(*hooks), model, [sample]), tmp_path / "a.store"
        store = Gathering(recording, out, Reporter()).run(lambda: None)
    grids = set()
    for hook in hooks:
        found = store.at(hook).sample(0)
        assert found.grid is not None and len(found.panels) == 2
        grids.add(found.grid)
        thumbnail = np.asarray(Image.open(io.BytesIO(found.image or b"")).convert("L"), float)
        high, wide = thumbnail.shape[0] / found.grid[0], thumbnail.shape[1] / found.grid[1]
        for _, top, left, rows, columns in found.panels:
            for y, x in np.ndindex(rows, columns):
                shown = thumbnail[int((top + y + 0.5) * high), int((left + x + 0.5) * wide)]
                assert abs(shown - 240 * (y + 0.5) / rows) < 25
    assert len(grids) == 2


def test_that_what_is_longer_than_the_context_before_its_last_picture_is_left_out_and_told(
    model: Model, samples: Samples, tmp_path: Path
) -> None:
    kept = checked_samples(samples, model, config(HOOK).model_copy(update={"context": 6}))
    assert {"one", "text"} <= {sample.id for sample in kept} and "talk" not in {sample.id for sample in kept}
    assert any("“talk” has " in told and "the context is 6" in told for told in kept.skips.first)


def whole(width: int, hook: str) -> Sae:
    """A dictionary that loses nothing: each number's positive and negative part."""
    each = torch.eye(width)
    both = torch.cat([each, -each])
    return Sae("relu", both.T, both, torch.zeros(2 * width), torch.zeros(width), hook=hook)


@pytest.mark.parametrize("hook", [HOOK, "vision.blocks.0.resid_post", "image_tokens"])
def test_that_a_dictionary_that_loses_nothing_costs_nothing_spliced_among_several_pictures(
    model: Model, samples: Samples, hook: str
) -> None:
    ready = list(checked_samples(samples, model, config(hook)))
    found = spliced_loss(model, whole(model.hook_points[hook].width, hook), ready, batch_size=3)
    assert found.n > 0 and abs(found.spliced - found.clean) < 1e-4 < abs(found.mean_ablated - found.clean)


def test_that_a_recording_of_several_pictures_is_replayed_bit_for_bit(
    model: Model, samples: Samples, tmp_path: Path
) -> None:
    store = record(config(HOOK), model, samples, tmp_path / "a.store")
    for batch in range(2):
        assert replay(store, model, samples, batch).equal


def test_that_a_row_of_a_picture_is_told_and_its_patches_lie_over_the_sheet(
    model: Model, samples: Samples, tmp_path: Path
) -> None:
    store = record(config(HOOK), model, samples, tmp_path / "a.store")
    number = next(n for n in range(store.n_samples) if store.sample(n).id == "parts")
    sample = store.sample(number)
    at = store.positions(slice(sample.first_row, sample.first_row + sample.n_rows))
    last = sample.first_row + int(np.flatnonzero(at.kind == 2)[-1])
    row = row_of(store, HOOK, last)
    told = row.told()
    assert told["picture"] == 2 and told["patch_row"] >= 1 and told["patch_column"] >= 1
    laid = row.patches(np.linalg.norm(row.beside, axis=1))
    assert laid is not None and laid.shape == sample.grid
    assert int(np.isfinite(laid).sum()) == int((at.kind == 2).sum()) < laid.size


def test_that_an_example_of_a_feature_lies_over_the_picture_where_it_fires(
    model: Model, samples: Samples, tmp_path: Path
) -> None:
    store = record(config(HOOK), model, samples, tmp_path / "a.store")
    sae = whole(store.hook_points[HOOK], HOOK)
    found = build(BuildConfig(store="s", dictionary="d"), store, sae, None, tmp_path / "a.index")
    seen = 0
    for feature in range(found.n_features):
        for example in found.feature(feature).examples_of("image", "top"):
            if example.sample_id not in ("parts", "talk"):
                continue
            seen += 1
            rows = store.rows(slice(example.row, example.row + 1), HOOK)
            values, ids = sae.encode_sparse(torch.from_numpy(rows))
            fired = float(values[0][ids[0] == feature])
            assert abs(example.peak_activation - fired) < 1e-3 * max(fired, 1)
            at = store.positions(slice(example.row, example.row + 1))
            sample = store.sample(int(at.sample[0]))
            place = sample.place(int(at.unit[0]))
            assert example.grid == sample.grid and example.peak == int(at.unit[0]) and place is not None
            assert example.picture == place[0] + 1 and example.image
            # The others are kept in steps of a 255th of the feature's largest.
            assert max(example.activations) - example.activations[example.peak] < found.table["max_act"][feature] / 255
    assert seen > 0


def test_that_what_fires_on_several_pictures_lies_over_all_of_them_side_by_side(model: Model, samples: Samples) -> None:
    sample = next(sample for sample in samples if sample.id == "parts")
    found = fires_on(None, model, whole(model.hook_points[HOOK].width, HOOK), sample)
    assert found.picture is not None and found.grid is not None
    grey = found.picture.mean(-1)
    held = {int(unit) for unit, kind in zip(found.units, found.kinds, strict=True) if kind == 2}
    seen = set()
    for unit in held:
        y, x = divmod(unit, found.grid[1])
        high, wide = grey.shape[0] / found.grid[0], grey.shape[1] / found.grid[1]
        shade = grey[int((y + 0.5) * high), int((x + 0.5) * wide)]
        near = [at for at, wanted in enumerate(SHADES["parts"]) if abs(shade - wanted) < 40]
        assert len(near) == 1
        seen.add(near[0])
    assert seen == {0, 1} and len(held) < found.grid[0] * found.grid[1]


def test_that_a_panel_that_no_sheet_has_is_told_as_damage() -> None:
    fine = StoredSample("a", grid=(4, 4), panels=((0, 0, 0, 4, 4),))
    assert unpack(pack(fine, 0), b"", 0, 1, "here").panels == fine.panels
    for panels in (((0, 0, 0, 4),), ((0, 0, 0, 4, 1 << 40),), ((-1, 0, 0, 4, 4),)):
        with pytest.raises(AuditorError, match="here is damaged"):
            unpack(pack(replace(fine, panels=panels), 0), b"", 0, 1, "here")  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["vit", "clip", "llava", "paligemma", "qwen2_5_vl", "smolvlm"])
def test_that_pictures_prepared_by_several_threads_are_recorded_as_by_one(
    family: str, tmp_path: Path, monkeypatch
) -> None:
    """With a tokenizer, which serves one thread, and without; samples that cannot be read are left out in their
    order."""
    tiny = ALL[family]
    tiny.save(tmp_path / "model")
    model = open_model(tmp_path / "model")
    (tmp_path / "pictures").mkdir()
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 33, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(file := tmp_path / "pictures" / f"{number:02}.png")
        if number % 9 == 4:
            file.write_bytes(file.read_bytes()[:50])
    hook = next(name for name, point in model.hook_points.items() if point.stream == "vision")
    held = RecordConfig(model="m", samples="s", hooks=(hook,), batch_size=3)
    made, said, digests, both = Model.pictured, Model.outlined, list[str](), threading.Barrier(2)
    at_once, most = threading.Lock(), list[bool]()

    def pictured(self: Model, inputs: Inputs) -> Inputs:
        if len(digests) == 1 and turns.acquire(blocking=False):
            both.wait(60)  # until another batch is being prepared beside this one
        return made(self, inputs)

    def outlined(self: Model, given: Sequence[Sample], *more: Any) -> Inputs:
        most.append(at_once.acquire(blocking=False))
        try:
            return said(self, given, *more)
        finally:
            if most[-1]:
                at_once.release()

    monkeypatch.setattr(Model, "pictured", pictured)
    if model.tokenizer is not None:
        monkeypatch.setattr(Model, "outlined", outlined)
    for count in (1, 4):
        turns = threading.Semaphore(2)
        for where in ("store.ahead", "store.capture", "data.checked"):
            monkeypatch.setattr(f"auditor.{where}.PREPARING", count)
        store = record(held, model, open_samples(tmp_path / "pictures"), tmp_path / f"{count}.store")
        digests.append(store.digest)
        assert store.meta["left_out"]["unreadable"] == 4 and store.n_samples == 36
    assert digests[0] == digests[1] and all(most)


def test_that_what_fails_while_pictures_are_prepared_is_told_and_leaves_no_thread(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("auditor.store.ahead.PREPARING", 4)
    ALL["llava"].save(tmp_path / "model")
    model = open_model(tmp_path / "model")
    given = [Sample(str(n), text="one", image=ImageRef.of(np.full((20, 20, 3), n, np.uint8))) for n in range(40)]
    made, turns = Model.pictured, iter(range(99))

    def pictured(self: Model, inputs: Inputs) -> Inputs:
        if next(turns) == 5:
            raise AuditorError("This picture does not fit.", "Leave it out.")
        return made(self, inputs)

    monkeypatch.setattr(Model, "pictured", pictured)
    held = RecordConfig(model="m", samples="s", hooks=(HOOK,), batch_size=2)
    with pytest.raises(AuditorError, match="does not fit"):
        record(held, model, given, tmp_path / "a.store")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("record-prepare")]


class Counted(list[Sample]):
    """Samples that say how many of them were asked for."""

    asked = 0

    def __getitem__(self, number: Any) -> Any:
        self.asked += 1
        return super().__getitem__(number)


@pytest.mark.parametrize(("sides", "first", "last"), [((20, 20), 4, 3), ((400, 400), 1, 1), ((20, 400), 4, 1)])
def test_that_pictures_as_they_were_decoded_count_in_what_is_prepared_ahead(
    sides: tuple[int, int], first: int, last: int, tmp_path: Path, monkeypatch
) -> None:
    """What a network is given of a large picture is small, but the picture is held until then."""
    monkeypatch.setattr("auditor.store.ahead.PREPARING", 4)
    monkeypatch.setattr("auditor.store.ahead._READY_BYTES", 1 << 20)
    ALL["vit"].save(tmp_path / "model")
    model = open_model(tmp_path / "model")
    pictures = [ImageRef.of(np.zeros((side, side, 3), np.uint8)) for side in sides for _ in range(20)]
    samples = Counted(Sample(str(number), image=picture) for number, picture in enumerate(pictures))
    held = RecordConfig(model="m", samples="s", batch_size=2)
    with encoded_ahead(model, samples, [[n, n + 1] for n in range(0, 40, 2)], held) as coming:
        found = [(encoded.samples[0].id, samples.asked // 2 - turn - 1) for turn, encoded in enumerate(coming)]
    assert [id for id, _ in found] == [str(number) for number in range(0, 40, 2)]
    assert max(more for _, more in found[:6]) == first and max(more for _, more in found[16:]) == last


def test_that_pictures_far_larger_than_those_before_them_are_not_decoded_all_at_once(
    tmp_path: Path, monkeypatch
) -> None:
    """While the network is at a batch of small ones, the next batch is decoded, and no more than there is room for."""
    monkeypatch.setattr("auditor.store.ahead.PREPARING", 2)
    monkeypatch.setattr("auditor.store.ahead._READY_BYTES", 1 << 20)
    ALL["vit"].save(tmp_path / "model")
    model, seen, load = open_model(tmp_path / "model"), list[int](), ImageRef.load
    files = []
    for side in (20, 700):
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(file := io.BytesIO(), "PNG")
        files.append(file.getvalue())

    def loaded(self: ImageRef) -> Any:
        found = load(self)
        if self.array is None and len(found) == 700:
            seen.append(1)
        return found

    monkeypatch.setattr(ImageRef, "load", loaded)
    samples = [Sample(str(n), image=ImageRef.held(files[n >= 40], str(n))) for n in range(80)]
    held = RecordConfig(model="m", samples="s", batch_size=8)
    with encoded_ahead(model, samples, [list(range(n, n + 8)) for n in range(0, 80, 8)], held) as coming:
        ahead = []
        for turn, batch in enumerate(coming):
            assert batch.samples[0].id == str(8 * turn)
            time.sleep(0.5 if turn == 4 else 0)
            ahead.append(len(seen) - 8 * max(turn - 4, 0))
    assert ahead[3] <= 8 + 2 and 8 <= ahead[4] <= 8 + 2 and max(ahead) <= 8 + 2


def test_that_a_recording_that_is_stopped_does_not_decode_what_is_left(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("auditor.store.ahead.PREPARING", 2)
    ALL["vit"].save(tmp_path / "model")
    model, seen, load = open_model(tmp_path / "model"), list[str](), ImageRef.load
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(file := io.BytesIO(), "PNG")

    def loaded(self: ImageRef) -> Any:
        if self.array is None:
            seen.append(self.name)
            time.sleep(0.01)
        return load(self)

    monkeypatch.setattr(ImageRef, "load", loaded)
    samples = [Sample(str(n), image=ImageRef.held(file.getvalue(), str(n))) for n in range(300)]
    held = RecordConfig(model="m", samples="s", batch_size=50)
    with encoded_ahead(model, samples, [list(range(n, n + 50)) for n in range(0, 300, 50)], held) as coming:
        next(coming)
        before = len(seen)
    assert len(seen) <= before + 2


def test_that_text_beside_pictures_is_cut_to_what_the_network_reads_with_them(tmp_path: Path, monkeypatch) -> None:
    """Where the context leaves no room for the pictures; what stands before the last one is never cut."""
    ALL["llava"].save(tmp_path / "model")
    model, red = open_model(tmp_path / "model"), ImageRef.of(np.full((20, 20, 3), 90, np.uint8))
    monkeypatch.setattr(model._adapter, "longest", lambda: 30)
    monkeypatch.setattr(model, "longest_text", 30)
    words = "one two red cat " * 8
    given = Samples("s", [
        Sample("before", text=words, image=red), Sample("behind", text=f"{words}<image>", image=red),
        Sample("short", text="one", image=red),
    ])  # fmt: skip
    held = RecordConfig(model="m", samples="s", hooks=(HOOK,), context=30, batch_size=4)
    store = record(held, model, given, tmp_path / "a.store")
    assert {one.id: one.n_rows for one in map(store.sample, range(store.n_samples))} == {"before": 30, "short": 6}
    assert store.meta["left_out"]["unreadable"] == 1


@pytest.mark.parametrize(
    ("family", "bad", "why"),
    [
        ("clip", (1, 300_000), "too long and narrow"),
        ("llava", (1, 300_000), "too long and narrow"),
        ("vit", (20, 30), "does not resize"),
    ],
)
def test_that_a_picture_that_cannot_be_prepared_is_left_out_with_its_sentence(
    family: str, bad: tuple[int, int], why: str, tmp_path: Path
) -> None:
    ALL[family].save(tmp_path / "model")
    if family == "vit":
        (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps({"do_resize": False}), "utf-8")
    model = open_model(tmp_path / "model")
    hook = next(name for name, point in model.hook_points.items() if point.stream == "vision")
    given = Samples("s", [
        Sample(str(n), text="one", image=ImageRef.of(np.zeros((*size, 3), np.uint8)))
        for n, size in enumerate([(16, 16), bad, (16, 16)])
    ])  # fmt: skip
    held = RecordConfig(model="m", samples="s", hooks=(hook,), batch_size=4)
    store = record(held, model, given, tmp_path / "a.store")
    assert sorted(store.sample(n).id for n in range(store.n_samples)) == ["0", "2"]
    assert why in store.meta["left_out"]["first"][0] and f"{bad[1]} × {bad[0]}" in store.meta["left_out"]["first"][0]
