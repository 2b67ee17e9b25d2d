"""The verb “train”: learn a dictionary of features from a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from auditor.base.config import read_config
from auditor.base.digest import digest_json
from auditor.base.reporter import Reporter
from auditor.sae.train_config import TrainConfig
from auditor.tasks.task import Run, task

if TYPE_CHECKING:
    from auditor.sae.distributed import Ranks


@task("train", title="Train a dictionary", config="auditor.sae.train_config:TrainConfig")
def run(run: Run, config: TrainConfig) -> dict[str, Any]:
    """Learn a dictionary of features from recorded activations. A run that was stopped or killed goes on when it is
    started again with the same settings."""
    from auditor.sae import load
    from auditor.sae.quality import Quality, evaluate
    from auditor.sae.trainer import train
    from auditor.store import open_store

    artefact = run.input(config.store, "store")
    store = open_store(artefact.path)
    hook = store.hook(config.hook or None)
    settled = config.model_copy(update={"store": artefact.id, "hook": hook})
    name = f"{hook}-{config.arch}-{config.d_sae}"
    out = run.keyed_path("dictionary", name, digest_json(settled.model_dump(mode="json") | {"store": artefact.digest}))
    if out.exists():
        run.must_be_forgotten("dictionary", out)
        _tell(run.ranks, None)
        sae = load(out)
    else:
        _tell(run.ranks, {"config": settled.model_dump(mode="json"), "store": str(artefact.path), "out": str(out)})
        sae = train(settled, store, out, run.reporter, ranks=run.ranks)
    measured = sae.meta.get("quality")
    quality = Quality.model_validate(measured) if measured else evaluate(sae, store)
    facts = quality.summary()
    run.output("dictionary", out.stem, out, digest=sae.digest, hook=hook, features=sae.d_sae, arch=sae.arch, **facts)
    return facts


def follow(reporter: Reporter, ranks: Ranks) -> None:
    """What the other processes of a shared run do: train as the first one tells, and register nothing."""
    from auditor.sae.trainer import train
    from auditor.store import open_store

    told = ranks.tell()
    if told is not None:
        config = read_config(TrainConfig, told["config"])
        train(config, open_store(told["store"]), told["out"], reporter, ranks=ranks)


def _tell(ranks: Ranks | None, what: dict[str, Any] | None) -> None:
    if ranks is not None:
        ranks.tell(what)
