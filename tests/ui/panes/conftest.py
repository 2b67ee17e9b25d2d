"""A small real project for the panes: a paired model, a store of texts and pictures, a dictionary and its index."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from auditor.ui.commands import Command
from auditor.ui.panes import PANES
from auditor.ui.session import Session

if TYPE_CHECKING:
    from auditor.data import Sample

HOOK = "blocks.1.resid_post"
TEXTS = (
    "The door was locked with an old brass padlock.", "A river runs through the valley behind the town.",
    "def load_key(path):\n    return open(path).read()", "Horses graze on the hill while the sun goes down.",
    "The capital of France is Paris, a city on the river Seine.", "Winter light fell on the copper roof.",
    "Donaudampfschifffahrtsgesellschaftskapitän https://example.org/a/very/long/address?with=parts&and=more",
)  # fmt: skip
COLOURS = {"red": (200, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 210), "white": (240, 240, 240)}


def pictures(n: int = 8) -> list[Sample]:
    """Plain coloured pictures with a caption each."""
    from auditor.data import ImageRef, Sample

    rng = np.random.default_rng(0)
    found = []
    for number in range(n):
        name = list(COLOURS)[number % 4]
        pixels = np.clip(np.array(COLOURS[name]) + rng.integers(-25, 25, (64, 64, 3)), 0, 255).astype(np.uint8)
        pixels[8:24, 8 + 4 * number : 24 + 4 * number] = 255 - pixels[8:24, 8 + 4 * number : 24 + 4 * number]
        labels = {"caption": f"{name} field"}
        found.append(Sample(f"{name}-{number}", text=None, image=ImageRef.of(pixels), group=name, labels=labels))
    return found


@pytest.fixture(scope="session")
def indexed_folder(tiny_paired_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that holds model, store, dictionary and index; copy it before changing anything."""
    from auditor.data import text_sample
    from auditor.features.build import BuildConfig, build
    from auditor.models import open_model
    from auditor.project import Project
    from auditor.sae.train_config import TrainConfig
    from auditor.sae.trainer import train
    from auditor.store.record import RecordConfig, record

    folder = tmp_path_factory.mktemp("indexed") / "project"
    with Project.create(folder, "Padlock audit") as project:
        model = open_model(tiny_paired_folder)
        points = [{"hook": point.name, "width": point.width} for point in model.hook_points.values()]
        project.add("model", model.name, tiny_paired_folder, digest=model.digest, meta={"hook_points": points})
        samples = [*(text_sample(text) for text in TEXTS), *pictures()]
        config = RecordConfig(model="", samples="", hooks=(HOOK,), batch_size=4)
        store = record(config, model, samples, project.new_path("store", "small"))
        project.add("store", "small", store.path, digest=store.digest)
        settings = TrainConfig(d_sae=128, k=8, steps=40, batch_size=64, device="cpu")
        path = project.new_path("dictionary", "topk-128")
        sae = train(settings, store, path)
        dictionary = project.add("dictionary", "topk-128", path, digest=sae.digest)
        out = project.new_path("index", "topk-128")
        with build(BuildConfig(top=6), store, sae, model, out) as index:
            facts = {"features": index.n_features, "live": len(index.live), "dictionary": dictionary.id}
            project.add("index", "topk-128", out, digest=index.digest, meta=facts)
    gc.freeze()  # every test of the window collects garbage twice; the engines loaded here need no look each time
    return folder


@pytest.fixture
def indexed(session: Session, indexed_folder: Path, tmp_path: Path) -> Session:
    """A session on a copy of the indexed project."""
    shutil.copytree(indexed_folder, tmp_path / "indexed")
    session.open_project(tmp_path / "indexed")
    return session


@pytest.fixture
def take_commands() -> Callable[[Session], None]:
    """Give a session without a window the commands of every pane."""

    def take(session: Session) -> None:
        for entry in PANES:
            session.commands.add(*entry.load().commands(session))
        for name in ("file.open", "file.add-folder"):
            session.commands.add(Command(id=name, title=name, run=lambda: None))

    return take
