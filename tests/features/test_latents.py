"""Latents as delphi caches them become an index: what fires where, with the words around, against numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from auditor.base.errors import AuditorError
from auditor.features import open_index
from auditor.features.build import BuildConfig
from auditor.features.latents import index_latents, latents_in
from auditor.store.formats.source import Vocabulary

FEATURES, SEQUENCES, CONTEXT = 20, 30, 16
WORDS = Vocabulary(lambda ids: [f" word{number}" for number in ids], frozenset({0}))


def cached(folder: Path, splits: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """As `LatentCache.save_splits` writes; gives the dense latents [sequences, context, features] and the tokens."""
    rng = np.random.default_rng(8)
    dense = rng.normal(size=(SEQUENCES, CONTEXT, FEATURES)).astype("f2")
    dense[np.abs(dense) < 1.2] = 0
    dense[..., 11] = 0
    tokens = rng.integers(1, 50, (SEQUENCES, CONTEXT))
    tokens[:, 0] = 0
    (folder / "layers.3").mkdir(parents=True)
    edges = np.linspace(0, FEATURES, splits + 1).astype(int)
    for first, last in zip(edges[:-1], edges[1:] - 1, strict=True):
        at = np.argwhere(dense[..., first : last + 1])
        values = dense[..., first : last + 1][tuple(at.T)]
        data = {"locations": np.ascontiguousarray(at, np.uint16), "activations": values, "tokens": tokens}
        save_file(data, folder / "layers.3" / f"{first}_{last}.safetensors")
    facts = {"model_name": "EleutherAI/pythia-70m", "cache_ctx_len": CONTEXT, "n_splits": splits}
    (folder / "layers.3" / "config.json").write_text(json.dumps(facts))
    return dense.astype("f4"), tokens


@pytest.mark.parametrize("vocabulary", [WORDS, None])
def test_that_an_index_of_cached_latents_tells_what_fires_where(tmp_path: Path, vocabulary) -> None:
    dense, tokens = cached(tmp_path / "latents")
    ((hook, folder),) = latents_in(tmp_path / "latents").items()
    with index_latents(folder, tmp_path / "x.index", vocabulary, config=BuildConfig(top=4, per_band=0)) as index:
        assert hook == "layers.3" and index.n_features == FEATURES and index.meta["hook"] == "layers.3"
        fires = np.maximum(dense[:, 1:] if vocabulary else dense, 0)  # the special token is not looked at
        np.testing.assert_array_equal(index.table["fires_text"], (fires > 0).sum((0, 1)))
        np.testing.assert_allclose(index.table["max_act"], fires.max((0, 1)), rtol=1e-6)
        assert 11 not in index.live and len(index.live) == FEATURES - 1
        assert index.meta["latents"]["below_zero_left_out"] == (dense < 0).sum()
        feature = int(index.live[3])
        best = index.feature(feature).examples[0]
        sequence, place = np.unravel_index(fires[..., feature].argmax(), fires.shape[:2])
        place += bool(vocabulary)
        assert best.sample_id == f"sequence {sequence}"
        shown = f" word{tokens[sequence, place]}" if vocabulary else f"#{tokens[sequence, place]}"
        assert best.tokens[best.peak] == shown
        assert best.peak_activation == pytest.approx(fires[..., feature].max(), rel=1e-2)
        assert not index.feature(feature).nearest
    with index_latents(folder, tmp_path / "y.index", vocabulary, config=BuildConfig(top=4, per_band=0)) as again:
        assert again.digest == index.digest


def test_that_latents_in_one_file_are_those_of_its_parts(tmp_path: Path) -> None:
    dense, tokens = cached(tmp_path / "latents")
    at = np.ascontiguousarray(np.argwhere(dense))
    data = {"locations": at, "activations": dense[tuple(at.T)], "tokens": tokens}
    (tmp_path / "one").mkdir()
    save_file(data, tmp_path / "one" / "layers.3.safetensors")
    ((hook, place),) = latents_in(tmp_path / "one").items()
    assert hook == "layers.3" and latents_in(place) == {hook: place} and latents_in(tmp_path) == {}
    config = BuildConfig(top=4, per_band=0)
    with (
        index_latents(place, tmp_path / "x.index", config=config) as one,
        index_latents(tmp_path / "latents" / "layers.3", tmp_path / "y.index", config=config) as parts,
    ):
        assert one.n_features == parts.n_features and one.meta["hook"] == "layers.3"
        for name in ("fires_text", "max_act"):
            np.testing.assert_array_equal(one.table[name], parts.table[name])
    save_file({**data, "locations": at + np.array([0, 0, 1 << 24])}, tmp_path / "one" / "layers.3.safetensors")
    with pytest.raises(AuditorError, match="lacks the latents"):
        index_latents(place, tmp_path / "z.index")


def test_that_what_delphi_wrote_becomes_indices(tmp_path: Path) -> None:
    from auditor.base.reporter import Reporter
    from auditor.project import Project
    from auditor.tasks.import_ import ImportConfig
    from auditor.tasks.task import run_task

    fixture = Path(__file__).parent / "fixtures" / "delphi"
    with Project.create(tmp_path / "project") as project, np.load(fixture / "expected.npz") as expected:
        told = run_task("import", project, ImportConfig(path=str(fixture)), Reporter())
        assert [row["hook"] for row in told["indices"]] == ["layers.1", "layers.4.mlp"]
        for artefact in project.artefacts("index"):
            with open_index(artefact.path) as index:
                dense = expected[index.meta["hook"]].astype("f4")
                np.testing.assert_array_equal(index.table["fires_text"], (dense > 0).sum((0, 1)))
                np.testing.assert_array_equal(index.table["max_act"], dense.max((0, 1)))
                feature = int(index.live[5])
                best = index.feature(feature).examples[0]
                sequence, place = np.unravel_index(dense[..., feature].argmax(), dense.shape[:2])
                assert best.tokens[best.peak] == f"#{expected['tokens'][sequence, place]}"
                assert index.meta["latents"]["model_name"] == "EleutherAI/pythia-70m"


def test_that_latents_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    cached(tmp_path / "latents")
    folder = tmp_path / "latents" / "layers.3"
    file = folder / "6_12.safetensors"
    whole = load_file(file)
    wrong = {
        "names places": {"locations": np.where(np.arange(3) == 0, SEQUENCES, whole["locations"]).astype(np.uint16)},
        "order of its tokens": {"locations": np.ascontiguousarray(whole["locations"][::-1])},
        "no latents": {"locations": np.ascontiguousarray(whole["locations"][:, :2])},
    }
    for why, change in wrong.items():
        save_file(whole | change, file)
        with pytest.raises(AuditorError, match=why):
            index_latents(folder, tmp_path / "x.index")
        assert not (tmp_path / "x.index").exists() and not list(tmp_path.glob("*.partial"))
    file.unlink()
    with pytest.raises(AuditorError, match="lacks the latents from 6 on"):
        index_latents(folder, tmp_path / "x.index")
