"""The verb “trace”: draw the circuit from a prompt to its next token."""

from __future__ import annotations

from typing import Any, ClassVar

from auditor.base.config import Config, field
from auditor.base.errors import AuditorError
from auditor.intake.overlay import ASKED, Asked
from auditor.tasks.pairing import digest_as_used, of_others, with_adapter
from auditor.tasks.task import Run, task


class TraceConfig(Config):
    """What to trace."""

    arguments: ClassVar[tuple[str, ...]] = ("prompt",)
    prompt: str = field("", title="Prompt", help="The text whose next token is explained.")
    image: str = field(
        "",
        title="Image",
        help="An image before the text, for models that take one: a path, which may begin in the project's folder.",
    )
    model: str = field("", title="Model", help="Empty: the newest that reads text.", artefact="model")
    adapter: Asked = field("auto", **ASKED)
    dictionaries: tuple[str, ...] = field(
        (), title="Dictionaries", help="None: the newest of each residual hook point that fits the model.",
        artefact="dictionary",
    )  # fmt: skip
    max_features: int = field(1500, title="Feature nodes", help="At most this many; the rest goes into errors.", ge=1)
    max_logits: int = field(10, title="Output tokens", help="At most this many.", ge=1, le=100)
    logit_mass: float = field(0.95, title="Output probability", help="Stop once they hold this much.", ge=0, le=1)
    targets: tuple[str, ...] = field((), title="Tokens to explain", help="Instead of the most probable ones.")
    position: int = field(-1, title="Position to explain", help="−1: the last.", unit="tokens", advanced=True)


@task("trace", title="Trace the circuit", config="auditor.tasks.trace:TraceConfig")
def run(run: Run, config: TraceConfig) -> dict[str, Any]:
    """Draw the attribution graph of a prompt: which features of which tokens or image patches led to which output, with
    the share that the dictionaries do not explain."""
    from auditor.analysis.circuits import AttributeConfig, attribute
    from auditor.tasks.opening import dictionaries_of, index_of, model_at, sample_of

    artefact = _model(run, config)
    run.opens(artefact)
    model = with_adapter(model_at(artefact.path), config.adapter, ())
    found = dictionaries_of(run.project, model, config.dictionaries, digest_as_used(artefact, model))
    model = with_adapter(model, config.adapter, [sae.meta.get("model_digest") for _, sae in found.values()])
    for held, _ in found.values():
        run.input(held.id, "dictionary")
    run.warn(of_others(artefact, model, [(held.name, sae) for held, sae in found.values()]))
    names: dict[str, list[str]] = {}
    for index_artefact in run.project.artefacts("index"):
        for hook, (held, _) in found.items():
            if index_artefact.meta.get("dictionary") == held.id:
                with index_of(run.project, index_artefact.id) as index:
                    names[hook] = list(index.labels)

    def label(hook: str, feature: int) -> str:
        held = names.get(hook, [])
        return held[feature] if feature < len(held) else ""

    settings = AttributeConfig(
        max_features=config.max_features, max_logits=config.max_logits, logit_mass=config.logit_mass,
        targets=config.targets, position=config.position,
    )  # fmt: skip
    sample = sample_of(config.prompt, run.project.folder / config.image if config.image else None)
    saes = {hook: sae for hook, (_, sae) in found.items()}
    graph = attribute(model, saes, sample, settings, run.reporter, labels=label)
    scores = graph.scores()
    path = run.project.new_path("result", config.prompt[:40] or "image", ".graph.json.gz")
    graph.save(path)
    outputs = [{"token": n.token, "probability": n.prob} for n in graph.nodes if n.kind == "logit"]
    dictionaries = {hook: held.id for hook, (held, _) in found.items()}
    run.output(
        "result", config.prompt or "image", path, graph=True, model=artefact.id, dictionaries=dictionaries,
        prompt=config.prompt, image=config.image, nodes=len(graph.nodes),
        **({} if model.adapter_on else {"adapter": "off"}),
    )  # fmt: skip
    return {
        "outputs": outputs,
        "nodes": len(graph.nodes),
        "replacement": scores.replacement,
        "completeness": scores.completeness,
        "error_share": scores.error_share,
    }


def _model(run: Run, config: TraceConfig) -> Any:
    wanted = {"text", "image"} if config.image else {"text"}
    held = [run.input(config.model, "model")] if config.model else run.project.artefacts("model")
    fitting = [a for a in held if wanted <= set(a.meta.get("modalities", ["text", "image"]))]
    if held and not fitting:
        raise AuditorError(
            f"“{held[-1].name}” does not read {' and '.join(sorted(wanted))}.",
            "Leave the image out, or open a model that reads it." if config.image else "Choose a model of texts.",
        )
    return run.input(fitting[-1].id if fitting else "", "model")
