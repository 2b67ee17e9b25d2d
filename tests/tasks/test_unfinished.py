"""What stopped and killed work left in a project: listed with how far it came, gone on with, removed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from safetensors.numpy import save_file

from auditor.analysis.editing.measured import Measured
from auditor.base.config import Config
from auditor.base.digest import canonical_json
from auditor.base.errors import AuditorError, Stop
from auditor.base.reporter import Reporter
from auditor.project import Project
from auditor.sae import load
from auditor.sae.train_config import TrainConfig
from auditor.store import open_store
from auditor.store.layout import MANIFEST, UNFINISHED
from auditor.store.recipe import RecordConfig
from auditor.tasks.open import OpenConfig
from auditor.tasks.task import Run, run_task
from auditor.tasks.unfinished import find, go_on, remove, unfinished

HOOK = "blocks.0.resid_post"
WORDS = "the a cat sat on mat and ran over small hill to see moon rise while rain fell def return 12 + = )"
TRAIN = TrainConfig(
    d_sae=64, k=4, steps=12, batch_size=64, checkpoint_every=5, evaluate_rows=256, splice_samples=0, device="cpu"
)
STREAMED = TRAIN.model_copy(update={"model": "tiny-llama", "hook": HOOK, "context": 16, "buffer_rows": 1024})
RECORD = RecordConfig(model="", samples="", hooks=(HOOK,), context=32, batch_size=4, device="cpu")


class Stopping(Reporter):
    """Stops the work at so many units; `then` is called first."""

    def __init__(self, at: int, then: Callable[[], object] = lambda: None) -> None:
        self.at, self.then = at, then

    def step(self, done: int, total: int = 0, note: str = "", unit: str = "") -> None:
        if done >= self.at and unit in ("steps", "samples", "pieces"):
            self.then()
            raise Stop


@pytest.fixture(scope="module")
def begun(tiny_llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a model, samples and a store; copy it before use."""
    folder = tmp_path_factory.mktemp("unfinished")
    rng = np.random.default_rng(2)
    texts = [" ".join(rng.choice(WORDS.split(), int(rng.integers(8, 50)))) for _ in range(40)]
    (folder / "texts.txt").write_text("\n\n".join(texts), encoding="utf-8")
    with Project.create(folder / "project") as project:
        for path in (tiny_llama_folder, folder / "texts.txt"):
            run_task("open", project, OpenConfig(path=str(path)), Reporter())
        run_task("record", project, RECORD, Reporter())
    return folder / "project"


@pytest.fixture
def project(begun: Path, tmp_path: Path) -> Iterator[Project]:
    shutil.copytree(begun, tmp_path / "project")
    with Project.open(tmp_path / "project") as held:
        yield held


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Project]:
    with Project.create(tmp_path / "project") as held:
        yield held


def stopped(project: Project, verb: str, config: TrainConfig | RecordConfig, at: int) -> list[list[str]]:
    """Run a verb that is stopped; what was listed as unfinished meanwhile, here and by one that only reads."""
    listed = []

    def look() -> None:
        with Project.open(project.folder, write=False) as other:
            listed.extend([one.name for one in unfinished(held)] for held in (project, other))

    with pytest.raises(Stop):
        run_task(verb, project, config, Stopping(at, look))
    assert listed
    return listed


def half_done(project: Project, verb: str, kind: str, name: str, status: str = "cancelled", **config: object) -> Path:
    """A run of a verb that ended so at a place of its own."""
    run = project.catalogue.begin_run(verb, {}, {})
    place = project.keyed_path(kind, name, "ab12cd34")
    if kind == "result":
        place = place.with_suffix(".unfinished")
    project.catalogue.begin_at(run, place, config)
    if status != "running":
        project.catalogue.end_run(run, status, {}, [])
    return place


def test_that_a_stopped_training_is_listed_once_nobody_is_at_it_and_goes_on_where_it_was(project: Project) -> None:
    (store,) = project.artefacts("store")
    assert stopped(project, "train", TRAIN, 6) == [[], []]
    (one,) = unfinished(project)
    assert one.name.startswith("blocks.0.resid_post-topk-64-") and one.work == "training"
    assert one.reached == "step 6 of 12" and one.changed >= project.runs()[-1].started
    (place,) = one.places
    assert place.name == f"{one.name}.sae.training.safetensors" and 0 <= one.bytes - place.stat().st_size < 1 << 16
    assert one.run is not None and one.run.config["store"] == store.id and one.run.status == "cancelled"
    # What was recorded since does not take the place of the store that it learns from.
    run_task("record", project, RECORD.model_copy(update={"seed": 1}), Reporter())
    steps: list[int] = []
    reporter = Stopping(10**9)
    reporter.metric = lambda step, **values: steps.append(step)  # type: ignore[method-assign]
    told = go_on(project, one.name, reporter)
    assert min(steps) == 10 and load(project.find(told["artefacts"][0]).path).meta["store_digest"] == store.digest
    assert not unfinished(project) and not project.catalogue.begun() and not place.exists()


def test_that_what_a_sweep_of_trainings_left_is_one_and_is_removed_whole(empty: Project) -> None:
    place = half_done(empty, "train", "dictionary", "k2")
    (run,) = empty.runs()
    other = empty.keyed_path("dictionary", "k4", "ef56ab78")
    empty.catalogue.begin_at(run.id, other, {})
    for out, step in ((place, 8), (other, 6)):
        facts = {"step": step, "identity": {"steps": 12}}
        save_file({"w": np.zeros(3000)}, f"{out}.training.safetensors", metadata={"auditor": json.dumps(facts)})
    (one,) = unfinished(empty)
    assert one.name == "k2-ab12cd34 and 1 more" and len(one.places) == 2 and one.reached == "step 6 of 12"
    freed = remove(empty, one.name)
    assert freed == one.bytes > 48_000 and not list(place.parent.iterdir()) and not empty.catalogue.begun()
    entry = empty.log.entries()[-1]
    assert entry["kind"] == "unfinished removed" and entry["payload"]["name"] == one.name
    with pytest.raises(AuditorError, match="Nothing unfinished here is called"):
        remove(empty, one.name)


def test_that_a_stopped_recording_is_listed_with_its_positions_and_goes_on(project: Project) -> None:
    assert stopped(project, "record", RECORD.model_copy(update={"seed": 3}), 8) == [[], []]
    (one,) = unfinished(project)
    (place,) = one.places
    half = open_store(place)
    assert one.work == "recording" and 0 < half.n_samples < 40
    assert any("#" in half.sample(number).id for number in range(half.n_samples))  # longer than the context
    positions, samples = one.reached.split(", ")
    assert positions == f"{half.n_rows:,} positions" and samples.endswith(" pieces of 40 samples")
    pieces = int(samples.removeprefix(f"{half.n_samples:,} of ").removesuffix(" pieces of 40 samples"))
    parts = place.with_name(f"{place.name}.parts")
    parts.mkdir()
    (parts / "000000.store").mkdir()
    assert find(project, one.name).places == (place, parts)
    (parts / "000000.store" / MANIFEST).touch()
    (parts / "000001.store").mkdir()
    assert find(project, one.name).reached == f"{one.reached}, 1 part of several processes"
    shutil.copytree(parts, alone := place.with_name("alone.store.parts"))
    assert find(project, "alone").reached == "1 part of several processes"
    shutil.rmtree(alone)
    with FileLock(parts / "000001.lock"):  # another process of a shared recording is still at its piece
        assert not unfinished(project)
    with FileLock(place / "writer.lock"):
        assert not unfinished(project)
    reporter, notes = Reporter(), list[str]()
    reporter.step = lambda done, total=0, note="", unit="": notes.append(note)  # type: ignore[method-assign]
    told = go_on(project, one.name, reporter)
    assert notes[0] == "opening tiny-llama"  # which may take a minute
    assert told["rows"] > half.n_rows and (place / MANIFEST).exists() and not parts.exists()
    assert open_store(place).n_samples == pieces
    assert not unfinished(project)


def test_that_a_recording_tells_how_much_is_to_come_as_far_as_it_is_known(project: Project) -> None:
    (store,) = project.artefacts("store")
    whole = RECORD.model_copy(update={"split_long": False, "context": 64})
    behind = whole.model_copy(update={"append_to": store.id, "max_tokens": 900})
    for config, told in ((whole, "{rows} positions, {done} of 40 samples"),
                         (behind, "{rows} of 900 positions, {done} of 40 samples")):  # fmt: skip
        stopped(project, "record", config, 8)
        (one,) = unfinished(project)
        (place,) = one.places
        half, base = open_store(place), open_store(store.path) if config.append_to else None
        rows = half.n_rows - (base.n_rows if base else 0)
        done = half.n_samples - (base.n_samples if base else 0)
        assert 0 < rows < 900 and one.reached == told.format(rows=rows, done=done)
        remove(project, one.name)


def test_that_a_recording_that_an_older_program_began_goes_on(project: Project) -> None:
    stopped(project, "record", RECORD.model_copy(update={"seed": 4}), 8)
    (place,) = unfinished(project)[0].places
    manifest = json.loads((place / UNFINISHED).read_text())
    del manifest["meta"]["pieces"]
    (place / UNFINISHED).write_bytes(canonical_json(manifest))
    (one,) = unfinished(project)
    half = open_store(place)
    assert one.reached == f"{half.n_rows:,} positions, {half.n_samples:,} samples"
    assert go_on(project, one.name, Reporter())["rows"] > half.n_rows


def test_that_tests_of_edits_are_listed_with_their_runs(empty: Project) -> None:
    place = half_done(empty, "experiment", "result", "edits")
    Measured(place, 24).add([0.5, 1.5, 2.5])
    assert len(Measured(place)) == 3
    (one,) = unfinished(empty)
    assert (one.name, one.work, one.reached) == ("edits-ab12cd34", "tests of edits", "3 of 24 runs")
    place.write_bytes(b"[0.5]\n[1.0, ")  # as an earlier version wrote, and what a kill leaves
    assert unfinished(empty)[0].reached == "1 runs"


def test_that_a_kill_is_no_reason_to_lose_sight_of_what_it_left(empty: Project) -> None:
    folder = empty.folder
    place = half_done(empty, "experiment", "result", "edits", status="running")
    place.write_bytes(b"[0.5]\n")
    empty.catalogue.begin_run("train", {}, {})
    assert not unfinished(empty)
    empty.close()
    with Project.open(folder, write=False) as reading:
        assert not unfinished(reading)
    with Project.open(folder) as again:
        assert [run.status for run in again.runs()] == ["failed", "failed"] and again.log.check() is None
        assert again.runs()[0].message == "the program ended before it did"
        (one,) = unfinished(again)
        assert one.run is not None and one.run.status == "failed"
        ended = [entry["payload"]["id"] for entry in again.log.entries() if entry["kind"] == "run"]
        assert ended == [run.id for run in again.runs()]


def test_that_half_written_files_of_dead_processes_can_only_be_removed(empty: Project) -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    indices = empty.folder_of("index")
    (indices / f"topk.index.{child.pid}.partial").mkdir(parents=True)
    (indices / f"topk.index.{child.pid}.partial" / "rows").write_bytes(bytes(5000))
    (indices / f"other.index.{os.getpid()}.partial").mkdir()
    (one,) = unfinished(empty)
    assert (one.name, one.work, one.reached, one.run) == ("topk", "half-written file", "", None)
    assert one.bytes >= 5000
    with pytest.raises(AuditorError, match="not known how “topk” was begun"):
        go_on(empty, "topk", Reporter())
    remove(empty, "topk")
    assert [path.name for path in indices.iterdir()] == [f"other.index.{os.getpid()}.partial"]


def test_that_what_no_run_began_is_listed_only_by_who_holds_the_project(empty: Project) -> None:
    dictionaries = empty.folder_of("dictionary")
    dictionaries.mkdir()
    (dictionaries / "old.sae.training.safetensors").write_bytes(b"no header")
    (one,) = unfinished(empty)
    assert one.work == "training" and "cut short" in one.reached and one.run is None
    with Project.open(empty.folder) as other:
        assert not other.writable and not unfinished(other)
        with pytest.raises(AuditorError, match="open in another program"):
            remove(other, "old")
    assert list(dictionaries.iterdir())


def test_that_listing_loads_no_engine_for_what_is_finished_or_a_training(empty: Project) -> None:
    (empty.folder_of("store") / "done.store").mkdir(parents=True)
    (empty.folder_of("store") / "done.store" / MANIFEST).touch()
    place = half_done(empty, "train", "dictionary", "k2")
    facts = {"step": 8, "identity": {"steps": 12}}
    save_file({"w": np.zeros(3)}, f"{place}.training.safetensors", metadata={"auditor": json.dumps(facts)})
    code = (
        "import sys\nfrom auditor.project import Project\nfrom auditor.tasks.unfinished import unfinished\n"
        "(one,) = unfinished(Project.open(sys.argv[1], write=False))\n"
        "print(one.reached, {'torch', 'h5py', 'transformers'} & sys.modules.keys())"
    )
    told = subprocess.run([sys.executable, "-c", code, empty.folder], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "step 8 of 12 set()"


def test_that_links_are_neither_listed_nor_followed(empty: Project, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    kept = outside / "mine.sae.training.safetensors"
    kept.write_bytes(bytes(200_000))
    stores = empty.folder_of("store")
    stores.mkdir()
    empty.folder_of("dictionary").symlink_to(outside)
    (stores / "linked.store").symlink_to(outside)
    (stores / "half.store.parts").symlink_to(outside)
    assert not unfinished(empty)
    half = stores / "half.store"
    half.mkdir()
    (half / "shard-00000.h5").symlink_to(kept)
    (half / "writer.lock").symlink_to(kept)
    (one,) = unfinished(empty)
    assert one.places == (half,) and one.bytes < 100_000
    remove(empty, "half")
    assert not half.exists() and kept.stat().st_size == 200_000 and len(list(stores.iterdir())) == 2


def test_that_two_of_one_name_are_told_apart_and_only_the_named_one_is_removed(empty: Project) -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    results = empty.folder_of("result")
    results.mkdir()
    for ending in ("csv", "json"):
        (results / f"edits.{ending}.{child.pid}.partial").write_bytes(b"half")
    assert {one.name for one in unfinished(empty)} == {"results/edits.csv", "results/edits.json"}
    remove(empty, "results/edits.json")
    assert [path.name for path in results.iterdir()] == [f"edits.csv.{child.pid}.partial"]
    assert [one.name for one in unfinished(empty)] == ["edits"]


def test_that_a_strangers_files_neither_hold_the_list_up_nor_break_it(empty: Project) -> None:
    place = half_done(empty, "train", "dictionary", "endless")
    facts = '{"step": Infinity, "identity": {"steps": 12}}'
    save_file({"w": np.zeros(3)}, f"{place}.training.safetensors", metadata={"auditor": facts})
    (place.parent / os.fsdecode(b"\xff.sae.training.safetensors")).write_bytes(b"a name that is no text")
    stores = empty.folder_of("store")
    for pipe in ("whole.store/writer.lock", "half.store.parts/000001.lock"):
        (stores / pipe).parent.mkdir(parents=True)
        os.mkfifo(stores / pipe)  # nobody writes to it
    held = {one.name: one.reached for one in unfinished(empty)}
    assert held.keys() == {"endless-ab12cd34", "half"} and "cannot be read" in held["endless-ab12cd34"]


def test_that_a_run_that_a_catalogue_says_began_things_of_two_kinds_does_not_make_them_one(empty: Project) -> None:
    place = half_done(empty, "experiment", "result", "edits")
    place.write_bytes(b"[0.5]\n")
    other = empty.keyed_path("dictionary", "k4", "ef56ab78")
    other.with_name(f"{other.name}.training.safetensors").write_bytes(b"hours of work")
    empty.catalogue.begin_at(empty.runs()[0].id, other, {})
    remove(empty, "edits-ab12cd34")
    assert [(one.name, one.run) for one in unfinished(empty)] == [("k4-ef56ab78", None)] and not place.exists()


def test_that_a_project_that_is_closed_while_something_is_removed_is_held_until_that_is_noted(
    empty: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_done(empty, "experiment", "result", "edits").write_bytes(b"[0.5]\n")
    rename = os.rename
    monkeypatch.setattr("os.rename", lambda *places: (empty.close(), rename(*places)))
    remove(empty, "edits-ab12cd34")
    assert empty.log.entries()[-1]["kind"] == "unfinished removed" and not empty.writable


def test_that_a_folder_that_holds_anything_else_is_no_leftover(empty: Project) -> None:
    stores = empty.folder_of("store")
    (stores / "mine.store").mkdir(parents=True)
    (stores / "mine.store" / "notes.txt").touch()
    (stores / "done.store").mkdir()
    (stores / "done.store" / MANIFEST).touch()
    assert not unfinished(empty)


def test_that_what_goes_on_cannot_be_removed_or_gone_on_with_again_while_its_model_is_opened(
    empty: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = half_done(empty, "experiment", "result", "edits", edit=["freeze"])
    place.write_bytes(b"[0.5]\n")

    def opens_its_model(*_: object, **__: object) -> dict[str, object]:
        assert not unfinished(empty)
        for act in (lambda: remove(empty, "edits-ab12cd34"), lambda: go_on(empty, "edits-ab12cd34", Reporter())):
            with pytest.raises(AuditorError, match="Nothing unfinished here is called"):
                act()
        raise Stop

    monkeypatch.setattr("auditor.tasks.unfinished.run_task", opens_its_model)
    with pytest.raises(Stop):
        go_on(empty, "edits-ab12cd34", Reporter())
    assert place.exists() and [one.name for one in unfinished(empty)] == ["edits-ab12cd34"]


def test_that_a_strangers_project_cannot_make_going_on_do_something_else(empty: Project) -> None:
    place = half_done(empty, "export", "result", "edits", path="/etc")
    place.write_bytes(b"[0.5]\n")
    (one,) = unfinished(empty)
    assert one.run is None
    with pytest.raises(AuditorError, match="not known how"):
        go_on(empty, one.name, Reporter())


def test_that_settings_that_lead_elsewhere_by_now_do_not_start_anew(project: Project) -> None:
    stopped(project, "train", TRAIN, 6)
    (one,) = unfinished(project)
    assert one.run is not None
    changed = one.run.config | {"seed": 5}
    for target in one.targets:
        project.catalogue.begin_at(one.run.id, target, changed)
    with pytest.raises(AuditorError, match="no longer lead to what was begun"):
        go_on(project, one.name, Reporter())
    assert unfinished(project) == [find(project, one.name)] and not project.artefacts("dictionary")


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize(("verb", "config"), [("record", RECORD), ("train", STREAMED)])
def test_that_work_on_the_newest_samples_goes_on_with_those_that_were_the_newest(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, config: TrainConfig, earlier: bool
) -> None:
    held: list[tuple[Path, Config]] = []

    def begins(_: Run, places: list[Path], settled: Config) -> None:
        held.append((*places, settled))
        raise Stop

    def place(config: Config) -> Path:
        with pytest.raises(Stop):
            run_task(verb, project, config, Reporter())
        return held[-1][0]

    monkeypatch.setattr(Run, "begins", begins)
    config = config.model_copy(update={"seed": 7})
    with monkeypatch.context() as patched:
        if earlier:  # versions that did not note which they were
            patched.setattr("auditor.tasks.opening.samples_settled", lambda _, ref: ref)
        begun = place(config)
    if earlier:
        (begun if verb == "record" else begun.with_name(f"{begun.name}.training.safetensors")).mkdir()
        assert place(config) == begun
    (tmp_path / "more.txt").write_text("the cat sat\n\nthe cat ran over the hill")
    run_task("open", project, OpenConfig(path=str(tmp_path / "more.txt")), Reporter())
    assert place(held[-1][1]) == begun != place(config)


def test_that_a_training_of_several_processes_is_read_from_its_newest_step(empty: Project) -> None:
    place = half_done(empty, "train", "dictionary", "shared")
    for number, step in (("000001", 500), ("000002", 1000), ("000003.partial", 1500)):
        folder = place.with_name(f"{place.name}.training") / number
        folder.mkdir(parents=True)
        (folder / "facts.json").write_text(json.dumps({"step": step, "identity": {"steps": 3000}}))
    (one,) = unfinished(empty)
    assert one.reached == "step 1,000 of 3,000"
    assert [path.name for path in one.places] == ["shared-ab12cd34.sae.training"]
