"""The tree keeps its own rules: arrows, types, lint, no unsafe loading, no Qt outside the window."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "auditor").rglob("*.py"))


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_that_imports_keep_to_the_arrows() -> None:
    run("-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))")


def test_that_ruff_finds_nothing() -> None:
    run("-m", "ruff", "check", "--no-cache", ".")


def test_that_every_type_holds() -> None:
    run("-m", "mypy", "auditor")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_that_a_module_says_what_it_holds_and_never_unpickles(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree), "the first line of a module says what it holds"
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        source = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        for name in (*names, source):
            assert name.split(".")[0] not in {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert given.get("allow_pickle") != "True"
            if called == "torch.load":
                assert given.get("weights_only") == "True"
            assert called not in {"eval", "exec"} or path.name == "jail.py"


def test_that_everything_but_the_window_imports_without_qt() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in SOURCES
        if "ui" not in path.relative_to(ROOT).parts and path.name != "__main__.py"
    ]
    blocked = "sys.modules.update(dict.fromkeys(('PySide6', 'shiboken6', 'pyqtgraph')))"
    run("-c", f"import sys, importlib; {blocked}\nfor name in {modules!r}: importlib.import_module(name)")


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("auditor.ui.app", "torch transformers h5py sklearn"),
        ("auditor.audit", "torch transformers h5py PySide6"),
        ("auditor.cli.main", "torch transformers h5py PySide6"),
        ("auditor.features", "torch transformers h5py PySide6"),
    ],
)
def test_that_a_light_module_stays_light(module: str, banned: str) -> None:
    if module.startswith("auditor.ui"):
        pytest.importorskip("PySide6")
    code = f"import {module}, sys; heavy = set({banned.split()!r}) & set(sys.modules); assert not heavy, heavy"
    run("-c", code)
