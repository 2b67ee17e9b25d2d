"""The settings of a training: presets above, then the form of what concerns the chosen architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QWidget

from auditor.project import Artefact
from auditor.sae.arch_settings import ABOUT, help_of, settings_of
from auditor.sae.presets import PRESETS, changed_from, preset_of
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
        self.form = Form(TrainConfig, session)
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

    def _edited(self) -> None:
        arch = str(self.form.values().get("arch") or "")
        self.form.show_only(settings_of(arch) - {"preset"})
        self.form.tell("arch", ABOUT.get(arch, ""))
        for name in ("hook", "target", "k", "l1"):
            self.form.tell(name, help_of(arch, name))
        self._say()
        self.changed.emit()

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


def _title(name: str) -> str:
    return str(TrainConfig.model_fields[name].title or name).lower()


def described(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Title and value of each setting that concerns the architecture, for a sheet."""
    shown = settings_of(str(values.get("arch", "")))
    return [(str(info.title or name), _written(values[name])) for name, info in TrainConfig.model_fields.items()
            if name in values and name in shown and name not in ("preset", "store")]  # fmt: skip


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
