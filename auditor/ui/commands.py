"""One declaration of what a person can do, that gives the menu entry, the key, the button and the Ctrl+K line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from PySide6.QtCore import QObject, Signal

from auditor.base.errors import AuditorError

MENUS = ("File", "Edit", "View", "Run", "Case", "Help")


@dataclass(frozen=True, kw_only=True)
class Command:
    """Something a person can do.

    `keys` is a shortcut such as "Ctrl+O" or "L"; `needs` says what must be there (see `Session.has`): "", "project",
    "writable", "feature", "artefact", "prompt", "example", or an artefact kind such as "store". `menu` is one of
    MENUS, or "" for the palette alone. `checked` makes it a tick that shows a state.
    """

    id: str
    title: str
    run: Callable[[], object]
    keys: str = ""
    needs: str = ""
    menu: str = ""
    icon: str = ""
    help: str = ""
    checked: Callable[[], bool] | None = None


@dataclass(frozen=True)
class Hit:
    """One line of the palette that is not a command: a feature, an artefact, a page of help."""

    title: str
    run: Callable[[], object]
    detail: str = ""
    icon: str = ""


Provider = Callable[[str], Iterable[Hit]]


class Commands(QObject):
    """Every command there is, and what else the palette can find.

    `has` answers a command's need; `failed` takes what its run raised; `lack` says why a need is not met.
    """

    changed = Signal()

    def __init__(
        self, has: Callable[[str], bool], failed: Callable[[Exception], object], parent: QObject | None = None,
        *, lack: Callable[[str], Exception],
    ) -> None:  # fmt: skip
        super().__init__(parent)
        self._has = has
        self._failed = failed
        self._lack = lack
        self._held: dict[str, Command] = {}
        self._providers: dict[str, Provider] = {}

    def add(self, *commands: Command) -> None:
        """Take commands in; ValueError when an id or a shortcut is taken."""
        for command in commands:
            if command.id in self._held:
                raise ValueError(f"two commands claim the id {command.id!r}")
            if command.menu and command.menu not in MENUS:
                raise ValueError(f"command {command.id!r} asks for a menu that does not exist: {command.menu!r}")
            rival = next((c for c in self._held.values() if command.keys and c.keys == command.keys), None)
            if rival is not None:
                raise ValueError(f"{command.id!r} and {rival.id!r} both claim {command.keys}")
            self._held[command.id] = command
        self.changed.emit()

    def add_provider(self, title: str, provider: Provider) -> None:
        """Let the palette find more under the heading `title`; it runs at each key, so within 10 ms."""
        self._providers[title] = provider

    def all(self) -> list[Command]:
        return list(self._held.values())

    def get(self, name: str) -> Command:
        """The command with this id; AuditorError where there is none."""
        if name not in self._held:
            raise AuditorError(f"There is no command “{name}”.", "Ctrl+K lists every command.")
        return self._held[name]

    def usable(self, command: Command) -> bool:
        return self._has(command.needs)

    def run(self, name: str) -> None:
        """Do it, or say what it needs and is not there; what it raises is shown, not thrown."""
        try:
            command = self.get(name)
            if not self.usable(command):
                raise self._lack(command.needs)
            command.run()
        except Exception as error:
            self._failed(error)

    def search(self, query: str, limit: int = 60) -> list[tuple[str, list[Hit]]]:
        """Groups of hits for `query`: usable commands by closeness, then what each provider finds."""
        ranked = [(score(query, command.title), command) for command in self.all() if self.usable(command)]
        found = sorted(((s, c) for s, c in ranked if s > 0), key=lambda pair: -pair[0]) if query else ranked
        groups = [("Commands", [self._hit(command) for _, command in found][:limit])]
        for title, provider in self._providers.items():
            groups.append((title, list(provider(query))[:limit]))
        return [(title, hits) for title, hits in groups if hits]

    def _hit(self, command: Command) -> Hit:
        return Hit(command.title, lambda: self.run(command.id), command.keys, command.icon)


def score(query: str, text: str) -> float:
    """How well the letters of `query`, in order, are found in `text`: 0 not at all; starts of words count most."""
    wanted, within = query.lower().replace(" ", ""), text.lower()
    if not wanted:
        return 1.0
    total, at, last = 0.0, 0, -2
    for letter in wanted:
        place = within.find(letter, at)
        start = next(
            (i for i in range(at, len(within)) if within[i] == letter and (i == 0 or not within[i - 1].isalnum())), -1
        )
        if place < 0:
            return 0.0
        if start >= 0 and place != last + 1:
            place = start
        total += 3.0 if place == last + 1 else 2.0 if place == start else 0.5
        last, at = place, place + 1
    whole = 5.0 if query.lower() in within else 0.0
    return (total + whole) / (len(wanted) + 0.02 * len(within))
