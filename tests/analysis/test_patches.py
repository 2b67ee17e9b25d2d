"""Attribution graphs of a text+image prompt: image positions are patch nodes of the same conserved graph."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.analysis.circuits import AttributeConfig, Graph, attribute
from auditor.analysis.circuits.ablation import ablate_node
from auditor.analysis.circuits.formats import read_neuronpedia, write_neuronpedia
from auditor.data.image import ImageRef
from auditor.data.sample import Sample
from tests.analysis.dictionaries import activation_dictionary


@pytest.fixture(scope="module")
def picture():
    y, x = np.mgrid[:96, :96]
    pixels = np.stack([x * 2, y * 2, 255 * ((x // 16 + y // 16) % 2)], -1).astype(np.uint8)
    return Sample(id="picture", text=" A picture of", image=ImageRef.of(pixels))


@pytest.fixture(scope="module")
def sae(tiny_paired):
    return activation_dictionary(tiny_paired, "blocks.0.resid_post", d_sae=128, k=6, seed=3)


@pytest.fixture(scope="module")
def graph(tiny_paired, sae, picture):
    return attribute(tiny_paired, [sae], picture, AttributeConfig(max_logits=3))


def test_that_image_positions_are_patch_nodes_with_their_cells(graph):
    patches = [n for n in graph.nodes if n.kind == "patch"]
    assert [n.cell for n in patches] == [(r, c) for r in range(4) for c in range(4)]
    assert [n.position for n in patches] == list(range(patches[0].position, patches[0].position + 16))
    assert all(graph.tokens[n.position] == f"[{n.cell[0]},{n.cell[1]}]" == n.token for n in patches)
    assert graph.mask("token").sum() == len(graph.tokens) - 16 and graph.meta["grid"] == [4, 4]
    # The paired model's picture is read whole.
    assert graph.meta["seen"] == [0, 0, 1, 1]


def test_that_nothing_is_missing_with_an_image_and_patches_have_influence(graph):
    rows = graph.mask("feature", "logit")
    scale = np.abs(graph.adjacency).sum(1)[rows] + np.abs(graph.value[rows])
    assert np.abs(graph.missing()[rows] / scale).max() < 2e-5
    assert graph.influence()[graph.mask("patch")].sum() > 0
    on_image = [n for n in graph.nodes if n.kind == "feature" and graph.tokens[n.position].startswith("[")]
    assert on_image


def test_that_a_patch_can_be_ablated(graph, tiny_paired, sae, picture):
    patch = next(n for n in graph.nodes if n.kind == "patch")
    effect = ablate_node(tiny_paired, [sae], picture, graph, patch.id)
    assert np.abs(effect.true).max() > 0 and len(effect.predicted) == 3


def test_that_patches_survive_both_files(graph, tmp_path):
    again = Graph.load(graph.save(tmp_path / "p.graph.json.gz"))
    assert again.nodes == graph.nodes
    outside = read_neuronpedia(write_neuronpedia(graph, tmp_path / "p.json"))
    assert [n.cell for n in outside.nodes] == [n.cell for n in graph.nodes]
