"""The build against ten-line numpy references on a store whose activations are known number by number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from auditor.base.digest import digest_folder
from auditor.base.errors import AuditorError, Stop
from auditor.base.reporter import Control, EventReporter
from auditor.features.build import BuildConfig, build
from auditor.features.index import Index
from tests.features.conftest import (
    DEAD,
    GENERIC,
    IMAGE,
    IMAGE_ONLY,
    PLANTED,
    TEXT,
    TEXT_ONLY,
    WIDTH,
    Planted,
    relu_identity,
)  # fmt: skip
from tests.small_disks import disk_of


def test_that_every_figure_of_the_table_equals_its_numpy_reference(index: Index, planted: Planted) -> None:
    z, text, image = planted.z, planted.kind == TEXT, planted.kind == IMAGE
    used = z[text | image]
    fires = (used > 0).sum(0)
    table = index.table
    assert np.allclose(table["density"], fires / len(used))
    assert np.allclose(table["density_text"], (z[text] > 0).mean(0))
    assert np.allclose(table["density_image"], (z[image] > 0).mean(0))
    assert np.allclose(table["max_act"], used.max(0))
    assert np.allclose(table["max_text"], z[text].max(0))
    assert np.allclose(table["max_image"], z[image].max(0))
    with np.errstate(invalid="ignore"):
        assert np.allclose(table["mean_act"], used.sum(0) / fires, equal_nan=True)
        assert np.allclose(table["image_share"], z[image].sum(0) / used.sum(0), equal_nan=True)
        assert np.allclose(table["image_fires"], (z[image] > 0).sum(0) / fires, equal_nan=True)
    assert DEAD not in index.live and np.isnan(table["mean_act"][DEAD])
    assert index.meta["rows"] == {"text": int(text.sum()), "image": int(image.sum())}


def test_that_histograms_of_both_modalities_lie_on_the_same_edges_and_count_every_firing(
    index: Index, planted: Planted
) -> None:
    for i in (PLANTED, GENERIC, TEXT_ONLY, IMAGE_ONLY, 11):
        histogram = index.feature(i).histogram
        column = planted.z[:, i]
        for kind, counts in ((TEXT, histogram.text), (IMAGE, histogram.image)):
            values = column[(planted.kind == kind) & (column > 0)]
            assert counts.sum() == len(values)
            reference = np.histogram(values, 24, (0.0, float(index.table["max_act"][i])))[0]
            assert np.array_equal(counts, reference)
        assert histogram.edges[0] == 0 and histogram.edges[-1] == pytest.approx(planted.z[:, i].max())


def test_that_a_planted_feature_is_found_with_its_examples_and_named_after_its_word(
    index: Index, planted: Planted
) -> None:
    assert index.auto_labels[PLANTED] == "padlock"
    found = index.search("padlock")
    assert found[0] == PLANTED
    feature = index.feature(PLANTED)
    assert feature.modality == "both" and feature.label == "" and feature.title == "padlock"
    texts = feature.examples_of("text", "top")
    assert len(texts) == 12 and all(e.tokens[e.peak] == " padlock" for e in texts)
    images = feature.examples_of("image", "top")
    assert images and all(e.caption == "a padlock" and e.grid == (2, 2) for e in images)
    for example in images:
        assert example.image == planted.store.sample(int(example.sample_id.split("-")[1])).image


def test_that_the_strongest_example_is_the_largest_activation_and_examples_fall_in_order(
    index: Index, planted: Planted
) -> None:
    for i in (PLANTED, GENERIC, TEXT_ONLY, 12):
        column = np.where(planted.kind == TEXT, planted.z[:, i], 0)
        texts = index.feature(i).examples_of("text", "top")
        assert texts[0].row == int(column.argmax())
        assert texts[0].peak_activation == pytest.approx(column.max(), rel=1e-4)
        peaks = [e.peak_activation for e in texts]
        assert peaks == sorted(peaks, reverse=True)
        rows = [e.row for e in texts]
        near = [(a, b) for a in rows for b in rows if a < b and b - a <= 12]
        assert all(planted.sample[a] != planted.sample[b] for a, b in near)


def test_that_activations_around_a_peak_are_those_of_the_store(index: Index, planted: Planted) -> None:
    for i in (GENERIC, TEXT_ONLY, PLANTED, 14):
        step = float(index.table["max_act"][i]) / 255
        for example in index.feature(i).examples_of("text"):
            start = example.row - example.peak
            want = planted.z[start:start + len(example.tokens), i]
            assert np.abs(np.array(example.activations) - want)[want > step / 2].max(initial=0) <= step * 0.51
            assert np.abs(np.array(example.activations) - want).max() <= step * 1.01
            assert len(example.tokens) <= 25
            assert ((np.array(example.activations) > 0) == (want > 0)).all()
            assert (planted.kind[start:start + len(example.tokens)] == TEXT).all()
        for example in index.feature(i).examples_of("image"):
            patches = np.flatnonzero((planted.sample == planted.sample[example.row]) & (planted.kind == IMAGE))
            assert np.abs(np.array(example.activations) - planted.z[patches, i]).max() <= step * 1.01
            assert patches[example.peak] == example.row


def test_that_band_examples_lie_in_their_band_of_the_firings(index: Index, planted: Planted) -> None:
    column = planted.z[planted.kind == TEXT, GENERIC]
    low = {"q90": 0.90, "q50": 0.50, "q10": 0.10}
    high = {"q90": 0.99, "q50": 0.90, "q10": 0.50}
    for group in low:
        examples = index.feature(GENERIC).examples_of("text", group)
        assert len(examples) == 4
        for example in examples:
            rank = (column < planted.z[example.row, GENERIC]).mean()
            assert low[group] - 1e-3 <= rank <= high[group] + 1e-3


def test_that_near_misses_hold_the_word_but_the_feature_is_silent_there(index: Index, planted: Planted) -> None:
    seen = 0
    for i in index.live:
        for example in index.feature(int(i)).examples:
            if example.group == "miss":
                seen += 1
                same = (planted.sample == planted.sample[example.row]) & (planted.kind == planted.kind[example.row])
                assert planted.z[same, i].max() == 0 and max(example.activations) == 0
    assert seen > 0


def test_that_a_feature_on_one_concept_agrees_across_modalities_and_others_do_not(index: Index) -> None:
    row = index.table[PLANTED]
    assert row["agreement"] > 0.9 and row["agreement_low"] <= row["agreement"] <= row["agreement_high"] + 1e-6
    assert np.isnan(index.table["agreement"][TEXT_ONLY]) and np.isnan(index.table["agreement"][IMAGE_ONLY])
    others = np.delete(index.table["agreement"], PLANTED)
    assert row["agreement"] > np.nanmax(others)


def test_that_nearest_features_are_those_of_the_largest_cosine(index: Index, planted: Planted) -> None:
    W = planted.sae.W_dec.numpy()
    unit = W / np.linalg.norm(W, axis=1, keepdims=True)
    cosines = unit @ unit.T
    for i in range(WIDTH):
        order = [int(j) for j in np.argsort(-cosines[i]) if j != i][:16]
        nearest = index.feature(i).nearest
        assert [j for j, _ in nearest] == order
        assert np.allclose([c for _, c in nearest], cosines[i, order], atol=1e-3)


def test_that_the_same_inputs_give_the_same_bytes(index: Index, planted: Planted, tmp_path: Path) -> None:
    again = build(BuildConfig(batch_size=500), planted.store, planted.sae, None, tmp_path / "again.index")
    assert digest_folder(again.path) == digest_folder(index.path)
    other = build(BuildConfig(batch_size=500, seed=1), planted.store, planted.sae, None, tmp_path / "other.index")
    assert other.digest != index.digest


def test_that_the_batch_size_does_not_change_what_is_found(index: Index, planted: Planted, tmp_path: Path) -> None:
    again = build(BuildConfig(batch_size=77), planted.store, planted.sae, None, tmp_path / "again.index")
    for name in index.table.dtype.names or ():
        assert np.allclose(again.table[name], index.table[name], rtol=1e-6, equal_nan=True)
    assert again.feature(GENERIC).examples == index.feature(GENERIC).examples


def test_that_a_cancelled_build_leaves_nothing_behind(planted: Planted, tmp_path: Path) -> None:
    control = Control()
    control.cancel()
    with pytest.raises(Stop):
        build(BuildConfig(), planted.store, planted.sae, None, tmp_path / "no.index",
              EventReporter(lambda event: None, control))
    assert list(tmp_path.iterdir()) == []


def test_that_a_dictionary_of_another_hook_point_or_width_is_refused(planted: Planted, tmp_path: Path) -> None:
    with pytest.raises(AuditorError, match=r"no activations at “blocks\.9"):
        build(BuildConfig(), planted.store, relu_identity(hook="blocks.9.resid_post"), None, tmp_path / "a.index")
    with pytest.raises(AuditorError, match="24 wide"):
        build(BuildConfig(), planted.store, relu_identity(width=7), None, tmp_path / "b.index")
    (tmp_path / "c.index").mkdir()
    with pytest.raises(AuditorError, match="exists already"):
        build(BuildConfig(), planted.store, planted.sae, None, tmp_path / "c.index")


@pytest.mark.parametrize("size", ["32k", "200k"], ids=["before the database", "in the database"])
def test_that_a_full_disk_is_told_and_leaves_no_index(planted: Planted, tmp_path: Path, size: str) -> None:
    with disk_of(size, tmp_path / "disk") as place:
        with pytest.raises(AuditorError, match="The disk is full: “planted"):
            build(BuildConfig(batch_size=500), planted.store, planted.sae, None, place / "planted.index")
        assert list(place.iterdir()) == []
