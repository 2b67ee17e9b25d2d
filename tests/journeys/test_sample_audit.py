"""The shipped sample audit: whole, small enough, opened in a moment, its bundle verified, its claims from real data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from auditor.audit import verify
from auditor.audit.case import Case
from auditor.audit.ladder import Rung, ladder
from auditor.base import paths
from auditor.base.reporter import Reporter
from auditor.data import open_samples
from auditor.project import Project
from auditor.tasks.opening import index_of
from auditor.tasks.sample_audit import MIDDLE, prepare, write_files

SAMPLE_BYTES = 60_000_000


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory):
    opened = prepare(tmp_path_factory.mktemp("sample") / "project", Reporter())
    yield opened
    opened.close()


def case_of(project: Project) -> Case:
    return Case.load(project.artefacts("case")[-1].path)


def test_that_the_sample_data_stay_small() -> None:
    size = sum(path.stat().st_size for path in paths.sample_data().rglob("*") if path.is_file())
    assert size < SAMPLE_BYTES


def test_that_it_opens_without_recording_anything(project: Project) -> None:
    kinds = {artefact.kind for artefact in project.artefacts()}
    assert {"model", "samples", "dictionary", "index", "result", "case", "bundle"} <= kinds
    assert all(artefact.path.exists() for artefact in project.artefacts())
    assert project.log.check() is None


def test_that_its_samples_are_not_said_to_have_changed(project: Project) -> None:
    known = project.artefacts("samples")
    assert {held.name: open_samples(held.path).digest for held in known} == {held.name: held.digest for held in known}


def test_that_the_middle_dictionary_has_its_figures(project: Project) -> None:
    middle = next(a for a in project.artefacts("dictionary") if a.meta["hook"] == MIDDLE)
    assert middle.meta["features"] >= 8192
    assert 0 < middle.meta["fvu"] < middle.meta["fvu_pca"] < middle.meta["fvu_random"]
    assert middle.meta["l0"] == pytest.approx(32, abs=1)


def test_that_its_store_held_what_the_dictionary_learned_from(project: Project) -> None:
    middle = next(a for a in project.artefacts("dictionary") if a.meta["hook"] == MIDDLE)
    artefact = next(a for a in project.artefacts("index") if a.meta["dictionary"] == middle.id)
    with index_of(project, artefact.id) as index:
        rows = index.meta["rows"]
        assert rows["text"] + rows["image"] >= 300_000 and rows["image"] >= 60_000
        assert len(index.search("modality:both")) > 0
        feature = index.feature(int(index.search("modality:both sort:max")[0]))
        assert feature.examples_of("text") and feature.examples_of("image")
        assert feature.top_logits and feature.bottom_logits and feature.nearest
        assert all(example.image for example in feature.examples_of("image", "top"))


def test_that_it_holds_a_circuit_of_a_text_and_one_that_begins_in_an_image(project: Project) -> None:
    from auditor.analysis.circuits import Graph

    graphs = [Graph.load(a.path) for a in project.artefacts("result") if a.meta.get("graph")]
    text = next(g for g in graphs if g.prompt == "The capital of France is")
    best = max((n for n in text.nodes if n.kind == "logit"), key=lambda n: n.prob or 0)
    assert best.token.strip() == "Paris"
    assert any(any(node.kind == "patch" for node in g.nodes) for g in graphs)
    assert all(0 < g.scores().replacement < 1 for g in graphs)


def test_that_each_finding_has_an_intervention_with_its_null(project: Project) -> None:
    case = case_of(project)
    assert len(case.findings) >= 3
    assert {"inconclusive", "absent"} & {finding.status for finding in case.findings}
    for finding in case.findings:
        pieces = [case.find_evidence(id) for id in (*finding.evidence, *finding.counter_evidence)]
        tests = [piece for piece in pieces if piece.kind == "intervention"]
        assert tests, finding.id
        for piece in tests:
            assert piece.metric is not None and piece.metric.interval is not None
            assert piece.metric.null is not None and piece.metric.null.n >= 100
        assert case.find_question(finding.question).sealed  # type: ignore[union-attr]


def test_that_what_it_says_is_present_was_tested_on_samples_that_chose_nothing_and_by_intervention(
    project: Project,
) -> None:
    case = case_of(project)
    present = [finding for finding in case.findings if finding.status == "present"]
    assert len(present) >= 2
    for finding in present:
        assert ladder(case, finding).rung >= Rung.INTERVENED
        tests = [e for e in map(case.find_evidence, finding.evidence) if e.kind in ("held_out", "intervention")]
        asked = [str(piece.recipe.config["samples"]) for piece in tests]
        assert tests and all("half=second" in samples or samples == "fresh" for samples in asked)
        assert all(not piece.exploratory for piece in tests)
    assert all(subject.files for subject in case.subjects)


def test_that_the_fresh_texts_were_never_recorded(project: Project) -> None:
    fresh, recorded = (
        {s.text for s in open_samples(project.find(name, "samples").path)} for name in ("fresh", "texts")
    )
    assert len(fresh) > 5000 and not fresh & recorded


def test_that_one_finding_is_about_a_feature_of_texts_and_images(project: Project) -> None:
    case = case_of(project)
    middle = next(a for a in project.artefacts("dictionary") if a.meta["hook"] == MIDDLE)
    artefact = next(a for a in project.artefacts("index") if a.meta["dictionary"] == middle.id)
    number = int(case.findings[0].location["feature"].split()[-1])
    with index_of(project, artefact.id) as index:
        assert number in index.search("modality:both")


def test_that_report_and_bundle_come_out_and_verify(project: Project, tmp_path: Path) -> None:
    told = write_files(project, tmp_path, Reporter())
    assert told["verified"] is True
    html = (tmp_path / "report.html").read_text("utf-8")
    assert "<script" not in html and case_of(project).findings[0].title in html.replace("&#34;", '"')
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    bundle = next(tmp_path.glob("*.audit.zip"))
    assert verify(bundle).ok


def test_that_no_path_of_another_machine_is_shipped(project: Project) -> None:
    own = {str(paths.root()), str(project.folder), str(paths.sample_models())}
    for run in project.runs():
        text = json.dumps(run.config)
        assert not any(place in text for place in own) and '"/' not in text
