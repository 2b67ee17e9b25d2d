"""Any verb can be run from the window with the form of its settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pytestqt.qtbot import QtBot

from auditor.ui.panes.verb import Verb
from auditor.ui.session import Session


def test_that_a_verb_is_listed_filled_in_and_run(project_session: Session, qtbot: QtBot, tmp_path: Path) -> None:
    pane = Verb(project_session)
    qtbot.addWidget(pane)
    pane.show()
    qtbot.waitUntil(lambda: pane.state == "ready" and pane.form is not None, timeout=20_000)
    assert pane.choice.count() >= 3
    pane.choose("open")
    qtbot.waitUntil(lambda: pane.form is not None and "path" in pane.form.kind.model_fields, timeout=20_000)
    samples = tmp_path / "captions.txt"
    samples.write_text("A locked door.\n\nA key on a table.\n")
    assert pane.form is not None
    pane.form.set("path", str(samples))
    pane.run()
    live = project_session.jobs[-1]
    with qtbot.waitSignal(live.ended, timeout=60_000):
        pass
    assert live.state == "done", live.message
    assert [artefact.kind for artefact in project_session.artefacts()] == ["samples"]


def test_that_verbs_ask_for_a_project_first(session: Session, qtbot: QtBot) -> None:
    from auditor.ui.window import Window

    window = Window(session)
    qtbot.addWidget(window)
    pane = Verb(session)
    qtbot.addWidget(pane)
    assert pane.state == "empty"


def test_that_other_programs_activations_are_imported_with_the_form(
    project_session: Session, qtbot: QtBot, tmp_path: Path
) -> None:
    import numpy as np

    from auditor.ui.window import Window

    window = Window(project_session)
    qtbot.addWidget(window)
    window.load_commands()
    project_session.commands.run("run.import")
    pane = window.docks.pane("verb") if hasattr(window.docks, "pane") else project_session.open_pane("verb")
    assert isinstance(pane, Verb)
    qtbot.waitUntil(lambda: pane.form is not None and "leading" in pane.form.kind.model_fields, timeout=20_000)
    assert pane.choice.currentData() == "import" and pane.form is not None
    rows = np.random.default_rng(0).normal(size=(6, 5, 4)).astype("f4")
    np.save(tmp_path / "acts.npy", rows)
    pane.form.set_all({"path": str(tmp_path / "acts.npy"), "leading": 1, "hook": "blocks.0.resid_post"})
    pane.run()
    live = project_session.jobs[-1]
    with qtbot.waitSignal(live.ended, timeout=60_000):
        pass
    assert live.state == "done", live.message
    (store,) = project_session.artefacts("store")
    assert store.meta["counts"] == {"text": 24, "special": 6}
    window.close()


def test_that_the_doctor_looks_again_at_the_chosen_dictionary(
    indexed: Session, qtbot: QtBot, take_commands: Callable[[Session], None]
) -> None:
    take_commands(indexed)
    pane = Verb(indexed)
    qtbot.addWidget(pane)
    indexed.pane_of = lambda _: pane
    pane.show()
    (dictionary,) = indexed.artefacts("dictionary")
    said: list[str] = []
    indexed.message.connect(lambda level, sentence, *_: said.append(f"{level}: {sentence}"))
    indexed.select_artefact(dictionary.id)
    indexed.commands.run("run.doctor")
    qtbot.waitUntil(lambda: pane.form is not None and "store" in pane.form.kind.model_fields, timeout=20_000)
    assert pane.form is not None and pane.form.values()["dictionary"] == dictionary.id
    pane.run()
    with qtbot.waitSignal(indexed.jobs[-1].ended, timeout=60_000):
        pass
    live = indexed.jobs[-1]
    assert live.state == "done", live.message
    (held,) = indexed.artefacts("dictionary")
    assert held.meta["doctor"]["store"] == "small" and held.meta["doctor"]["table"]
    assert said[-1].endswith(held.meta["doctor"]["sentence"])
