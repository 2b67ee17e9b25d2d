"""“import” tells activations from dictionaries by what is in them, and keeps or changes what it is asked to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.intake.hdf5 import h5py
from auditor.project import Project
from auditor.store import open_store
from auditor.tasks.export import ExportConfig
from auditor.tasks.import_ import ImportConfig
from auditor.tasks.open import OpenConfig
from auditor.tasks.task import run_task

DICTIONARIES = Path(__file__).parents[1] / "sae" / "formats" / "fixtures" / "sae-lens"
CACHE = Path(__file__).parents[1] / "store" / "formats" / "fixtures" / "sae-lens" / "cache"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Project.create(tmp_path / "project") as made:
        yield made


def bring(project: Project, path: Path, **settings: object) -> dict:
    return run_task("import", project, ImportConfig(path=str(path), **settings), Reporter())


def test_that_token_ids_get_their_texts_and_special_tokens_their_kind(
    project: Project, tmp_path: Path, tiny_llama_folder: Path
) -> None:
    from auditor.models.tokens import load_tokenizer, special_ids, token_strings

    tokenizer = load_tokenizer(tiny_llama_folder)
    ids = np.array([[min(special_ids(tokenizer)), 50, 51, 52], [60, 61, 62, 63]])
    rows = np.random.default_rng(0).normal(size=(2, 4, 6)).astype("f4")
    save_file({"acts": rows, "tokens": ids}, tmp_path / "x.safetensors")
    project.add("model", "tiny", tiny_llama_folder)
    told = bring(project, tmp_path / "x.safetensors", model="tiny", hook="blocks.0.resid_post", name="texts")
    assert told["counts"] == {"text": 7, "special": 1} and told["mapping"]["tokens"] == "tokens"
    store = open_store(project.artefacts("store")[0].path)
    words = token_strings(tokenizer, [60, 61, 62, 63])
    assert list(store.sample(1).tokens) == words and store.sample(1).text == "".join(words)
    np.testing.assert_array_equal(store.rows(slice(None)), rows.reshape(-1, 6))


def test_that_numbers_are_kept_as_asked_and_leading_positions_are_special(project: Project, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(3, 4, 6)).astype("f4")
    np.savez(tmp_path / "x.npz", small=rows[0], acts=rows)
    told = bring(project, tmp_path / "x.npz", numbers="bfloat16", leading=2)
    assert (told["numbers"], told["counts"]) == ("bfloat16", {"text": 6, "special": 6})
    chosen = bring(project, tmp_path / "x.npz", dataset="small", axes="sample,feature")
    assert (chosen["rows"], chosen["samples"], chosen["numbers"]) == (4, 4, "float32")
    with pytest.raises(AuditorError, match="no activations “none”"):
        bring(project, tmp_path / "x.npz", dataset="none")
    assert len(project.artefacts("store")) == 2


def test_that_dictionaries_and_activations_are_told_apart(project: Project, tmp_path: Path) -> None:
    assert bring(project, CACHE)["hooks"] == ["blocks.3.resid_post"]
    with pytest.raises(AuditorError, match="another program's activations"):
        run_task("open", project, OpenConfig(path=str(CACHE)), Reporter())
    weights = DICTIONARIES / "topk"
    assert bring(project, weights)["arch"] and len(project.artefacts("dictionary")) == 1
    (tmp_path / "nothing").mkdir()
    with pytest.raises(AuditorError, match="neither activations nor a dictionary"):
        bring(project, tmp_path / "nothing")


def test_that_nothing_half_made_stays_where_a_number_is_not_finite(project: Project, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(3000, 6)).astype("f4")
    rows[2500, 3] = np.inf
    np.save(tmp_path / "x.npy", rows)
    with pytest.raises(AuditorError, match="row 2500"):
        bring(project, tmp_path / "x.npy")
    assert not project.artefacts("store") and not list((project.folder / "stores").glob("*"))


def test_that_exports_are_imported_at_their_hook_point_unless_another_is_named(project: Project, tmp_path) -> None:
    save_file({"acts": np.random.default_rng(0).normal(size=(4, 6, 5)).astype("f4")}, tmp_path / "x.safetensors")
    hook = "blocks.2.resid_post"
    (made,) = bring(project, tmp_path / "x.safetensors", hook=hook, name="made")["artefacts"]
    for ending in ("safetensors", "h5", "npy"):
        run_task("export", project, ExportConfig(artefact=made, out=str(tmp_path / f"out.{ending}")), Reporter())
        told = bring(project, tmp_path / f"out.{ending}")
        assert told["hooks"] == (["imported"] if ending == "npy" else [hook])
        if ending != "npy":
            assert told["exported"]["hook"] == hook and told["samples"] == 4
            assert open_store(project.artefacts("store")[-1].path).sample(2).id == "acts[2]"
        assert bring(project, tmp_path / f"out.{ending}", hook="blocks.0.z")["hooks"] == ["blocks.0.z"]


def test_that_odd_places_and_names_get_a_sentence_in_one_line(project: Project, tmp_path: Path) -> None:
    ring = tmp_path / "ring.npy"
    ring.symlink_to(ring)
    for verb, config in (("import", ImportConfig(path=str(ring))), ("open", OpenConfig(path=str(ring)))):
        with pytest.raises(AuditorError, match="cannot be followed to a file"):
            run_task(verb, project, config, Reporter())
    lines = tmp_path / "cache" / "a\nb"
    lines.mkdir(parents=True)
    save_file({"activation": np.ones((2, 3, 4), "f4"), "tokens": np.zeros((2, 3), "i4")}, lines / "chunk-0.safetensors")
    with pytest.raises(AuditorError, match="“a b” of width 4 cannot be a hook point"):
        bring(project, tmp_path / "cache")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["nothing"] = h5py.Empty("f4")
        file["acts"] = np.ones((4, 3), "f4")
    told, long = bring(project, tmp_path / "x.h5"), tmp_path / f"{'z' * 300}.npy"
    assert told["rows"] == 4
    with pytest.raises(AuditorError, match="longer than the name of a file may be"):
        bring(project, long)
    with pytest.raises(AuditorError, match="longer than the name of a file may be"):
        run_task("export", project, ExportConfig(artefact=told["artefacts"][0], out=str(long)), Reporter())


def test_that_a_cache_that_names_a_file_twice_is_refused(project: Project, tmp_path: Path) -> None:
    shutil.copytree(CACHE, tmp_path / "cache")
    state = json.loads((tmp_path / "cache" / "state.json").read_text("utf-8"))
    state["_data_files"] *= 2
    (tmp_path / "cache" / "state.json").write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(AuditorError, match="names a file twice"):
        bring(project, tmp_path / "cache")
