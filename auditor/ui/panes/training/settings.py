"""The settings of a training: presets above, then the form of what concerns the chosen architecture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QWidget

from auditor.project import Artefact
from auditor.sae.arch_settings import ABOUT, help_of, settings_of
from auditor.sae.presets import PRESETS, changed_from, preset_of
from auditor.sae.refusals import Known, passed_over, refused
from auditor.sae.train_config import TrainConfig
from auditor.ui import theme
from auditor.ui.forms import Form
from auditor.ui.panes.training.kept import Kept
from auditor.ui.session import Session
from auditor.ui.widgets import controls
from auditor.ui.widgets.flow import Flow
from auditor.ui.widgets.plain_text import PlainLabel

# What another dictionary's settings do not decide for a new one.
_OWN = {"preset", "store", "others", "sweep", "start_from", "steps", "device"}
_TWO_LINES = 28


class Settings(QWidget):
    """Gives a TrainConfig; `changed` at each edit."""

    changed = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.buttons = {name: controls.button(preset.title, slim=True, tip=preset.help)
                        for name, preset in PRESETS.items()}  # fmt: skip
        for name, made in self.buttons.items():
            made.setCheckable(True)
            made.clicked.connect(lambda _=False, name=name: self.use(name))
        self.told = PlainLabel(role="small", wrap=True)
        self.told.setMinimumHeight(theme.px(_TWO_LINES))  # the form below stays where it is
        self._preset = "balanced"
        self._read: dict[str, list[str]] = {}  # hook points by the id of a store
        self.form = Form(TrainConfig, session, refused=self._refused)
        for name in ("hook", "target"):
            self.form.offer(name, self._hooks)
        self.form.changed.connect(self._edited)
        buttons = controls.box(Flow(*self.buttons.values()))
        self.setLayout(controls.column(buttons, self.told, self.form, None, gap="tight"))
        self._edited()

    @property
    def preset(self) -> str:
        """The preset that the form holds, empty where it was changed."""
        return preset_of(self.form.values())

    def value(self) -> TrainConfig:
        """The config; AuditorError after marking what is wrong."""
        config = self.form.value()
        assert isinstance(config, TrainConfig)
        return config

    def use(self, preset: str) -> None:
        """Fill in a preset's settings."""
        self._preset = preset
        self.form.set_all(PRESETS[preset].values)

    def fine_tune(self, dictionary: Artefact, kept: Kept, stores: list[Artefact]) -> None:
        """Fill in what makes the dictionary fit: kind, size and hook points, and the other settings that made it."""
        known = {name: held for name, held in kept.settings.items() if name in TrainConfig.model_fields}
        values = {name: held for name, held in known.items() if name not in _OWN}
        meta = dictionary.meta
        values |= {"arch": meta.get("arch") or values.get("arch", "topk"), "hook": meta.get("hook", "")}
        if meta.get("features") and "d_sae" not in known:  # with two sides, or in several layers, there are more
            values["d_sae"] = int(meta["features"])
        if meta.get("k") and "k" not in known:
            values["k"] = int(meta["k"])
        digest = str(kept.facts.get("store_digest", ""))
        store = next((store.id for store in reversed(stores) if store.digest == digest), "")
        self.form.set_all({**values, "start_from": dictionary.id, "sweep": "", "store": store})

    def _hooks(self) -> list[str]:
        """The hook points of what is learned from."""
        values = self.form.values()
        if values.get("model"):
            return self.form.listed("model")
        store = self._store(values)
        return self.form.listed("store") or (self._read.get(store.id, []) if store is not None else [])

    def _store(self, values: Mapping[str, Any]) -> Artefact | None:
        """The store that is chosen, else the newest."""
        stores = self._session.artefacts("store")
        return next((a for a in stores if values.get("store") in (a.id, a.name)), stores[-1] if stores else None)

    def _ask_hooks(self) -> None:
        """Read which hook points the store has, where the catalogue does not tell."""
        store = self._store(self.form.values())
        if store is None or self._hooks() or store.id in self._read:
            return
        ref, path = store.id, store.path
        self._read[ref] = []  # asked for once

        def take(found: list[str]) -> None:
            self._read[ref] = found
            self._show()  # nothing was edited: what the planner says stays

        self._session.read(f"training.hooks {ref}", lambda: _hooks_of(path), take, lambda _: None)

    def _refused(self, values: Mapping[str, Any]) -> dict[str, str]:
        store = self._store(values)
        dictionaries = self._session.artefacts("dictionary")
        start = next((a for a in dictionaries if values.get("start_from") in (a.id, a.name)), None)
        counts = store.meta.get("counts") if store is not None else None
        known = Known(self._hooks(), counts if isinstance(counts, dict) else {}, start.meta if start else {})
        return refused(values, known)

    def _edited(self) -> None:
        self._show()
        self._ask_hooks()
        self.changed.emit()

    def _show(self) -> None:
        """Show what concerns the architecture, and say what does nothing, is lacking or would be refused."""
        arch = str(self.form.values().get("arch") or "")
        self.form.show_only(settings_of(arch) - {"preset"})
        self.form.bar(passed_over(self.form.values()))
        self.form.tell("arch", ABOUT.get(arch, ""))
        values = self.form.values()
        lacking = {name: reason for name, reason in self._refused(values).items() if values.get(name) in ("", None)}
        for name in ("hook", "target", "samples", "k", "l1"):
            self.form.tell(name, lacking.get(name) or help_of(arch, name))
        self._say()

    def _say(self) -> None:
        values = self.form.values()
        found = preset_of(values)
        self._preset = found or self._preset
        for name, made in self.buttons.items():
            made.setChecked(name == found)
        preset = PRESETS[self._preset]
        if found:
            self.told.setText(preset.help)
        else:
            names = [_title(name) for name in changed_from(self._preset, values)]
            self.told.setText(f"Changed from “{preset.title}”: {', '.join(names)}.")


def _hooks_of(path: Path) -> list[str]:
    from auditor.store import open_store

    return list(open_store(path).hook_points)


def _title(name: str) -> str:
    return str(TrainConfig.model_fields[name].title or name).lower()


def described(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Title and value of each setting that did something, for a sheet."""
    shown = settings_of(str(values.get("arch", ""))) - set(passed_over(values))
    return [(str(info.title or name), _written(values[name])) for name, info in TrainConfig.model_fields.items()
            if name in values and name in shown and name not in ("preset", "store")]  # fmt: skip


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
