"""Bad input on the command line: exit code 2, a sentence and what to do, no trace, and nothing half-made."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from auditor.project import Project
from tests.journeys.conftest import HOOK, Begun
from tests.journeys.running import auditor, done, made

# Runs are written down even where they fail, and the file of people's labels is made when an index is first opened;
# everything else must be as it was.
KEPT_ANYWAY = ("catalogue.sqlite", "catalogue.sqlite-wal", "catalogue.sqlite-shm", "log.jsonl", ".lock",
               "labels.sqlite")  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A project of one's own, and a folder for what is wrong."""

    project: Path
    out: Path
    begun: Begun

    def refused(self, *arguments: object, says: str, project: Path | None = None, twice: bool = True) -> str:
        """The sentence with which `auditor ARGUMENTS` is refused, for a person and (`twice`) as JSON."""
        where = ("--project", project or self.project)
        before, known = _files(self.project, self.out), _artefacts(self.project)
        told = auditor(*arguments, *where)
        assert told.code == 2, told
        assert "Traceback" not in told.err + told.out and not told.out
        assert says in told.err, told.err
        sentence = _last_line(told.err)
        assert 1 <= _sentences(sentence) <= 2, sentence
        assert (_files(self.project, self.out), _artefacts(self.project)) == (before, known)
        if not twice:
            return sentence
        as_json = auditor(*arguments, *where, "--json")
        assert as_json.code == 2 and not as_json.err
        assert f"{as_json.json['error']} {as_json.json['hint']}".strip() == sentence
        assert (_files(self.project, self.out), _artefacts(self.project)) == (before, known)
        return sentence


def _files(*folders: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in KEPT_ANYWAY
    }


def _artefacts(folder: Path) -> list[tuple[str, str]]:
    try:
        with Project.open(folder, write=False) as project:
            return [(artefact.id, artefact.digest) for artefact in project.artefacts()]
    except Exception:
        return []


def _sentences(text: str) -> int:
    """How many, without what is quoted and without a guess at what was meant."""
    plain = re.sub("“[^”]*”", "it", text)
    return len(re.findall(r"[.?!…](?=\s|$)", re.sub(r"Did you mean [^?]*\?", "", plain)))


def _last_line(text: str) -> str:
    """Without the lines that tell how far it came."""
    return text.strip().splitlines()[-1].strip()


@pytest.fixture
def place(begun: Begun, tmp_path: Path) -> Place:
    shutil.copytree(begun.folder, tmp_path / "project")
    (tmp_path / "out").mkdir()
    return Place(tmp_path / "project", tmp_path / "out", begun)


def copy_of_model(place: Place, tiny_llama_folder: Path, name: str) -> Path:
    shutil.copytree(tiny_llama_folder, place.out / name)
    return place.out / name


def test_that_a_missing_file_is_named(place: Place) -> None:
    place.refused("open", place.out / "nowhere.txt", says="nowhere.txt” does not exist")
    place.refused("record", "--model", "nobody", "--samples", "mixed", says="no model called “nobody”")
    place.refused("import", place.out / "nothing.h5", says="nothing.h5” does not exist")


def test_that_a_folder_that_is_no_model_is_not_taken_in(place: Place) -> None:
    (place.out / "holiday").mkdir()
    (place.out / "holiday" / "notes.dat").write_text("Sand.\n", encoding="utf-8")
    place.refused("record", "--model", place.out / "holiday", "--samples", "mixed", says="“holiday” is not a model")
    place.refused("open", place.out / "holiday", says="holiday")
    (place.out / "holiday" / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    place.refused("open", place.out / "holiday", says="no weights")


def test_that_truncated_weights_are_told(place: Place, tiny_llama_folder: Path) -> None:
    folder = copy_of_model(place, tiny_llama_folder, "cut")
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1000)
    sentence = place.refused("open", folder, says="model.safetensors")
    assert place.refused("record", "--model", folder, "--samples", "mixed", says="model.safetensors") == sentence


class _Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_that_a_pickle_is_never_run(place: Place, tiny_llama_folder: Path, tmp_path: Path, form: str) -> None:
    import torch

    folder = copy_of_model(place, tiny_llama_folder, "pickled")
    (folder / "model.safetensors").unlink()
    weights = {"lm_head.weight": _Payload(tmp_path / "owned")}
    if form == "torch":
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(weights))
    place.refused("open", folder, says="pytorch_model.bin", twice=False)
    assert not (tmp_path / "owned").exists()


def foreign(path: Path, rows: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file["acts"] = rows.astype(np.float32)
    return path


def test_that_activations_that_are_not_numbers_are_refused(place: Place) -> None:
    rows = np.random.default_rng().normal(size=(300, 16))
    rows[217, 3] = np.nan
    place.refused("import", foreign(place.out / "holes.h5", rows), says="row 217")
    rows[217, 3] = 1e6
    place.refused("import", foreign(place.out / "large.h5", rows), "--numbers", "float16", says="does not fit into")
    (place.out / "torn.h5").write_bytes((place.out / "holes.h5").read_bytes()[:900])
    place.refused("import", place.out / "torn.h5", says="torn.h5")


def test_that_activations_of_another_width_do_not_fit_a_dictionary(place: Place) -> None:
    rows = np.random.default_rng().normal(size=(300, 64))
    narrow = made(done("import", foreign(place.out / "narrow.h5", rows), "--hook", HOOK, "--project", place.project),
                  "store")  # fmt: skip
    sentence = place.refused("index", "--store", narrow, says="64")
    assert "576" in sentence


def test_that_an_empty_picture_is_told(place: Place) -> None:
    (place.out / "empty.png").touch()
    place.refused("search", "--image", place.out / "empty.png", says="“empty.png” is empty")
    (place.out / "text.png").write_text("not a picture", encoding="utf-8")
    place.refused("search", "--image", place.out / "text.png", says="“text.png”")


def test_that_an_empty_picture_among_others_is_told_when_the_folder_is_opened(place: Place) -> None:
    folder = place.out / "pictures"
    folder.mkdir()
    shutil.copy(next(place.begun.samples.parent.glob("*.webp")), folder / "a.webp")
    (folder / "b.webp").touch()
    told = auditor("open", folder, "--project", place.project)
    assert told.code == 0 and "unreadable: 1" in told.out and "“b.webp” is empty." in told.out
    where = ("record", "--model", place.begun.model, "--samples", "pictures", "--strict")
    place.refused(*where, says="“b.webp” is empty")
    place.refused("open", folder, "--strict", says="“b.webp” is empty")


def test_that_a_graph_that_is_none_is_told_without_the_programs_own_words(place: Place) -> None:
    (place.out / "graph.json").write_text('{"nodes": 3}', encoding="utf-8")
    assert "Error" not in place.refused("import", place.out / "graph.json", says="it has no 'metadata'")


def test_that_a_pipe_is_not_waited_for(place: Place) -> None:
    os.mkfifo(place.out / "pipe.txt")
    for verb in (("open",), ("import",), ("record", "--model", "tiny-paired", "--samples")):
        place.refused(*verb, place.out / "pipe.txt", says="neither a file nor a folder")
    place.refused("search", "--image", place.out / "pipe.txt", says="“pipe.txt” is not a file")


def test_that_a_name_no_file_can_have_and_a_case_without_a_name_are_told(place: Place) -> None:
    place.refused("open", "x" * 5000, says="longer than the name of a file may be")
    place.refused("case", "new", " ", "--author", "A", says="needs a title")
    place.refused("case", "new", "Title", "--author", "", says="an author who answers")


def test_that_a_file_of_activations_or_weights_is_sent_to_its_verb(place: Place) -> None:
    place.refused("open", foreign(place.out / "acts.h5", np.ones((4, 4))), says="auditor import")
    (place.out / "model.safetensors").touch()
    place.refused("open", place.out / "model.safetensors", says="Open the folder")


def test_that_a_bundle_that_is_not_there_is_wrong_use_and_no_failed_check(place: Place) -> None:
    told = auditor("verify", place.out / "nowhere.audit.zip")
    assert told.code == 2 and not told.out and "nowhere.audit.zip” does not exist" in told.err
    assert auditor("verify", place.out / "nowhere.audit.zip", "--json").json.keys() == {"error", "hint"}


def test_that_what_is_no_bundle_is_not_taken_in(place: Place) -> None:
    (place.out / "cut.audit.zip").write_bytes(b"PK\3\4 and no more")
    place.refused("open", place.out / "cut.audit.zip", says="“cut.audit.zip” is no bundle")


def test_that_an_image_is_not_dropped_where_the_model_reads_texts_only(place: Place, tiny_llama_folder: Path) -> None:
    done("open", tiny_llama_folder, "--name", "reader", "--project", place.project)
    picture = next(place.begun.samples.parent.glob("*.webp"))
    place.refused("trace", "A", "--image", picture, "--model", "reader", says="“reader” does not read image and text")


def test_that_what_was_made_with_the_same_settings_is_named(place: Place) -> None:
    record = ("--model", "tiny-paired", "--samples", "mixed", "--hooks", HOOK, "--context", 48, "--batch-size", 8)
    for verb, kind in ((("record", *record), "store"), (("index", "--top", 4, "--per-band", 1), "index")):
        place.refused(*verb, says=f"{kind} with these settings already: “")


def test_that_a_test_on_one_sample_is_refused(place: Place) -> None:
    (place.out / "one.txt").write_text("One line only.\n", encoding="utf-8")
    done("open", place.out / "one.txt", "--project", place.project)
    place.refused("experiment", 3, "--samples", "one", "--choose", "all", says="“one” holds one sample")
    place.refused("experiment", 3, "--samples", "one", says="“one” holds one sample")


def test_that_a_store_from_a_newer_version_is_told(place: Place) -> None:
    store = place.out / "newer.store"
    shutil.copytree(made(place.begun.told["record"], "store"), store)
    manifest = json.loads((store / "manifest.json").read_text(encoding="utf-8"))
    (store / "manifest.json").write_text(json.dumps(manifest | {"version": 99}), encoding="utf-8")
    place.refused("open", store, says="format version 99")
    place.refused("train", "--store", store, "--steps", 2, says="format version 99")


def test_that_a_project_that_another_program_holds_is_only_read(place: Place) -> None:
    hold = "held = Project.open(sys.argv[1]); print('held', flush=True); input()"
    command = [sys.executable, "-c", f"import sys; from auditor.project import Project; {hold}", str(place.project)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        log = (place.project / "log.jsonl").read_bytes()
        place.refused("train", "--steps", 2, says="open in another program")
        place.refused("case", "new", "Title", "--author", "A", says="open in another program")
        assert done("search", "density>0", "--project", place.project)["features"]
        assert (place.project / "log.jsonl").read_bytes() == log
        other.communicate("\n", timeout=30)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("train", "--colour", "red"), "--colour"),
        (("paint",), "paint"),
        (("train", "--d-sae", "many"), "many"),
        (("train", "--k", 0), "“Active features” (k)"),
        (("train", "--arch", "magic"), "magic"),
        (("experiment", 3, "--samples", "mixed", "--n-null", 2), "“Matched null features” (n_null)"),
        (("experiment", 9999, "--samples", "mixed"), "no feature 9999"),
        (("record", "--model", "tiny-paired", "--samples", "mixed", "--hooks", "blocks.99.mlp"), "blocks.99.mlp"),
        (("record", "--model", "tiny-paired", "--samples", "mixed?by=word"), "by=word"),
        (("search", "densty<0.1"), "densty"),
        (("search", "--limit", 0), "limit"),
        (("case", "show"), "no case yet"),
        (("case", "new", "T" * 3000, "--author", "A"), "title"),
        (("export", "mixed", "/nowhere/at/all.npy"), "cannot be exported"),
        (("report",), "no case yet"),
    ],
)
def test_that_wrong_use_is_told(place: Place, arguments: tuple[object, ...], says: str) -> None:
    place.refused(*arguments, says=says)


def test_that_a_case_takes_no_question_or_finding_that_cannot_stand(place: Place) -> None:
    done("case", "new", "Title", "--author", "A", "--project", place.project)
    ask = ("case", "ask", "It holds", "--null", "It does not", "--metric", "AUROC", "--threshold", 0.6)
    place.refused(*ask, "--n", 0, says="n:")
    place.refused(*ask, "--n", "some", says="some")
    find = ("case", "find", "Title", "--claim", "It holds", "--status", "present")
    place.refused(*find, "--evidence", "E99", says="E99")
    place.refused(*find, "--question", "not an id", says="question")
    place.refused("case", "add", says="no result yet")
    place.refused("case", "add", "--feature", 4096, says="4096")


def test_that_a_damaged_catalogue_is_told(place: Place) -> None:
    (place.project / "catalogue.sqlite").write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 40)
    for name in ("catalogue.sqlite-wal", "catalogue.sqlite-shm"):
        (place.project / name).unlink(missing_ok=True)
    place.refused("train", says="catalogue")


def test_that_a_slip_leaves_no_project_behind(place: Place) -> None:
    fresh = place.out / "fresh"
    place.refused("open", place.out / "nowhere.txt", says="nowhere.txt", project=fresh)
    place.refused("search", "density>0", says="not an Auditor project", project=fresh)
    assert not fresh.exists()


def test_that_signing_nothing_leaves_no_key(place: Place) -> None:
    told = auditor("sign", place.out / "no.audit.zip", "--key", place.out / "me.pem", "--new-key")
    assert told.code == 2 and "no.audit.zip" in told.err and "Traceback" not in told.err
    assert not list(place.out.iterdir())
    told = auditor("verify", place.out / "no.audit.zip")
    assert told.code in (1, 2) and "Traceback" not in told.err + told.out
