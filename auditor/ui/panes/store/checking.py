"""The check of a store's bytes as it goes on and what it found; there while there is something to say."""

from __future__ import annotations

from typing import Any

from PySide6.QtWidgets import QFrame, QLabel, QProgressBar

from auditor.ui import theme
from auditor.ui.bridge import LiveJob, while_alive
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.plain_text import PlainLabel

_LOOKS = {
    "running": ("clock", "muted"), "good": ("circle-check", "good"), "bad": ("circle-alert", "bad"),
    "stopped": ("circle-stop", "muted"),
}  # fmt: skip


class Checking(QFrame):
    """Follows one check."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("card")
        self._live: LiveJob | None = None
        self._damage: list[str] = []
        self._icon = QLabel()
        self.told = PlainLabel("", wrap=True)
        self._bar = QProgressBar()
        self._bar.setTextVisible(False)
        self._bar.setRange(0, 1000)
        self._bar.setFixedWidth(theme.px(160))
        self.stop = controls.button("Stop", self._stop, slim=True, icon="square")
        line = controls.row(self._icon, self.told, self._bar, self.stop, margin="small")
        line.setStretch(1, 1)
        self.setLayout(line)
        theme.signals.changed.connect(self._show)
        self.hide()

    @property
    def running(self) -> bool:
        return self._live is not None and self._live.live

    def follow(self, live: LiveJob) -> None:
        """Show how a check goes, and in the end what it found."""
        self._live, self._damage = live, []
        live.changed.connect(while_alive(self._show))
        live.partial.connect(while_alive(self._hear))
        live.ended.connect(while_alive(self._show))
        self._show()

    def forget(self) -> None:
        """Nothing more to say: another store is looked at."""
        self._live = None
        self.hide()

    def _hear(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "damage":
            self._damage.append(f"{data['shard']}: {data['holds']}")

    def _show(self) -> None:
        live = self._live
        if live is None:
            return
        self.show()
        self._bar.setVisible(live.live)
        self.stop.setVisible(live.live)
        if live.live:
            self._bar.setValue(round(1000 * (live.share or 0)))
            done = f"{numbers.size(live.done_units)} of {numbers.size(live.total)}" if live.total else "waiting"
            damage = f"; damaged: {self._damage[0]}" if self._damage else ""
            self._say("running", f"Checking every byte: {done}{damage}")
        elif live.outcome == "done":
            checked = numbers.size(live.total)
            self._say("good", f"Every byte is as it was recorded ({checked}, SHA-256 of each block).")
        elif live.outcome == "failed":
            self._say("bad", "\n".join([live.message, live.hint, *self._damage[1:]]))
        else:
            self._say("stopped", "The check was stopped.")

    def _say(self, look: str, sentence: str) -> None:
        icon, role = _LOOKS[look]
        self._icon.setPixmap(theme.pixmap(icon, role, 16, self.devicePixelRatioF()))
        self.told.setText(sentence)
        self.told.set_role("" if role == "muted" else role)

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
