"""What opening a model or a store tells of it."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.cli.main import main
from auditor.project import Project
from auditor.store import StoredSample, StoreWriter, facts, open_store
from auditor.store.export import export_hook
from auditor.store.reader import Positions
from auditor.store.samples import View
from auditor.tasks import run_task
from auditor.tasks.import_ import ImportConfig
from auditor.tasks.open import OpenConfig, _name
from auditor.tasks.opening import open_samples_of
from auditor.tasks.task import Run
from tests.models.tiny import ALL
from tests.torchrun.runs import stored


def test_that_of_a_model_without_logits_only_the_residual_stream_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ALL["siglip2 vision"].save(tmp_path / "m")
    opened = ["open", str(tmp_path / "m"), "-p", str(tmp_path / "project"), "--dtype", "int8", "--compare"]
    assert main(opened) == 0
    told = capsys.readouterr().out
    (line,) = (line for line in told.splitlines() if line.startswith("departure"))
    assert line.startswith("departure: format int8, n ") and "residual stream" in told and "fvu" in told


def test_that_what_the_project_holds_keeps_its_id_and_all_that_is_known_of_it(tmp_path: Path) -> None:
    """A look must not cut it off from what was made of it, nor forget the doctor's verdict."""
    with Project.create(tmp_path / "p") as project:
        store = stored(project.new_path("store", "small"))
        kept = project.add("store", "small", store, digest=open_store(store).digest, run="r1", meta={"model": "m1"})
        for asked in (str(store), "small", kept.id):
            told = run_task("open", project, OpenConfig(path=asked, row=3), Reporter())
            assert told["artefacts"] == [kept.id] and told["row"][0]["row"] == 3
        (held,) = project.artefacts("store")
        assert (held.id, held.name, held.run, held.meta["model"]) == (kept.id, "small", "r1", "m1")
        assert held.meta["rows"] == 4096
        run_task("open", project, OpenConfig(path="small", name="renamed"), Reporter())
        assert [(a.id, a.name) for a in project.artefacts()] == [(kept.id, "renamed")]


def test_that_a_model_of_texts_without_a_tokenizer_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ALL["llama"].save(tmp_path / "m")
    for file in (tmp_path / "m").glob("*token*"):
        file.unlink()
    assert main(["open", str(tmp_path / "m"), "-p", str(tmp_path / "project")]) == 0
    assert "note: The folder holds no tokenizer" in capsys.readouterr().out


def test_that_of_several_groups_all_rows_are_told_and_each_can_be_looked_at_where_the_first_has_none(tmp_path) -> None:
    patches = np.random.default_rng(3).normal(size=(18, 6)).astype("f4")
    none, sample = np.zeros(0, int), np.repeat([0, 1], 9)
    path = tmp_path / "a.store"
    with StoreWriter(path, {"t": 4, "v": 6}, {}, "float32", groups={"text": ["t"], "vision": ["v"]}) as writer:
        at = {
            "text": Positions(none, none, none, none),
            "vision": Positions(sample, np.tile(np.arange(9), 2), np.full(18, 2), np.full(18, -1)),
        }
        views = {"text": View(), "vision": View(grid=(3, 3))}
        writer.append_groups(
            [StoredSample(name, views=views) for name in "ab"], {"t": np.zeros((0, 4), "f4"), "v": patches}, at
        )
        store = writer.finish()
    assert facts.totals(store) == (18, {"image": 18})
    assert [(row["hook"], row["n"]) for row in facts.summary(store)["figures"]] == [("v", 18)]
    with Project.create(tmp_path / "p") as project:
        told = run_task("open", project, OpenConfig(path=str(path), row=17, hook="v"), Reporter())
        assert told["rows"] == project.artefacts("store")[0].meta["rows"] == 18
        assert [(row["hook"], row["sample"], row["unit"]) for row in told["row"]] == [("v", "b", 8)]
        with pytest.raises(AuditorError, match="no hook point “w”"):
            run_task("open", project, OpenConfig(path=str(path), row=17, hook="w"), Reporter())
    for name in ("t.h5", "t.npy"):
        with pytest.raises(AuditorError, match="no rows of t"):
            export_hook(store, "t", tmp_path / name)
        assert not (tmp_path / name).exists()


def test_that_what_is_no_path_to_open_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("body\nx\n", encoding="utf-8")
    with Project.create(tmp_path / "p") as project:
        for named, told in (
            ("", "Nothing was named"), (f"{tmp_path / 't.csv'}?field=body", "“?field=body” is an option of samples"),
            (f"{tmp_path / 'u.csv'}?field=body", "does not exist"),
        ):  # fmt: skip
            with pytest.raises(AuditorError, match=re.escape(told)):
                run_task("open", project, OpenConfig(path=named), Reporter())
        assert not project.artefacts()


def test_that_samples_whose_name_holds_a_question_mark_are_found_with_and_without_options(tmp_path: Path) -> None:
    for name in ("why?.txt", "how?limit=9.txt"):
        (tmp_path / name).write_text("one\n\ntwo\n\nthree", encoding="utf-8")
    with Project.create(tmp_path / "p") as project:
        for name in ("why?.txt", "how?limit=9.txt"):
            run_task("open", project, OpenConfig(path=str(tmp_path / name)), Reporter())
        run = Run(project, Reporter(), "r")
        for ref, count in (
            ("why?", 3),
            ("why??limit=2", 2),
            ("how?limit=9", 3),
            ("how?limit=9?limit=1", 1),
            ("?limit=2", 2),
        ):
            assert len(open_samples_of(run, ref)) == count


def test_that_a_version_in_a_hub_s_cache_has_the_model_s_name(tmp_path: Path) -> None:
    cache = tmp_path / "models--org--tiny-model"
    version = cache / "snapshots" / "0123abc"
    ALL["llama"].save(cache / "blobs")
    version.mkdir(parents=True)
    for file in (cache / "blobs").iterdir():
        (version / file.name).symlink_to(f"../../blobs/{file.name}")
    with Project.create(tmp_path / "p") as project:
        run_task("open", project, OpenConfig(path=str(version)), Reporter())
        assert [held.name for held in project.artefacts("model")] == ["tiny-model"]
        with pytest.raises(AuditorError, match="is a model in a hub's cache") as told:
            run_task("open", project, OpenConfig(path=str(cache)), Reporter())
        assert str(cache / "snapshots") in told.value.hint


def test_that_what_has_only_an_ending_for_a_name_is_called_by_it(tmp_path: Path) -> None:
    stored(tmp_path / ".store")
    (tmp_path / ".txt").write_text("one", encoding="utf-8")
    (tmp_path / ".sae").mkdir()
    (tmp_path / ".sae" / ".notes.txt.gz").write_bytes(gzip.compress(b"two"))
    np.save(tmp_path / "x.npy", np.ones((4, 3), "f4"))
    (tmp_path / "x.npy").rename(tmp_path / ".npy")
    with Project.create(tmp_path / "p") as project:
        for named in (".store", ".txt", ".sae/.notes.txt.gz"):
            run_task("open", project, OpenConfig(path=str(tmp_path / named)), Reporter())
        run_task("import", project, ImportConfig(path=str(tmp_path / ".npy")), Reporter())
        assert [held.name for held in project.artefacts()] == ["store", "txt", "notes", "npy"]
    assert open_store(tmp_path / ".store").name == ".store"
    assert [_name(tmp_path / name) for name in (".sae", "a.sae", "...", ".hidden")] == ["sae", "a", "...", "hidden"]
