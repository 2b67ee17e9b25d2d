"""Where resources, sample data and models, the person's settings and their cache lie; no other module knows."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from pathlib import Path

import platformdirs

from auditor.base.errors import AuditorError
from auditor.base.files import told


def at_home(path: Path | str) -> Path:
    """What a person calls `path`: ~ is their own folder, and a name like any other where there is no such person."""
    return Path(os.path.expanduser(path))  # which does not fail, as Path does


def is_text(name: Path | str) -> bool:
    """Whether a name can be kept and shown: the system's are bytes, and some are no UTF-8."""
    return shown(name) == str(name)


def shown(name: Path | str) -> str:
    """A name with what is no text in it as question marks."""
    return str(name).encode("utf-8", "replace").decode("utf-8")


def resolved(path: Path | str) -> Path:
    """`at_home`, absolute and without links. AuditorError for a ring of links, and a name that none may have."""
    try:
        place = at_home(path).resolve()
        place.exists()  # which fails where the name is too long
        return place
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            raise told(error, Path(path)) from error
        why = getattr(error, "strerror", None) or str(error).partition(" from ")[0]
        raise AuditorError(
            f"“{str(path)[:80]}” cannot be followed to a file or folder ({why}).", "Check the name and its links."
        ) from error


def root() -> Path:
    """The checkout, or the folder that a frozen bundle unpacks into."""
    frozen = getattr(sys, "_MEIPASS", None)
    return Path(frozen) if frozen else Path(__file__).resolve().parents[2]


def resources() -> Path:
    """Icons, theme tokens, report templates, fonts, protocols."""
    return root() / "resources"


def sample_data() -> Path:
    """What the sample audit ships."""
    return root() / "sample_data"


def build() -> Path:
    """Scratch that can be made again: sample models, the opened sample audit, pictures."""
    return Path(os.environ.get("AUDITOR_BUILD", root() / "build"))


def sample_models() -> Path:
    """The prepared sample models; AUDITOR_MODELS names another folder."""
    return Path(os.environ.get("AUDITOR_MODELS", build() / "models"))


def user_config() -> Path:
    """The person's own settings; AUDITOR_CONFIG names another folder."""
    return Path(os.environ.get("AUDITOR_CONFIG", platformdirs.user_config_dir("auditor", appauthor=False)))


def user_cache() -> Path:
    """What can be made again and is worth keeping on this machine; AUDITOR_CACHE names another folder."""
    return Path(os.environ.get("AUDITOR_CACHE", platformdirs.user_cache_dir("auditor", appauthor=False)))


def large_temporary() -> Path:
    """For temporary files that may not fit into memory: /tmp is memory on many systems, /var/tmp is a disk."""
    disk = Path("/var/tmp")
    return disk if "TMPDIR" not in os.environ and os.access(disk, os.W_OK) else Path(tempfile.gettempdir())
