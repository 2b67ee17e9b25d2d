"""The sample audit: real networks recorded, a dictionary learned, circuits traced, claims tested, a report signed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from auditor.base import paths
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.project import Project
from auditor.tasks.open import OpenConfig
from auditor.tasks.task import run_task

NAME = "Sample audit"
MIDDLE = "blocks.14.resid_post"
SIDES = ("blocks.7.resid_post", "blocks.22.resid_post")
TEXT_PROMPT, IMAGE_PROMPT = "The capital of France is", "A picture of"
HOOKS = (SIDES[0], MIDDLE, SIDES[1])
_SHIPPED = ("catalogue.sqlite", "log.jsonl", "dictionaries", "indices", "results", "cases", "bundles", "key.pem")
_READY = "sample-audit"


def shipped() -> Path:
    """Where the finished sample audit lies in the checkout."""
    return paths.sample_data() / "audit"


def prepare(folder: Path, reporter: Reporter, *, from_scratch: bool = False) -> Project:
    """The sample audit as a project in `folder`, open for writing: the one that is there, a copy of the shipped one, or
    made anew from the networks. AuditorError where the sample models are not prepared."""
    _must_have_models()
    if not from_scratch and (folder / "catalogue.sqlite").exists():
        project = Project.open(folder)
        if project.catalogue.setting(_READY) == "ready":
            return project
        project.close()
    if from_scratch or not shipped().exists():
        return make(folder, reporter)
    if folder.exists():
        shutil.rmtree(folder)
    return _copy(folder, reporter)


def make(folder: Path, reporter: Reporter) -> Project:
    """Record, train, index, trace, test, report and sign. What an interrupted run had reached is taken up again."""
    from auditor.tasks.sample_claims import write_case

    if (folder / "catalogue.sqlite").exists():
        project = Project.open(folder)
        project.must_write()
        if project.catalogue.setting(_READY) == "ready":
            project.close()
            shutil.rmtree(folder)
            project = Project.create(folder, NAME)
    else:
        project = Project.create(folder, NAME)
    _open_models(project, reporter)
    _open_samples(project, reporter)
    _record(project, reporter)
    _train(project, reporter)
    _index(project, reporter)
    _trace(project, reporter)
    _forget_unfinished_case(project)
    write_case(project, reporter)
    project.catalogue.set_setting(_READY, "ready")
    return project


def _forget_unfinished_case(project: Project) -> None:
    """Take away what an interrupted run had written of the case: its tests answered questions that are gone."""
    for artefact in project.artefacts():
        claim = artefact.kind == "result" and not artefact.meta.get("graph")
        if artefact.kind in ("case", "bundle") or claim:
            artefact.path.unlink(missing_ok=True)
            shutil.rmtree(
                artefact.path.with_name(artefact.path.name.replace(".case.json", ".figures")), ignore_errors=True
            )
            project.catalogue.forget(artefact.id)


def write_files(project: Project, folder: Path, reporter: Reporter) -> dict[str, Any]:
    """report.html, report.pdf and the signed bundle of the project's newest bundle in `folder`, and the verdict."""
    from auditor.audit import verify

    bundle = project.artefacts("bundle")[-1].path
    stem = bundle.name.removesuffix(".audit.zip")
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Any] = {}
    for source, name in (
        (bundle.with_name(f"{stem}.html"), "report.html"),
        (bundle.with_name(f"{stem}.pdf"), "report.pdf"),
        (bundle, bundle.name),
    ):
        shutil.copyfile(source, folder / name)
        written[name] = str(folder / name)
    return written | {"verified": verify(bundle).ok}


def _must_have_models() -> None:
    for name in ("smollm2-135m", "paired", "efficientnet-lite0"):
        if not (paths.sample_models() / name / "config.json").exists():
            raise AuditorError(
                f"The sample model “{name}” is not prepared in {paths.sample_models()}.",
                "Type: python3 packaging/bootstrap.py install",
            )


def _copy(folder: Path, reporter: Reporter) -> Project:
    """The shipped audit as a project of this machine: the same artefacts, with this machine's models and samples."""
    reporter.started("Opening the sample audit", len(_SHIPPED), "parts")
    unfinished = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for done, name in enumerate(_SHIPPED, 1):
        source = shipped() / name
        if source.is_dir():
            shutil.copytree(source, unfinished / name, copy_function=_link_or_copy)
        elif source.exists():
            shutil.copyfile(source, unfinished / name)
        reporter.step(done, len(_SHIPPED))
    _write_samples(unfinished / "samples")
    os.replace(unfinished, folder)
    project = Project.open(folder)
    for artefact in project.artefacts("model"):
        project.catalogue.move(artefact.id, paths.sample_models() / artefact.name)
    return project


def ship(project: Project, target: Path) -> None:
    """Put what the sample audit ships into `target`: all but the store, the models and the samples."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in _SHIPPED:
        source = project.folder / name
        if source.is_dir():
            shutil.copytree(source, target / name)
        elif source.exists() and name != "catalogue.sqlite":
            shutil.copyfile(source, target / name)
    project.catalogue.copy_to(target / "catalogue.sqlite", ("store",), (project.folder, paths.sample_models()))


def _link_or_copy(source: str, target: str) -> None:
    """A hard link where the disk allows it: finished artefacts are never written again."""
    Path(target).unlink(missing_ok=True)
    if source.endswith((".json", ".pem")):
        shutil.copyfile(source, target)
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _open_models(project: Project, reporter: Reporter) -> None:
    held = {artefact.name for artefact in project.artefacts("model")}
    for name in ("efficientnet-lite0", "smollm2-135m", "paired"):
        if name not in held:
            run_task("open", project, OpenConfig(path=str(paths.sample_models() / name)), reporter)


def _open_samples(project: Project, reporter: Reporter) -> None:
    folder = project.folder / "samples"
    _write_samples(folder)
    held = {artefact.name for artefact in project.artefacts("samples")}
    for name in ("texts.jsonl", "images.jsonl", "everything.jsonl", "fresh.jsonl", "capitals.txt"):
        if name.partition(".")[0] not in held:
            run_task("open", project, OpenConfig(path=str(folder / name)), reporter)


def _write_samples(folder: Path) -> None:
    """The texts, the captioned images, both in one manifest; and, never recorded, fresh texts and prompts."""
    import gzip

    source = paths.sample_data()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "texts" / "capitals.txt", folder / "capitals.txt")
    images = (source / "images" / "images.jsonl").read_text("utf-8").splitlines()
    texts, fresh = (
        gzip.decompress((source / "texts" / f"{name}.jsonl.gz").read_bytes()).decode("utf-8").splitlines()
        for name in ("texts", "fresh")
    )
    sets = {"texts": texts, "fresh": fresh, "images": images, "everything": texts + images}
    for name, lines in sets.items():
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        if name in ("images", "everything"):
            _link_or_copy(str(source / "images" / "images.zip"), str(folder / f"{name}.zip"))


def _record(project: Project, reporter: Reporter) -> None:
    from auditor.store.recipe import RecordConfig

    if not project.artefacts("store"):
        config = RecordConfig(model="paired", samples="everything", hooks=HOOKS, context=128, batch_size=16)
        run_task("record", project, config, reporter)


def _train(project: Project, reporter: Reporter) -> None:
    from auditor.sae.train_config import TrainConfig

    held = {artefact.meta.get("hook") for artefact in project.artefacts("dictionary")}
    for hook in (*SIDES, MIDDLE):
        if hook not in held:
            middle = hook == MIDDLE
            config = TrainConfig(hook=hook, d_sae=8192 if middle else 2048, k=32, steps=500, half=True)
            run_task("train", project, config, reporter)


def _index(project: Project, reporter: Reporter) -> None:
    from auditor.features.build import BuildConfig

    held = {artefact.meta.get("dictionary") for artefact in project.artefacts("index")}
    for dictionary in project.artefacts("dictionary"):
        if dictionary.id not in held:
            few = (
                {"top": 10, "per_band": 2}
                if dictionary.meta.get("hook") == MIDDLE
                else {"top": 4, "per_band": 0, "misses": 0}
            )
            config = BuildConfig(dictionary=dictionary.id, thumbnail_px=48, **few)
            run_task("index", project, config, reporter)


def _trace(project: Project, reporter: Reporter) -> None:
    from auditor.tasks.trace import TraceConfig

    held = {artefact.meta.get("prompt") for artefact in project.artefacts("result") if artefact.meta.get("graph")}
    if TEXT_PROMPT not in held:
        config = TraceConfig(prompt=TEXT_PROMPT, model="smollm2-135m", max_features=800)
        run_task("trace", project, config, reporter)
    if IMAGE_PROMPT not in held:
        config = TraceConfig(prompt=IMAGE_PROMPT, image=_picture(project), model="paired", max_features=800)
        run_task("trace", project, config, reporter)


def _picture(project: Project) -> str:
    """One image as a file of the project, for the circuit that begins in an image; its path in the project."""
    from auditor.data import open_samples

    samples = open_samples(project.find("images", "samples").path)
    chosen = next((s for s in samples if s.group == "strawberry"), samples[0])
    assert chosen.image is not None
    path = project.folder / "results" / f"{chosen.id}.webp"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(chosen.image.encoded())
    return path.relative_to(project.folder).as_posix()
