"""The side panel of the circuits pane: the chosen node, its edges, its feature's examples, what ablation did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PySide6.QtCore import Signal
from PySide6.QtWidgets import QGridLayout, QWidget

from auditor.ui.panes.circuits.edge_list import EdgeList
from auditor.ui.panes.circuits.source import EdgeEnd, FeatureExamples, NodeFacts, signed
from auditor.ui.widgets import controls
from auditor.ui.widgets.graph_drawing import seen
from auditor.ui.widgets.numbers import figure, share
from auditor.ui.widgets.patch_view import PatchView
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel
from auditor.ui.widgets.token_view import TokenView

if TYPE_CHECKING:
    from auditor.analysis.circuits.ablation import NodeEffect
    from auditor.features.examples import Example

_HINT = """Click a node to see what feeds it and what it feeds. Ctrl+click chooses several.

○ feature   ◇ error: what the dictionaries leave out   ▭ token or output
Orange adds, blue (dashed when chosen) takes away; width is the size of the effect.

Drag to pan, wheel or + and − to zoom, F to fit, arrows to walk, C to add the circuit to the case."""


class Detail(QWidget):
    """`node_wanted` carries the id of a node clicked in a list; the others are the buttons."""

    node_wanted = Signal(str)
    feature_wanted = Signal()
    ablation_wanted = Signal()
    ablation_offered = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._hint = PlainLabel(_HINT, "muted", wrap=True)
        self._title = PlainLabel("", "pane", wrap=True, selectable=True)
        self._facts = QGridLayout()
        self._facts.setColumnStretch(1, 1)
        self._facts.setVerticalSpacing(2)
        self._facts.setContentsMargins(0, 0, 0, 0)
        self.show_feature = controls.button("Show feature", self.feature_wanted.emit, icon="search")
        self.ablate = controls.button("Ablate", self.ablation_wanted.emit, icon="scissors")
        self._told = PlainLabel("", "muted", wrap=True)
        self._effect = controls.column()
        self._effect_box = controls.box(self._effect)
        self.incoming = EdgeList("in")
        self.outgoing = EdgeList("out")
        self.leading = EdgeList("leading")
        for edges in (self.leading, self.incoming, self.outgoing):
            edges.chosen.connect(self.node_wanted)
        self._examples = controls.column()
        self._example_box = controls.box(self._examples)
        self._parts = (
            self._title, controls.box(self._facts), controls.box(controls.row(self.show_feature, self.ablate, None)),
            self._told, self._effect_box, self.incoming, self.outgoing, self._example_box,
        )  # fmt: skip
        inside = controls.column(self.leading, self._hint, *self._parts, None, margin="medium")
        self.setLayout(controls.column(controls.scrolled(controls.box(inside)), gap=""))
        self.clear()

    def clear(self) -> None:
        """Nothing is chosen."""
        for part in self._parts:
            part.hide()
        self._hint.show()
        self.leading.setVisible(bool(self.leading.rows.edges))

    def set_leading(self, features: Sequence[EdgeEnd]) -> None:
        """What is listed while nothing is chosen."""
        chosen = self._hint.isHidden()
        self.leading.set_edges("Most influential features, share of influence", features)
        if chosen:
            self.leading.hide()

    def show_node(self, facts: NodeFacts) -> None:
        """One node; examples and ablation come later."""
        self._begin(facts.title)
        for row, (name, value, tip) in enumerate(facts.facts):
            label, told = PlainLabel(name, "muted"), PlainLabel(value, wrap=True, selectable=True)
            for part in (label, told):
                part.set_tip(tip)
            self._facts.addWidget(label, row, 0)
            self._facts.addWidget(told, row, 1)
        self._parts[1].show()
        self.show_feature.setVisible(bool(facts.feature is not None and facts.dictionary))
        self._offer_ablation(1 if facts.kind != "logit" else 0)
        self.incoming.set_edges("In, by weight", facts.incoming)
        self.outgoing.set_edges("Out, by weight", facts.outgoing)

    def show_several(self, chosen: Sequence[NodeFacts]) -> None:
        """Several nodes, to be ablated together."""
        self._begin(f"{len(chosen)} nodes")
        for row, facts in enumerate(chosen[:12]):
            self._facts.addWidget(PlainLabel(facts.title, wrap=True), row, 0)
        self._parts[1].show()
        self.show_feature.hide()
        self._offer_ablation(len(chosen) if all(facts.kind != "logit" for facts in chosen) else 0)

    def say(self, text: str, *, bad: bool = False) -> None:
        """A line below the buttons: what is under way, or why it failed."""
        self._told.set_role("bad" if bad else "muted")
        self._told.setText(text)
        self._told.setVisible(bool(text))

    def show_effect(self, effect: NodeEffect, doubt: str = "") -> None:
        """What the ablation did: predicted beside true for each output, next tokens before and after; and `doubt`."""
        self.say(doubt, bad=True)
        controls.clear(self._effect)
        grid = QGridLayout()
        grid.setVerticalSpacing(2)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setColumnStretch(0, 1)
        tips = ("Change of the logit less the mean logit, in nats", "By the graph's edges", "By the linear network "
                "without dictionaries", "Measured in the real network")  # fmt: skip
        for column, (word, tip) in enumerate(zip(("output", "predicted", "linear", "true"), tips, strict=True)):
            label = PlainLabel(word, "small")
            label.set_tip(tip)
            grid.addWidget(label, 0, column)
        for row, at in enumerate(range(min(len(effect.outputs), 6)), start=1):
            grid.addWidget(ElidedLabel(seen(effect.outputs[at])), row, 0)
            for column, values in enumerate((effect.predicted, effect.linear, effect.true), start=1):
                grid.addWidget(PlainLabel(signed(values[at]), "strong" if column == 3 else ""), row, column)
        words = QGridLayout()
        words.setVerticalSpacing(2)
        words.setContentsMargins(0, 0, 0, 0)
        for column, (word, tokens) in enumerate((("next before", effect.before), ("next after", effect.after))):
            words.addWidget(PlainLabel(word, "small"), 0, column)
            for row, (token, probability) in enumerate(tokens[:5], start=1):
                words.addWidget(ElidedLabel(f"{share(probability)}  {seen(token)}"), row, column)
            words.setColumnStretch(column, 1)
        kl = PlainLabel(f"KL of the next token {figure(effect.kl, 'nats')}; n = 1 prompt", "muted", wrap=True)
        offer = controls.button("Add to case", self.ablation_offered.emit, icon="pin")
        parts = (controls.heading("Ablated: change in nats"), controls.box(grid), controls.box(words), kl,
                 controls.box(controls.row(offer, None)))  # fmt: skip
        for part in parts:
            self._effect.addWidget(part)
        self._effect_box.show()

    def show_examples(self, found: FeatureExamples | None) -> None:
        """The feature's strongest texts and pictures on one scale."""
        controls.clear(self._examples)
        if found is None:
            self._examples.addWidget(PlainLabel("No index of this dictionary: index it to see examples here.", "muted",
                                                wrap=True))  # fmt: skip
        else:
            self._examples.addWidget(controls.heading(f"Strongest examples, scale 0 to {figure(found.max_act)}"))
            for example in found.texts:
                self._examples.addWidget(_text(example, found.max_act))
            pictures = [_picture(example, data, found.max_act) for example, data in found.images]
            if pictures:
                self._examples.addWidget(controls.box(controls.row(*pictures, None)))
            if not found.texts and not pictures:
                self._examples.addWidget(PlainLabel("It fires on nothing in the indexed store.", "muted", wrap=True))
        self._example_box.show()

    def _begin(self, title: str) -> None:
        self.clear()
        self._hint.hide()
        self.leading.hide()
        controls.clear(self._facts)
        self._title.setText(title)
        self._title.show()
        self._parts[2].show()

    def _offer_ablation(self, n: int) -> None:
        self.ablate.setText("Ablate" if n == 1 else f"Ablate {n} nodes together")
        self.ablate.setVisible(n > 0)


def _text(example: Example, largest: float) -> TokenView:
    view = TokenView(lines=2)
    view.set_tokens(example.tokens, example.activations, high=largest, focus=example.peak)
    return view


def _picture(example: Example, data: bytes | None, largest: float) -> PatchView:
    view = PatchView(side=76)
    view.set_image(data)
    if example.grid is not None:
        view.set_patches(np.array(example.activations, dtype=float).reshape(example.grid), high=largest)
    return view
