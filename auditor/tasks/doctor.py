"""The verb “doctor”: examine a dictionary of the project again, on other activations than before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from auditor.base.config import Config, field
from auditor.base.errors import AuditorError
from auditor.tasks.task import Run, task

# Verdicts that say that the dictionary is not to be used as it was read.
_BAD = ("another", "none fits")


class DoctorConfig(Config):
    """What to examine, and on what."""

    dictionary: str = field("", title="Dictionary", help="Examine this one in every plausible convention.",
                            artefact="dictionary")  # fmt: skip
    store: str = field("", title="Examined on", help="Activations for the examination; empty: the newest store that "
                       "holds what it reads.", artefact="store")  # fmt: skip
    hook: str = field("", title="Hook point", help="What the dictionary reads, where it names another or none.",
                      hook_of="store")  # fmt: skip


@task("doctor", title="Examine a dictionary", config="auditor.tasks.doctor:DoctorConfig")
def run(run: Run, config: DoctorConfig) -> dict[str, Any]:
    """Let a dictionary reconstruct real activations in every plausible convention, and say which is right. The verdict
    is kept with the dictionary, beside the earlier ones."""
    from auditor.sae import load_any
    from auditor.sae.sae import Sae
    from auditor.tasks.examination import examined, facts_of

    artefact = run.input(config.dictionary, "dictionary")
    dictionary = load_any(artefact.path)
    if config.hook:
        if not isinstance(dictionary, Sae) or dictionary.sources:
            raise AuditorError(f"“{artefact.name}” reads several hook points.", "Leave the hook point empty.")
        dictionary = replace(dictionary, hook=config.hook)
    found = examined(run, dictionary, config.store)
    if found.verdict == "unchecked":
        raise AuditorError(f"“{artefact.name}” cannot be examined: {found.sentence.partition(': ')[2]}")
    facts = facts_of(found, run)
    before = [past for past in (*_list(artefact.meta.get("doctor_before")), artefact.meta.get("doctor")) if past]
    held = run.project.note(artefact, doctor=facts, doctor_before=before)
    run.project.log.append(
        "doctor", id=held.id, run=run.id, **{name: facts[name] for name in ("verdict", "reading", "store", "rows")}
    )
    shown = ("verdict", "sentence", "reading", "store", "hook", "rows", "samples", "outlying")
    readings = [
        {"convention": row.reading, "fvu": row.fvu, "low": row.interval[0], "high": row.interval[1], "l0": row.l0,
         "n": found.n, "same as": "; ".join(row.same_as)} for row in found.table
    ]  # fmt: skip
    earlier = [{name: past.get(name) for name in ("when", "verdict", "store", "rows")} for past in before]
    return {
        "ok": found.verdict not in _BAD,
        "dictionary": artefact.name,
        **{name: facts[name] for name in shown},
        "readings": readings,
        "earlier": earlier,
    }


def _list(held: Any) -> list[Any]:
    return held if isinstance(held, list) else []
