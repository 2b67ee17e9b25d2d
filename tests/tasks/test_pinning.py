"""What stands in a case when a recording, a dictionary or a search is added to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from auditor.base.errors import AuditorError
from auditor.project import Artefact, Project
from auditor.tasks.casework import create_case
from auditor.tasks.pinning import evidence_of

FIGURES = {"fvu": 0.2, "fvu_pca": 0.4, "fvu_random": 0.7, "l0": 32.0, "dead": 0.05, "rows": 8192.0, "features": 512}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Project.create(tmp_path / "project") as made:
        yield made


def held(project: Project, kind: str, **meta: object) -> Artefact:
    (project.folder / kind).write_bytes(kind.encode())
    return project.add(kind, f"a-{kind}", project.folder / kind, meta=dict(meta))


def test_that_a_dictionary_brings_its_figure_with_the_baselines(project: Project) -> None:
    dictionary = held(project, "dictionary", **FIGURES)
    found = evidence_of(project, dictionary)
    assert found.kind == "reconstruction" and found.metric is not None and not found.metric.higher_is_more
    assert (found.metric.estimate, found.metric.n) == (0.2, 8192)
    assert found.metric.baseline == {"PCA of equal L0": 0.4, "random dictionary": 0.7}
    assert found.inputs == {"a-dictionary": dictionary.digest}
    assert create_case(project, "Case", "A. Auditor").pin(found).id == "E1"


def test_that_a_dictionary_that_was_never_measured_says_only_what_it_is(project: Project) -> None:
    found = evidence_of(project, held(project, "dictionary", features=512))
    assert found.metric is None and "512 features" in found.note


def test_that_a_recording_brings_its_counts(project: Project) -> None:
    found = evidence_of(project, held(project, "store", rows=12, counts={"text": 8, "image": 4}))
    assert found.table is not None and found.table.rows == (("text positions", 8), ("image positions", 4))


def test_that_what_shows_nothing_by_itself_is_refused(project: Project) -> None:
    with pytest.raises(AuditorError, match="shows nothing by itself"):
        evidence_of(project, held(project, "samples"))
