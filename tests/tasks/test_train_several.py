"""The verb “train” where a dictionary reads several hook points or several stores."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.project import Project
from auditor.sae import load, load_any
from auditor.sae.clt import CrossLayerTranscoder
from auditor.sae.train_config import TrainConfig
from auditor.store import open_store
from auditor.store.recipe import RecordConfig
from auditor.tasks.open import OpenConfig
from auditor.tasks.task import run_task

WORDS = "the a cat sat on mat and ran over small hill to see moon rise while rain fell def return 12 + = )"
READ = ("blocks.0.resid_mid", "blocks.1.resid_mid")
WRITTEN = ("blocks.0.mlp_out", "blocks.1.mlp_out")


@pytest.fixture(scope="module")
def project(tiny_llama_folder, tmp_path_factory):
    """A project with one store of four hook points, one of the stream after each of two blocks, and one that was
    recorded in another order."""
    folder = tmp_path_factory.mktemp("several")
    rng = np.random.default_rng(2)
    words = np.array(WORDS.split())
    texts = [" ".join(rng.choice(words, int(rng.integers(8, 50)))) for _ in range(40)]
    (folder / "texts.txt").write_text("\n\n".join(texts), encoding="utf-8")
    with Project.create(folder / "project") as project:
        run_task("open", project, OpenConfig(path=str(tiny_llama_folder)), Reporter())
        run_task("open", project, OpenConfig(path=str(folder / "texts.txt")), Reporter())
        for hooks, seed in ((READ + WRITTEN, 0), (("blocks.0.resid_post",), 0), (("blocks.1.resid_post",), 0),
                            (("blocks.1.resid_post",), 1)):  # fmt: skip
            config = RecordConfig(model="", samples="", hooks=hooks, context=32, seed=seed)
            run_task("record", project, config, Reporter())
        yield project


def store_of(project, *hooks, last=False):
    found = [a for a in project.artefacts("store") if set(open_store(a.path).hook_points) == set(hooks)]
    return found[-1 if last else 0].id


def train(project, **changes):
    settings = {"d_sae": 64, "steps": 12, "batch_size": 128, "evaluate_rows": 256, "device": "cpu", "context": 32}
    told = run_task("train", project, TrainConfig(**settings | changes), Reporter())
    (reference,) = told["artefacts"]
    return told, project.find(reference, "dictionary")


def test_that_a_cross_layer_transcoder_is_trained_measured_and_found_again(project):
    hooks = {"hook": ", ".join(READ), "target": ", ".join(WRITTEN)}
    told, artefact = train(project, arch="clt", store=store_of(project, *READ, *WRITTEN), **hooks)
    clt = load_any(artefact.path)
    assert isinstance(clt, CrossLayerTranscoder)
    assert (clt.hooks, clt.hooks_out, clt.d_sae) == (READ, WRITTEN, 128)
    assert told["fvu"] == clt.meta["quality"]["fvu"] and set(clt.meta["quality"]["by_hook"]) == set(WRITTEN)
    assert (artefact.meta["arch"], artefact.meta["features"], artefact.digest) == ("clt", 128, clt.digest)
    with pytest.raises(AuditorError, match="cross-layer transcoder"):
        load(artefact.path)


def test_that_a_transcoder_and_a_crosscoder_of_layers_are_trained_from_one_store(project):
    store = store_of(project, *READ, *WRITTEN)
    told, artefact = train(project, arch="skip_transcoder", store=store, hook=READ[0], target=WRITTEN[0], k=4)
    sae = load(artefact.path)
    assert (sae.hook, sae.hook_out, sae.kind) == (READ[0], WRITTEN[0], "transcoder") and sae.W_skip is not None
    assert told["fvu_linear"] == sae.meta["quality"]["baselines"]["linear"]
    _, artefact = train(project, arch="crosscoder", store=store, hook=", ".join(WRITTEN))
    sae = load(artefact.path)
    assert [name for name, _ in sae.sources] == list(WRITTEN)
    shares = sae.source_shares()
    assert shares.shape == (64, 2) and float((shares.sum(1) - 1).abs().max()) < 1e-5


def test_that_a_crosscoder_reads_stores_of_the_same_samples_as_one_and_refuses_others(project):
    one, two = store_of(project, "blocks.0.resid_post"), store_of(project, "blocks.1.resid_post")
    told, artefact = train(project, arch="crosscoder", store=one, others=two)
    sae = load(artefact.path)
    names = [open_store(project.find(ref, "store").path).name for ref in (one, two)]
    assert [name for name, _ in sae.sources] == [f"{n}/blocks.{i}.resid_post" for i, n in enumerate(names)]
    assert set(sae.meta["quality"]["by_hook"]) == {name for name, _ in sae.sources}
    assert told["fvu"] > 0 and artefact.meta["arch"] == "crosscoder"
    with pytest.raises(AuditorError, match="different"):
        train(project, arch="crosscoder", store=one, others=store_of(project, "blocks.1.resid_post", last=True))
