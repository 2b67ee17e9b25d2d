"""The circuits pane over a real graph of a real small model: tracing, pruning, choosing, breaking, handing on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PySide6.QtCore import QPoint, Qt
from pytestqt.qtbot import QtBot

from auditor.ui.panes.circuits import Circuits
from auditor.ui.panes.circuits.source import signed
from auditor.ui.session import Session
from auditor.ui.widgets.plain_text import PlainLabel

if TYPE_CHECKING:
    from auditor.models import Model

PROMPT = "The capital of France is"
HOOKS = ("blocks.0.resid_post", "blocks.1.resid_post")
Take = Callable[[Session], None]


@pytest.fixture(scope="session")
def traced_folder(tiny_llama: Model, tiny_llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a model, a dictionary at each of its blocks, and a traced prompt; copy it before use."""
    from auditor.base.reporter import Reporter
    from auditor.project import Project
    from auditor.tasks import run_task
    from auditor.tasks.trace import TraceConfig
    from tests.analysis.dictionaries import activation_dictionary

    folder = tmp_path_factory.mktemp("traced") / "project"
    with Project.create(folder, "Circuits") as project:
        facts = {"modalities": ["text"]}
        project.add("model", "tiny", tiny_llama_folder, digest=tiny_llama.digest, meta=facts)
        for seed, hook in enumerate(HOOKS):
            sae = activation_dictionary(tiny_llama, hook, d_sae=128, k=6, seed=seed)
            path = project.new_path("dictionary", hook)
            sae.save(path)
            project.add("dictionary", hook, path, digest=sae.digest, meta={"hook": hook, "features": 128})
        run_task("trace", project, TraceConfig(prompt=PROMPT, max_logits=4), Reporter())
    return folder


@pytest.fixture
def traced(session: Session, traced_folder: Path, tmp_path: Path) -> Session:
    shutil.copytree(traced_folder, tmp_path / "traced")
    session.open_project(tmp_path / "traced")
    return session


@pytest.fixture
def pane(qtbot: QtBot, traced: Session, take_commands: Take) -> Circuits:
    take_commands(traced)
    made = Circuits(traced)
    traced.pane_of = lambda _: made
    qtbot.addWidget(made)
    made.resize(1100, 680)
    made.show()
    qtbot.waitUntil(lambda: made._pruned is not None and made.area.state == "ready", timeout=30_000)
    return made


def quiet(pane: Circuits, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not pane.session.busy, timeout=60_000)


def click(pane: Circuits, qtbot: QtBot, node: str, keys: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier) -> None:
    qtbot.mouseClick(pane.canvas, Qt.MouseButton.LeftButton, keys, pane.canvas.spot_of(node))


def strongest(pane: Circuits, kind: str = "feature", n: int = 1) -> list[str]:
    assert pane._opened is not None and pane._pruned is not None
    from auditor.analysis.circuits.graph import top_nodes

    found = top_nodes(pane._opened.graph, 200, (kind,))
    return [i for i in found if i in pane._pruned.graph.index][:n]


def words(pane: Circuits) -> list[str]:
    return [label.text() for label in pane.detail.findChildren(PlainLabel) if label.isVisible()]


def test_that_prompt_output_and_scores_of_whole_and_shown_graph_are_in_view(pane: Circuits) -> None:
    opened, pruned = pane._opened, pane._pruned
    assert opened is not None and pruned is not None
    token, probability = opened.outputs[0]
    assert token.strip() in pane.bar.output.text() and f"{100 * probability:.0f}" in pane.bar.output.text()
    assert pane.prompt.edit.text() == PROMPT
    whole, part = opened.graph.scores(), opened.graph.prune(0.8, 0.98).scores()
    figures = pane.bar.figures()
    assert figures["replacement"] == f"{whole.replacement:.2f} → {part.replacement:.2f}"
    assert figures["completeness"] == f"{whole.completeness:.2f} → {part.completeness:.2f}"
    assert figures["nodes"] == f"{len(pruned.graph.nodes)} of {len(opened.graph.nodes)}"


def test_that_another_circuit_brings_its_prompt_unless_one_is_being_typed(pane: Circuits, qtbot: QtBot) -> None:
    assert pane._opened is not None and pane._pruned is not None
    held = (pane._opened, pane._pruned)
    pane.prompt.edit.setText("Of another circuit")
    pane._show(held)
    assert pane.prompt.edit.text() == PROMPT
    pane.prompt.edit.clear()
    qtbot.keyClicks(pane.prompt.edit, "Not traced yet")
    pane._show(held)
    assert pane.prompt.edit.text() == "Not traced yet"


def test_that_the_most_influential_features_are_listed_until_a_node_is_chosen(pane: Circuits, qtbot: QtBot) -> None:
    first = pane.detail.leading.rows.edges[0]
    assert pane.detail.leading.isVisible() and first.node == strongest(pane)[0]
    qtbot.mouseClick(pane.detail.leading.rows, Qt.MouseButton.LeftButton, pos=QPoint(60, 5))
    assert pane.canvas.selected == [first.node] and not pane.detail.leading.isVisible()
    pane._prune()
    quiet(pane, qtbot)
    assert not pane.detail.leading.isVisible()


def test_that_tab_comes_to_the_prompt_before_the_image(pane: Circuits) -> None:
    bar = pane.prompt
    order, widget = [bar.edit], bar.edit.nextInFocusChain()
    while widget is not bar.edit and widget is not None:
        if widget in (bar.models, bar.trace, bar.picture):
            order.append(widget)
        widget = widget.nextInFocusChain()
    assert order == [bar.edit, bar.models, bar.trace, bar.picture]


def test_that_a_slider_prunes_live(pane: Circuits, qtbot: QtBot) -> None:
    before = len(pane.canvas.drawing.nodes)
    for value in (70, 60, 50, 40, 30):
        pane.bar.nodes.bar.setValue(value)
    quiet(pane, qtbot)
    assert pane._opened is not None
    wanted = pane._opened.graph.prune(0.30, 0.98)
    assert len(pane.canvas.drawing.nodes) == len(wanted.nodes) < before
    assert pane.bar.figures()["nodes"].startswith(f"{len(wanted.nodes)} of")


def test_that_a_click_shows_a_node_and_a_click_on_an_edge_goes_on(pane: Circuits, qtbot: QtBot) -> None:
    assert pane._opened is not None and pane._pruned is not None
    [node] = strongest(pane)
    click(pane, qtbot, node)
    assert pane.canvas.selected == [node]
    graph = pane._pruned.graph
    weights = graph.adjacency[:, graph.row(node)]
    first = pane.detail.outgoing.rows.edges[0]
    assert first.weight == pytest.approx(weights[abs(weights).argmax()]) and "activation" in words(pane)
    rows = pane.detail.outgoing.rows
    qtbot.mouseClick(rows, Qt.MouseButton.LeftButton, pos=rows.rect().topLeft() + rows.rect().center() / 20)
    assert pane.canvas.selected == [first.node]


def test_that_show_feature_chooses_it_everywhere_and_marks_its_nodes(pane: Circuits, qtbot: QtBot) -> None:
    assert pane._opened is not None and pane._pruned is not None
    [node] = strongest(pane)
    click(pane, qtbot, node)
    pane.detail.show_feature.click()
    held = pane._opened.graph.node(node)
    assert held.feature is not None
    assert pane.session.feature == (pane._opened.dictionaries[held.hook], held.feature)
    same = {n.id for n in pane._pruned.graph.nodes if (n.hook, n.feature) == (held.hook, held.feature)}
    assert {pane.canvas.drawing.nodes[row].id for row in pane.canvas._marked} == same


def test_that_ablation_shows_the_numbers_of_the_analysis(pane: Circuits, qtbot: QtBot, tiny_llama: Model) -> None:
    from auditor.analysis.circuits.ablation import ablate_node
    from auditor.sae import load
    from auditor.tasks.opening import sample_of

    opened = pane._opened
    assert opened is not None
    [node] = strongest(pane)
    click(pane, qtbot, node)
    pane.detail.ablate.click()
    quiet(pane, qtbot)
    saes = {hook: load(pane.session.find(ref).path) for hook, ref in opened.dictionaries.items()}
    wanted = ablate_node(tiny_llama, saes, sample_of(PROMPT, None), opened.graph, node)
    lead = max(range(len(wanted.true)), key=lambda at: abs(wanted.true[at]))
    assert wanted.true[lead] != 0
    assert {signed(wanted.true[lead]), signed(wanted.predicted[lead])} <= set(words(pane))
    assert any(word.startswith(wanted.after[0][0].strip()) for word in words(pane))

    offered: list[dict[str, Any]] = []
    pane.session.evidence_offered.connect(offered.append)
    pane._offer_ablation()
    quiet(pane, qtbot)
    from auditor.audit.case import Case
    from auditor.audit.collect import add_evidence

    fields = offered[0]
    _, piece = add_evidence(Case(title="t", author="a"), **fields)
    at = max(range(len(wanted.predicted)), key=lambda at: abs(wanted.predicted[at]))
    assert piece.kind == "intervention" and piece.metric is not None
    assert piece.metric.estimate == pytest.approx(wanted.true[at])
    assert piece.metric.baseline["predicted by the graph"] == pytest.approx(wanted.predicted[at])
    assert fields["figure"].startswith(b"\x89PNG")


def test_that_an_ablation_in_another_network_than_the_traced_one_is_said_to_be_one(
    pane: Circuits, qtbot: QtBot
) -> None:
    from dataclasses import replace

    from auditor.ui.panes.circuits import source

    opened = pane._opened
    assert opened is not None
    click(pane, qtbot, strongest(pane)[0])
    pane.detail.ablate.click()
    quiet(pane, qtbot)
    assert pane._effect is not None and source.doubt(opened, pane._effect) == ""
    assert not any("answers otherwise" in word for word in words(pane))
    nodes = [replace(n, prob=0.9 - (n.prob or 0.0)) if n.kind == "logit" else n for n in opened.graph.nodes]
    other = replace(opened, graph=replace(opened.graph, nodes=nodes))
    assert "answers otherwise" in source.doubt(other, pane._effect)
    pane.detail.show_effect(pane._effect, source.doubt(other, pane._effect))
    assert any("answers otherwise" in word for word in words(pane))


def test_that_several_nodes_are_ablated_together(pane: Circuits, qtbot: QtBot) -> None:
    first, second = strongest(pane, n=2)
    click(pane, qtbot, first)
    click(pane, qtbot, second, Qt.KeyboardModifier.ControlModifier)
    assert pane.canvas.selected == [first, second] and "2 nodes" in pane.detail.ablate.text()
    pane.ablate()
    quiet(pane, qtbot)
    assert pane._effect is not None and pane._effect.nodes == [first, second]


def test_that_an_output_cannot_be_ablated(pane: Circuits, qtbot: QtBot) -> None:
    assert pane._opened is not None
    output = next(n.id for n in pane._opened.graph.nodes if n.kind == "logit")
    pane.canvas.select([output])
    assert not pane.detail.ablate.isVisible()
    pane.ablate()
    quiet(pane, qtbot)
    assert any("cannot be ablated" in word for word in words(pane))


def test_that_a_prompt_from_elsewhere_is_traced_and_shown(pane: Circuits, qtbot: QtBot) -> None:
    pane.session.set_prompt("Two and two make")
    assert pane.prompt.edit.text() == "Two and two make"
    with qtbot.waitSignal(pane.session.job_ended, timeout=60_000):
        qtbot.keyClick(pane.prompt.edit, Qt.Key.Key_Return)
    quiet(pane, qtbot)
    assert pane._opened is not None and pane._opened.graph.prompt == "Two and two make"
    assert pane.bar.graphs.count() == 2


def test_that_the_circuit_is_offered_to_the_case_and_written_out(pane: Circuits, qtbot: QtBot, tmp_path: Path) -> None:
    offered: list[dict[str, Any]] = []
    pane.session.evidence_offered.connect(offered.append)
    pane.canvas.setFocus()
    qtbot.keyClick(pane.canvas, Qt.Key.Key_C)
    quiet(pane, qtbot)
    assert offered[0]["kind"] == "circuit" and offered[0]["figure"].startswith(b"<svg")
    with qtbot.waitSignal(pane.session.job_ended, timeout=60_000):
        pane.export_to(tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert pane._opened is not None and len(written["nodes"]) == len(pane._opened.graph.nodes)


def test_that_hostile_tokens_and_labels_stay_text(pane: Circuits, qtbot: QtBot) -> None:
    from dataclasses import replace

    from auditor.ui.panes.circuits import source

    assert pane._opened is not None
    graph = pane._opened.graph
    bad = "<b>x</b>\u202eabc\x00"
    hostile = replace(graph, nodes=[replace(n, token=bad, label=bad) for n in graph.nodes], tokens=[bad] * 9)
    opened = replace(pane._opened, graph=hostile)
    pane._show((opened, source.prune(opened, 0.8, 0.98)))
    pane.canvas.select([strongest(pane)[0]])
    shown = [*words(pane), pane.bar.output.text(), *(node.text for node in pane.canvas.drawing.nodes)]
    assert any("<b>x</b>⟦U+202E⟧abc" in text for text in shown)
    assert not any("\u202e" in text or "\x00" in text for text in shown)
    pane.canvas.grab()


def test_that_the_chosen_feature_shows_its_examples(qtbot: QtBot, indexed: Session, take_commands: Take) -> None:
    take_commands(indexed)
    made = Circuits(indexed)
    indexed.pane_of = lambda _: made
    qtbot.addWidget(made)
    made.resize(1100, 680)
    made.show()
    assert made.area.state == "empty"
    made.prompt.edit.setText("The door was locked with an old brass")
    with qtbot.waitSignal(indexed.job_ended, timeout=60_000):
        made.trace()
    quiet(made, qtbot)
    assert made._opened is not None and made._pruned is not None
    from auditor.features import open_index

    index = open_index(indexed.artefacts("index")[-1].path)
    node = next(n for n in made._pruned.graph.nodes if n.feature is not None and index.table["fires_text"][n.feature])
    assert node.feature is not None
    top = index.feature(node.feature).examples_of("text", "top")
    assert node.label == index.labels[node.feature]
    index.close()
    made.canvas.select([node.id])
    quiet(made, qtbot)
    from auditor.ui.widgets.token_view import TokenView

    views = made.detail.findChildren(TokenView)
    assert len(views) == min(3, len(top)) and views[0]._values == pytest.approx(top[0].activations)


def test_that_empty_projects_say_what_to_do(qtbot: QtBot, project_session: Session, take_commands: Take) -> None:
    take_commands(project_session)
    made = Circuits(project_session)
    qtbot.addWidget(made)
    assert made.state == "empty" and project_session.commands.get("run.train")


def test_that_image_patches_show_their_part_of_the_image_and_idle_ones_are_left_out() -> None:
    from dataclasses import replace
    from types import SimpleNamespace
    from typing import cast

    import numpy as np

    from auditor.project import Artefact
    from auditor.ui.panes.circuits import source
    from tests.analysis.graphs import random_graph

    made = random_graph(seed=3, positions=5, hooks=2)
    nodes = [
        replace(n, id=f"patch/{n.position}", kind="patch", cell=divmod(n.position, 2), token_id=None)
        if n.kind == "token" and n.position < 4
        else n
        for n in made.nodes
    ]
    idle = next(row for row, n in enumerate(nodes) if n.cell == (0, 1))
    made.adjacency[:, idle] = 0
    graph = replace(made, nodes=nodes, meta={**made.meta, "grid": [2, 2]})
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[10:, 10:] = 200
    artefact = cast(Artefact, SimpleNamespace(meta={}))
    opened = source.OpenGraph(artefact, graph, graph.scores(), graph.influence(), 0, {}, pixels)
    drawn = source.draw(opened, graph.prune(1.0, 1.0))
    kept = {drawn.nodes[row].id: picture for row, picture in drawn.pictures.items()}
    assert set(kept) == {"patch/0", "patch/2", "patch/3"}
    assert (kept["patch/3"] == 200).all() and not kept["patch/0"].any()
    assert kept["patch/3"].shape == (10, 10, 3)
    # A network that sees the middle has its patches there; what a foreign file says amiss is not followed.
    for seen, shape in (([0.25, 0.25, 0.75, 0.75], (5, 5, 3)), ([0, 0, 9, "x"], (10, 10, 3)), ("all", (10, 10, 3))):
        told = replace(graph, meta={**graph.meta, "seen": seen})
        middle = source.draw(replace(opened, graph=told), told.prune(1.0, 1.0))
        assert next(iter(middle.pictures.values())).shape == shape
    # Read in two parts: each covers the picture.
    apart = [replace(n, cell=(0, n.position + (n.position > 1))) if n.cell is not None else n for n in graph.nodes]
    parts = {**graph.meta, "grid": [1, 5], "panels": [[0, 0, 1, 2], [0, 3, 1, 2]]}
    told = replace(graph, nodes=apart, meta=parts)
    both = source.draw(replace(opened, graph=told), told.prune(1.0, 1.0))
    kept = {both.nodes[row].id: picture for row, picture in both.pictures.items()}
    assert set(kept) == {"patch/0", "patch/2", "patch/3"} and kept["patch/0"].shape == (20, 10, 3)
    assert (kept["patch/3"][10:] == 200).all() and not kept["patch/2"].any()
    for panels in ("all", [[0, 0, 1]], [[0, 0, -1, 2]], [[0, 0, 1, "x"]]):
        foreign = replace(told, meta={**parts, "panels": panels})
        assert source.draw(replace(opened, graph=foreign), foreign.prune(1.0, 1.0)).pictures


def test_that_an_adapter_can_be_off_for_a_trace(qtbot: QtBot) -> None:
    from auditor.project import Artefact
    from auditor.ui.panes.circuits.bar import PromptBar

    bar = PromptBar()
    qtbot.addWidget(bar)
    held = [
        Artefact(name, "model", name, Path(name), "0" * 64, "", None, {"modalities": ["text"], **meta})
        for name, meta in (("base", {}), ("laid", {"adapter": {"kind": "lora"}}))
    ]
    bar.set_models(held)
    names = [bar.models.itemText(at) for at in range(bar.models.count())]
    assert names == ["base", "laid", "laid, adapter off"] and (bar.model, bar.adapter) == ("laid", "on")
    bar.choose_model("laid", "off")
    bar.set_models(held)
    assert (bar.model, bar.adapter) == ("laid", "off")
    bar.choose_model("base")
    assert (bar.model, bar.adapter) == ("base", "on")
