"""What a recording does with its samples: packs, writes conversations, leaves out what is unreadable or repeats."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from auditor.base.errors import AuditorError
from auditor.data import PositionKind, Sample, open_samples, text_sample
from auditor.models import Model, open_model
from auditor.store import Store
from auditor.store.plan import plan
from auditor.store.record import RecordConfig, record
from auditor.store.replay import replay
from tests.models.tiny import ALL, decoders
from tests.models.tiny.entry import Tiny

HOOKS = ("blocks.0.resid_post", "blocks.1.mlp_out")
SHORT = Tiny("llama of 20 tokens", decoders.of("LlamaConfig", max_position_embeddings=20))


def config(**changes: object) -> RecordConfig:
    asked = {"model": "m", "samples": "s", "hooks": HOOKS, "batch_size": 4, "context": 64, "store_dtype": "float32"}
    return RecordConfig(**asked | changes)


def by_name(store: Store) -> dict[str, dict[str, np.ndarray]]:
    """Of each sample its rows and columns."""
    found = {}
    for number in range(store.n_samples):
        sample = store.sample(number)
        index = slice(sample.first_row, sample.first_row + sample.n_rows)
        at = store.positions(index)
        assert (at.sample == number).all()
        columns = {"unit": at.unit, "kind": at.kind, "token": at.token, "tokens": np.array(sample.tokens)}
        found[sample.id] = {**columns, **{hook: store.rows(index, hook) for hook in HOOKS}}
    return found


def pictures(folder: Path, broken: int, fine: int = 3) -> Path:
    folder.mkdir()
    for number in range(fine + broken):
        pixels = np.random.default_rng(number).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        (folder / f"{number}.png").write_bytes(buffer.getvalue()[: 900 if number < broken else None])
    return folder


def test_that_packed_texts_have_the_rows_that_they_have_alone(
    tiny_llama: Model, texts: list[Sample], tmp_path: Path
) -> None:
    some = [*texts[:40], text_sample("a", "short"), text_sample("the cat sat on a mat " * 40, "long")]
    plain = record(config(), tiny_llama, some, tmp_path / "a.store")
    packed = record(config(pack=True), tiny_llama, some, tmp_path / "b.store")
    apart, together = by_name(plain), by_name(packed)
    assert apart.keys() == together.keys() and "long#2" in together and plain.n_rows == packed.n_rows
    for name, one in apart.items():
        for column in ("unit", "kind", "token", "tokens"):
            assert one[column].tolist() == together[name][column].tolist(), (name, column)
        for hook in HOOKS:
            assert np.allclose(one[hook], together[name][hook], rtol=1e-3, atol=2e-3), (name, hook)
        first = one["kind"] == int(PositionKind.SPECIAL)
        assert first[0] and together[name]["unit"][0] == -1
    batches = {packed.sample(number).batch for number in range(packed.n_samples)}
    assert len(batches) < len({plain.sample(number).batch for number in range(plain.n_samples)})
    again = replay(packed, tiny_llama, some, batch=1)
    assert again.equal and again.rows > 64 and plan(config(pack=True), tiny_llama, some).rows > 0


def test_that_the_first_word_of_each_packed_text_may_stay_in_training(
    tiny_llama: Model, texts: list[Sample], tmp_path: Path
) -> None:
    kinds = []
    for skip_first in (False, True):
        asked = config(pack=True, skip_first=skip_first)
        store = record(asked, tiny_llama, texts[:9], tmp_path / f"{skip_first}.store")
        kinds.append([store.positions(slice(store.sample(n).first_row, None)).kind[0] for n in range(store.n_samples)])
    assert kinds[0] == kinds[1] == [int(PositionKind.SPECIAL)] * 9  # each has its begin token, special in either case


@pytest.mark.parametrize("pack", [False, True])
def test_that_no_text_is_run_longer_than_the_network_reads(pack: bool, tmp_path: Path) -> None:
    SHORT.save(tmp_path / "short")
    model = open_model(tmp_path / "short")
    words = ["one two red", "cat " * 100]
    samples = [text_sample(words[0], "short"), text_sample(words[1], "long")]
    store = record(config(hooks=HOOKS[:1], context=256, pack=pack), model, samples, tmp_path / "a.store")
    held = {one.id: one for one in map(store.sample, range(store.n_samples))}
    assert held.keys() == {"short", *(f"long#{part}" for part in range(1, 7))}
    assert "".join(held[f"long#{part}"].text or "" for part in range(1, 7)) == words[1]
    assert max(one.n_rows for one in held.values()) == model.longest_text == 20
    whole = record(config(hooks=HOOKS[:1], context=256, split_long=False), model, samples, tmp_path / "b.store")
    assert sorted(whole.sample(number).n_rows for number in range(2)) == [4, 20]


def test_that_texts_are_packed_into_sequences_no_longer_than_the_network_reads(tmp_path: Path) -> None:
    """GPT-Neo keeps a mask of so many positions."""
    ALL["gpt_neo"].save(tmp_path / "neo")
    model = open_model(tmp_path / "neo")
    samples = [text_sample("one two red cat " * (5 + number % 3), str(number)) for number in range(8)]
    held = config(hooks=("blocks.1.resid_post",), context=256, batch_size=2, store_dtype="float32")
    alone = record(held, model, samples, tmp_path / "a.store")
    store = record(held.model_copy(update={"pack": True}), model, samples, tmp_path / "b.store")
    assert alone.n_rows == store.n_rows > 2 * (model.longest_text or 0) and store.n_samples == 8
    by_id = {one.id: one for one in map(alone.sample, range(8))}
    for one in map(store.sample, range(8)):
        theirs = by_id[one.id]
        rows, wanted = (
            s.rows(slice(at.first_row, at.first_row + at.n_rows)) for s, at in ((store, one), (alone, theirs))
        )
        np.testing.assert_allclose(rows, wanted, atol=1e-5)


def test_that_hook_points_may_stand_in_one_text() -> None:
    assert config(hooks=("blocks.0.q, blocks.1.resid_post", "embed")).hooks == (
        "blocks.0.q", "blocks.1.resid_post", "embed",
    )  # fmt: skip


def test_that_conversations_are_recorded_as_the_model_is_shown_them(tiny_llama: Model, tmp_path: Path) -> None:
    talks = [
        Sample(
            f"t{n}", messages=({"role": "user", "content": f"Is {n} even?"}, {"role": "assistant", "content": "Yes"})
        )
        for n in range(5)
    ]
    store = record(config(), tiny_llama, [*talks, text_sample("plain", "p")], tmp_path / "a.store")
    shown = {store.sample(n).id: store.sample(n).text for n in range(store.n_samples)}
    assert shown["t3"] == tiny_llama.tokenizer.apply_chat_template(list(talks[3].messages or ()), tokenize=False)
    found = by_name(store)["t3"]
    marks = np.isin(found["tokens"], ["<|im_start|>", "<|im_end|>"])
    assert marks.sum() >= 4 and (found["kind"][marks] == int(PositionKind.SPECIAL)).all()
    assert replay(store, tiny_llama, [*talks, text_sample("plain", "p")]).equal


def test_that_what_cannot_be_read_is_left_out_and_stands_in_the_record(tiny_paired: Model, tmp_path: Path) -> None:
    samples = open_samples(pictures(tmp_path / "some", broken=2))
    store = record(config(), tiny_paired, samples, tmp_path / "a.store")
    assert sorted(store.sample(n).id for n in range(store.n_samples)) == ["2.png", "3.png", "4.png"]
    told = store.meta["left_out"]
    assert told["unreadable"] == 2 and told["repeats"] == 0 and "“0.png” is damaged" in told["first"][0]
    assert store.meta["samples"]["count"] == 5
    assert replay(store, tiny_paired, samples).equal
    estimate = plan(config(), tiny_paired, samples)
    assert 0 < estimate.probed <= 3 * 2


def test_that_strict_refuses_and_nothing_readable_leaves_nothing(tiny_paired: Model, tmp_path: Path) -> None:
    samples = open_samples(pictures(tmp_path / "some", broken=1))
    with pytest.raises(AuditorError, match=r"“0\.png” is damaged"):
        record(config(strict=True), tiny_paired, samples, tmp_path / "a.store")
    none = open_samples(pictures(tmp_path / "none", broken=3, fine=0))
    for attempt in (lambda: record(config(), tiny_paired, none, tmp_path / "a.store"),
                    lambda: plan(config(), tiny_paired, none)):  # fmt: skip
        with pytest.raises(AuditorError, match="None of the 3 items"):
            attempt()
    assert not (tmp_path / "a.store").exists()


def test_that_repeats_are_left_out_where_that_is_asked(tiny_llama: Model, texts: list[Sample], tmp_path: Path) -> None:
    twice = [*texts[:6], *(Sample(f"again {s.id}", text=f" {s.text}\r\n") for s in texts[:4])]
    store = record(config(unique=True), tiny_llama, twice, tmp_path / "a.store")
    assert store.n_samples == 6 and store.meta["left_out"] == {"unreadable": 0, "first": [], "repeats": 4}
    assert record(config(), tiny_llama, twice, tmp_path / "b.store").n_samples == 10


def test_that_packing_is_refused_where_texts_would_see_one_another(tiny_paired: Model, tmp_path: Path) -> None:
    samples = open_samples(pictures(tmp_path / "some", broken=0))
    with pytest.raises(AuditorError, match=r"keep several texts of one sequence apart|Only texts can be packed"):
        record(config(pack=True), tiny_paired, samples, tmp_path / "a.store")
    assert not (tmp_path / "a.store").exists()
