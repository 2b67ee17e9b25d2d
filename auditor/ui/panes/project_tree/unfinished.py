"""What stopped and killed work left, as the project tree shows it: which there is, its card, going on, removing."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QPushButton, QWidget

from auditor.base.reporter import Reporter
from auditor.project import Project
from auditor.ui.bridge import LiveJob, while_alive
from auditor.ui.panes.project_tree.card import fact, told
from auditor.ui.session import Session
from auditor.ui.widgets.controls import box, button, column, heading, row
from auditor.ui.widgets.numbers import size, thin
from auditor.ui.widgets.plain_text import PlainLabel

if TYPE_CHECKING:
    from auditor.tasks.unfinished import Unfinished

_UNKNOWN = "How it was begun is not known; started with the same settings, it goes on from here."
# Panes are made anew while a project is open; it is said once.
_reminded: weakref.WeakSet[Project] = weakref.WeakSet()


class Leftovers(QObject):
    """What is unfinished in the project, `held` with the newest last; looked at again whenever work begins or ends,
    since what is being written is none of it. `finished` tells what of it was finished by going on, and the id of what
    it became."""

    changed = Signal()
    finished = Signal(str, str)

    def __init__(self, session: Session, parent: QObject) -> None:
        super().__init__(parent)
        self._session = session
        self._parts: dict[int, int] = {}
        self._going: list[tuple[LiveJob, Unfinished]] = []
        self.held: list[Unfinished] = []
        session.project_changed.connect(self.look)
        session.catalogue_changed.connect(self.look)
        session.job_started.connect(self._follow)
        self.look()

    def look(self) -> None:
        """List it anew."""
        project = self._session.project
        if project is None:
            self._take((None, []))
            return

        def listed(_: Reporter) -> tuple[Project, list[Unfinished]]:
            from auditor.tasks.unfinished import unfinished

            return project, unfinished(project)

        self._session.measure("project.unfinished", listed, self._take)

    def go_on(self, one: Unfinished, *, anew: bool = False) -> None:
        """Run the same settings again as a job; `anew`: from the start, without what is left."""
        project = self._session.project
        assert project is not None
        project.must_write()

        def work(reporter: Reporter) -> dict[str, Any]:
            from auditor.tasks.unfinished import go_on, start_anew

            return (start_anew if anew else go_on)(project, one.name, reporter)

        verb = {"recording": "Record", "training": "Train"}.get(one.work, "Test")
        live = self._session.run(f"{verb} {one.name}", work)
        live.done.connect(while_alive(self._done, one))
        self._going.append((live, one))
        self._take((project, self.held))

    def remove(self, one: Unfinished) -> None:
        """Remove what it left; the person was asked."""
        project = self._session.project
        assert project is not None

        def work(_: Reporter) -> int:
            from auditor.tasks.unfinished import remove

            return remove(project, one.name)

        # Each has a key of its own: of one key only the newest is done.
        self._session.measure(f"project.remove {one.name}", work, self._removed, self._not_removed)

    def _removed(self, freed: int) -> None:
        self._session.say(f"Removed; {size(freed)} are free again.")
        self.look()

    def _not_removed(self, error: Exception) -> None:
        self._session.error(error)
        self.look()

    def _done(self, one: Unfinished, result: dict[str, Any]) -> None:
        made = result.get("artefacts") or ()
        if made:
            self.finished.emit(one.name, str(made[0]))

    def _follow(self, live: LiveJob) -> None:
        live.changed.connect(while_alive(self._begun, live))

    def _begun(self, live: LiveJob) -> None:
        if self._parts.get(live.id, 0) != live.parts:
            self._parts[live.id] = live.parts
            self.look()

    def _take(self, found: tuple[Project | None, list[Unfinished]]) -> None:
        project, held = found
        self._going = [(live, one) for live, one in self._going if live.live]
        taken = {target for _, one in self._going for target in one.targets}  # which waits may be long in its turn
        held = [one for one in held if taken.isdisjoint(one.targets)]
        if project is self._session.project and held != self.held:
            self.held = held
            self.changed.emit()
        if project is not None and project is self._session.project and project not in _reminded:
            _reminded.add(project)
            self._remind([one.name for one in held if one.run is not None and one.run.status == "failed"])

    def _remind(self, broken: list[str]) -> None:
        """Of what was broken off before the project was opened; what a person stopped, they know of."""
        if broken and self._session.has("writable"):
            what, them = (f"“{broken[0]}” was", "it") if len(broken) == 1 else (f"{len(broken)} works were", "them")
            self._session.say(f"{what} broken off. Go on with {them} from “Unfinished” in the project.", "warn")


def unfinished_card(one: Unfinished, left: Leftovers, names: Mapping[str, str], *, writable: bool) -> QWidget:
    """What is known of it, with what can be done with it in `left`; what removes it asks first, in place. `names` are
    those of artefacts by their ids."""
    onward = button("Go on", lambda: left.go_on(one), slim=True, primary=True, icon="play")
    anew, remove = button("Start anew…", slim=True, icon="rotate-ccw"), button("Remove…", slim=True, icon="trash-2")
    actions = box(column(row(onward, remove, None), row(anew, None), gap="tight"))
    actions.setEnabled(writable)
    if one.run is None:
        onward.hide()
        anew.hide()
    questions = [
        _question(f"Remove {size(one.bytes)} for good?", "Remove", actions, remove, lambda: left.remove(one)),
        _question(
            f"Remove {size(one.bytes)} for good and start from the beginning?", "Start anew", actions, anew,
            lambda: left.go_on(one, anew=True),
        ),
    ]  # fmt: skip
    reached = f"{one.work.capitalize()}: {thin(one.reached)}" if one.reached else one.work.capitalize()
    written = f"{one.changed[:16].replace('T', ' ')} UTC"
    known = f"{reached}. Last written {written}, {size(one.bytes)} on the disk."
    parts: list[QWidget] = [PlainLabel(one.name, "strong", wrap=True, selectable=True), actions, *questions]
    unknown = one.run is None and bool(one.reached)
    parts.append(PlainLabel(f"{known} {_UNKNOWN}" if unknown else known, wrap=True))
    if one.run is not None and one.run.message:
        parts.append(PlainLabel(f"Why it ended: {one.run.message}", "muted", wrap=True))
    parts += [fact("at", str(place)) for place in one.places]
    if one.run is not None:
        parts += [heading("How it was begun"), fact("verb", f"{one.run.verb} ({one.run.status})")]
        parts += [fact(key, _named(value, names)) for key, value in one.run.config.items()]
    return box(column(*parts, gap="tight"))


def _question(asked: str, word: str, actions: QWidget, asks: QPushButton, yes: Callable[[], object]) -> QWidget:
    """What takes the place of `actions` once `asks` is pressed: `word` does it, Keep goes back."""
    keep, does = button("Keep", slim=True), button(word, yes, slim=True, icon="trash-2")
    question = box(column(PlainLabel(asked, "strong", wrap=True), row(does, keep, None), gap="tight"))
    question.hide()

    def turn(asking: bool) -> None:
        question.setVisible(asking)
        actions.setVisible(not asking)
        does.setEnabled(True)
        (keep if asking else asks).setFocus()

    asks.clicked.connect(lambda: turn(True))
    keep.clicked.connect(lambda: turn(False))
    does.clicked.connect(lambda: does.setEnabled(False))
    return question


def _named(value: Any, names: Mapping[str, str]) -> str:
    """A setting as a person gave it: an artefact by its name, with the options behind it."""
    found, mark, options = told(value).partition("?")
    return f"{names.get(found, found)}{mark}{options}"
