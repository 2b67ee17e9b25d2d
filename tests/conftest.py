"""Shared by all tests: a closed network, settings of their own, and `--without-qt`, which makes Qt not importable."""

from __future__ import annotations

import importlib.abc
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are imported, by whichever test comes first
os.environ["AUDITOR_CONFIG"] = tempfile.mkdtemp(prefix="auditor-settings-")
os.environ["AUDITOR_CACHE"] = tempfile.mkdtemp(prefix="auditor-cache-")

from hypothesis import HealthCheck, settings

from auditor.base.offline import go_offline

go_offline()
# How long examples take to draw says how busy the machine is; a test may use its one folder for all of them.
settings.register_profile("shared", suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.load_profile("shared")

pytest_plugins = ["tests.models_fixtures"]
_QT = ("PySide6", "shiboken6", "pyqtgraph")


class _NoQt(importlib.abc.MetaPathFinder):
    """Answers every import of Qt as a machine without it would."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name.split(".")[0] in _QT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def pytest_addoption(parser: pytest.Parser) -> None:
    told = "make Qt not importable and leave out tests/ui; give -p no:pytest-qt with it"
    parser.addoption("--without-qt", action="store_true", help=told)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--without-qt"):
        return
    for name in [name for name in sys.modules if name.split(".")[0] in _QT]:
        del sys.modules[name]
    sys.meta_path.insert(0, _NoQt())
    os.environ["AUDITOR_TESTS_WITHOUT_QT"] = "1"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if config.getoption("--without-qt") and collection_path.name == "ui" and collection_path.parent.name == "tests":
        return True
    if collection_path.name == "bench" and collection_path.parent.name == "tests":
        return True
    return None
