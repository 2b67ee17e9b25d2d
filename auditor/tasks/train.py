"""The verb “train”: learn a dictionary of features, or several at once, from a store or from a running model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from auditor.base.config import read_config
from auditor.base.digest import digest_json
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.sae.train_config import TrainConfig
from auditor.tasks.task import Run, task

if TYPE_CHECKING:
    from auditor.sae.clt import Dictionary
    from auditor.sae.distributed import Ranks
    from auditor.sae.sae import Sae
    from auditor.sae.source import Source
    from auditor.tasks.splicing import Splicing

_Found = TypeVar("_Found")
# Of a look into the model on the way, in the order of reading; its file keeps all.
_LOOKS = (
    "step", *(f"{figure}{end}" for figure in ("ce_increase", "kl", "fvu") for end in ("", "_low", "_high")), "kl_pca",
    "tokens", "samples", "rows",
)  # fmt: skip


@dataclass(frozen=True)
class _Member:
    """One dictionary to be made: its settings, what tells it from the others of a sweep, and where it will lie."""

    config: TrainConfig
    label: str
    out: Path


@task("train", title="Train a dictionary", config="auditor.sae.train_config:TrainConfig")
def run(run: Run, config: TrainConfig) -> dict[str, Any]:
    """Learn a dictionary of features, or with a sweep several at once, from recorded activations or from a running
    model. A run that was stopped or killed goes on when it is started again with the same settings."""
    from auditor.sae import load_any

    places, settled = _places(run, config)
    if "model" in places:
        run.opens(run.project.find(settled.model, "model"))
    source = _opened(config, places)
    settled = _hooks_in_all(settled, source)
    settled, start = _start(run, settled)
    members = _members(run, settled, source)
    lacking = [member for member in members if not member.out.exists()]
    told: dict[str, dict[str, float]] = {}
    if not lacking:
        _one_must_be_new(run, members)
        if run.ranks is not None:
            run.ranks.tell(None)
        made = {member.out: load_any(member.out) for member in members}
    else:
        run.begins([member.out for member in lacking], settled)
        learning = _Learning(run, settled, places, source, start)
        told = learning.train(lacking, whole=len(lacking) == len(members))
        made = {member.out: load_any(member.out) for member in members}
    _forget_checkpoints(members)
    rows = [_registered(run, member, made[member.out], told) for member in members]
    looks = _looks(members, made)
    if len(rows) == 1:
        return rows[0] | told | looks
    table = [{name: held for name, held in row.items() if name != "figures"} for row in rows]
    named = [{"name": m.out.stem} | row for m, row in zip(members, table, strict=True)]
    return {"dictionaries": named, **told, **looks}


def _looks(members: Sequence[_Member], made: Mapping[Path, Dictionary]) -> dict[str, Any]:
    """What was measured in the model on the way, a row for each look at each dictionary; empty where there was none."""
    rows = [
        ({"name": member.out.stem} if len(members) > 1 else {}) | {name: look[name] for name in _LOOKS if name in look}
        for member in members for look in made[member.out].meta.get("probed", ())
    ]  # fmt: skip
    return {"looks": rows} if rows else {}


def follow(reporter: Reporter, ranks: Ranks) -> None:
    """What the other processes of a shared run do: train as the first one tells, and register nothing."""
    from auditor.sae import load_any
    from auditor.sae.plan import plan
    from auditor.sae.trainer import train_all

    told = ranks.tell()
    if told is None:
        return
    configs = [read_config(TrainConfig, config) for config in told["configs"]]
    source = _opened(read_config(TrainConfig, told["config"]), told["places"])
    start = load_any(Path(told["start"])) if told["start"] else None
    if told["plans"]:
        plan(read_config(TrainConfig, told["config"]), source, start=start, ranks=ranks)
    # Only the first process measures, but all must know when it does.
    probe: Callable[[Sae], Mapping[str, float]] | None = (lambda sae: {}) if told["probes"] else None
    train_all(configs, source, [Path(out) for out in told["outs"]], reporter, start=start, probe=probe, ranks=ranks)


def _places(run: Run, config: TrainConfig) -> tuple[dict[str, str], TrainConfig]:
    """Where lies what is learned from, and the settings with its artefacts' ids."""
    if config.model and config.store:
        raise AuditorError("Both a store and a model to stream from are named.", "Leave one of them empty.")
    if not config.model:
        if config.adapter == "off":
            raise AuditorError(
                "An adapter is switched off where a model runs, and a store was recorded before.",
                "Record with --adapter off, or name a model to stream from.",
            )
        from auditor.sae.scaling import names_of

        artefact = run.input(config.store, "store")
        others = [run.input(name, "store") for name in names_of(config.others)]
        places = {"store": str(artefact.path)} | {f"other {n:03}": str(held.path) for n, held in enumerate(others)}
        return places, config.model_copy(
            update={"store": artefact.id, "others": ", ".join(held.id for held in others)}
        )
    from auditor.tasks.opening import place_of_samples, samples_settled

    model, samples = run.input(config.model, "model"), samples_settled(run, config.samples)
    settled = config.model_copy(update={"model": model.id, "samples": samples})
    return {"model": str(model.path), "samples": place_of_samples(run, samples)}, settled


def _opened(config: TrainConfig, places: Mapping[str, str]) -> Source:
    """What to learn from."""
    if "store" in places:
        from auditor.store import open_store
        from auditor.store.joined import learned_from

        others = [places[name] for name in sorted(places) if name != "store"]
        stores = [open_store(place) for place in (places["store"], *others)]
        return learned_from(stores, config.hook)
    from auditor.data import open_samples
    from auditor.sae.stream import Stream
    from auditor.tasks.opening import model_at

    model = model_at(Path(places["model"]), "float32", config.device).switched(config.adapter)
    return Stream(config, model, open_samples(places["samples"]))


def _hooks_in_all(config: TrainConfig, source: Source) -> TrainConfig:
    """The settings with hook points as several stores have them together."""
    if not config.others:
        return config
    from auditor.store.joined import in_all

    return config.model_copy(update={"hook": in_all(source.hook_points, config.hook)})


def _start(run: Run, config: TrainConfig) -> tuple[TrainConfig, Dictionary | None]:
    """The dictionary to go on from, where one is named."""
    if not config.start_from:
        return config, None
    from auditor.sae import load_any

    artefact = run.input(config.start_from, "dictionary")
    return config.model_copy(update={"start_from": artefact.id}), load_any(artefact.path)


def _members(run: Run, config: TrainConfig, source: Source) -> list[_Member]:
    from auditor.sae.archs import ARCHITECTURES
    from auditor.sae.scaling import reading_of
    from auditor.sae.sweep import expand, label
    from auditor.tasks.opening import samples_unnamed

    configs, members = expand(config), []
    for one in configs:
        takes = ARCHITECTURES.get(one.arch).takes
        reading = reading_of(dict(source.hook_points), takes, one.hook, one.target)
        hooks = ", ".join(name for name, _ in reading.sources)
        settled = one.model_copy(update={"hook": hooks})
        told = label(one, configs)
        name = "-".join([hooks.replace(", ", "+"), one.arch, str(one.d_sae), *_short(told)])
        # How often a run is kept or looked at may change from one start to the next; an adapter that is on, and looks
        # at as many samples as ever, go without saying.
        usual = {"checkpoint_every", "metrics_every", *(["adapter"] if one.adapter == "on" else [])}
        usual |= {"look_samples"} if one.look_samples == TrainConfig.model_fields["look_samples"].default else set()
        settings = settled.model_dump(mode="json", exclude=usual) | {"store": source.digest}
        out, unnamed = (
            run.keyed_path("dictionary", name, digest_json(settings | {"samples": samples}))
            for samples in (one.samples, samples_unnamed(one.samples))
        )
        members.append(_Member(settled, told, unnamed if _is_there(unnamed) else out))
    if len({member.out for member in members}) < len(members):
        raise AuditorError("The sweep asks for the same dictionary twice.", "Name each value once.")
    return members


def _is_there(out: Path) -> bool:
    """Whether a dictionary, or what its training kept, is there."""
    from auditor.sae import checkpoint
    from auditor.sae.distributed import kept

    return out.exists() or kept.exists(checkpoint.place(out))


def _short(label: str) -> list[str]:
    """What a file's name says of a sweep, less what it says anyway: “k=16, seed=1” gives k16, seed1."""
    parts = [part.partition("=") for part in label.split(", ") if part]
    return [f"{name}{value}" for name, _, value in parts if name not in ("arch", "d_sae")]


def _one_must_be_new(run: Run, members: Sequence[_Member]) -> None:
    """AuditorError where the project knows all of them; those that it does not know are registered now."""
    held = {artefact.path for artefact in run.project.artefacts("dictionary")}
    if all(member.out in held for member in members):
        run.must_be_forgotten("dictionary", members[0].out)


def _forget_checkpoints(members: Sequence[_Member]) -> None:
    """What is left where a kill came between the saving of a dictionary and the end of its run."""
    from auditor.sae import checkpoint
    from auditor.sae.distributed import kept

    for place in (checkpoint.place(member.out) for member in members):
        kept.forget(place)
        kept.forget(kept.folder(place))


class _Learning:
    """The training itself, what is measured beside it, and what it takes."""

    def __init__(
        self, run: Run, config: TrainConfig, places: dict[str, str], source: Source, start: Dictionary | None
    ) -> None:
        self.run, self.config, self.places, self.source, self.start = run, config, places, source, start
        self._splicing: Splicing | None = None

    def train(self, members: Sequence[_Member], *, whole: bool) -> dict[str, dict[str, float]]:
        """Train `members`; what was planned (where this is not the rest of an interrupted run) and what it took."""
        from auditor.models.device import device_named
        from auditor.sae import checkpoint, memory
        from auditor.sae.distributed import Ranks, kept
        from auditor.sae.plan import plan
        from auditor.sae.took import Took
        from auditor.sae.trainer import train_all

        outs, ranks, device = [member.out for member in members], self.run.ranks, device_named(self.config.device)
        told: dict[str, dict[str, float]] = {}
        whole = whole and not any(kept.exists(checkpoint.place(out)) for out in outs)
        # The network that a plan opens stays open, and is what the training takes.
        before = memory.held(device)
        self._splicing = self._spliced()
        if ranks is not None:
            ranks.tell(self._for_others(members) | {"plans": whole})
        if whole:
            estimate = plan(
                self.config, self.source, outs[0].parent, start=self.start, ranks=ranks, network=self._splicing
            )
            estimate.must_fit()
            if self._splicing is not None and estimate.looked_at:
                self._splicing.looked_at = estimate.looked_at
            told["planned"] = estimate.facts()
            self.run.reporter.partial("planned", **told["planned"])
        took = Took()
        with memory.measured(device, before) as peak:
            train_all(
                [member.config for member in members], self.source, outs, self.run.reporter, start=self.start,
                probe=self._probe(), measure=self._measures(members), took=took, ranks=ranks,
            )
        took.bytes, took.shared = (ranks or Ranks()).of_machine(peak.bytes, device), peak.shared
        took.kept_bytes = sum(file.stat().st_size for out in outs for file in out.rglob("*") if file.is_file())
        return told | {"took": took.facts()}

    def _for_others(self, members: Sequence[_Member]) -> dict[str, Any]:
        """What `follow` needs, but for whether it plans."""
        return {
            "config": self.config.model_dump(mode="json"), "places": self.places,
            "configs": [member.config.model_dump(mode="json") for member in members],
            "outs": [str(member.out) for member in members],
            "start": None if self.start is None else str(self.start.path), "probes": self._probe() is not None,
        }

    def _spliced(self) -> Splicing | None:
        """None where the dictionary stands for no single place of the model; and, with a word to the person, where the
        model or the samples are not at hand."""
        from auditor.tasks.splicing import splicing_of

        try:
            return splicing_of(self.run.project, self.source, self.config, self.run.opens)
        except AuditorError as error:
            self._tell(error)
            return None

    def _probe(self) -> Callable[[Sae], Mapping[str, float]] | None:
        splicing = self._splicing
        if splicing is None or not self.config.splice_every:
            return None
        return lambda sae: self._beside(lambda: splicing.probe(sae, self.run.reporter)) or {}

    def _measures(self, members: Sequence[_Member]) -> Callable[[Sae], Mapping[str, Any]]:
        """What each finished dictionary's `meta` gets; they come in the order of `members`."""
        turns = iter(members)

        def measure(sae: Sae) -> dict[str, Any]:
            member, facts = next(turns), dict[str, Any]()
            if self.start is not None:
                facts["start_from"] = {"name": self.config.start_from, "digest": self.start.digest}
            splicing = self._splicing
            if splicing is not None:
                facts["spliced"] = self._beside(lambda: splicing.measure(sae, self.run.reporter))
            if self.config.random_model:
                facts["random_model"] = self._beside(lambda: self._of_random_model(member))
            return {name: found for name, found in facts.items() if found is not None}

        return measure

    def _of_random_model(self, member: _Member) -> dict[str, Any]:
        from auditor.sae.random_model import MOST_POSITIONS, random_model
        from auditor.sae.scaling import names_of
        from auditor.sae.stream import Stream
        from auditor.store.recipe import RecordConfig
        from auditor.tasks.opening import model_at
        from auditor.tasks.splicing import origin_of

        if isinstance(self.source, Stream):
            model, samples, rows = self.source.model.path, self.source.learned, MOST_POSITIONS
            settings: dict[str, Any] = {"context": self.config.context, "adapter": self.config.adapter}
        else:
            origin = origin_of(self.run.project, self.source)
            self.run.opens(origin.model)
            model, samples = model_at(origin.model.path).path, origin.samples
            rows = min(self.source.n_rows, MOST_POSITIONS)
            held = self.source.meta.get("config")
            settings = dict(held) if isinstance(held, Mapping) else {}
        hooks = (*names_of(member.config.hook), *names_of(member.config.target))
        recipe = RecordConfig(
            **settings | {"model": "", "samples": "", "hooks": hooks, "max_tokens": rows, "device": self.config.device}
        )
        found = random_model(member.config, model, samples, recipe, member.out, self.run.reporter)
        return found.model_dump(mode="json")

    def _beside(self, measured: Callable[[], _Found]) -> _Found | None:
        """What is measured beside the training; where that fails, None and a word to the person: what was trained is
        worth more."""
        from auditor.sae import memory

        try:
            return measured()
        except AuditorError as error:
            self._tell(error)
        except (MemoryError, RuntimeError) as error:
            if not memory.out_of_memory(error):
                raise
            self._tell(AuditorError("It does not fit the memory beside the dictionary.", "Use --splice-samples 0."))
        return None

    def _tell(self, error: AuditorError) -> None:
        self.run.reporter.partial("warning", message=f"Not measured in the model: {error.message}")


def _registered(
    run: Run, member: _Member, sae: Dictionary, told: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Register a dictionary; its headline figures."""
    from auditor.sae.figures import figures, headline

    facts = headline(figures(sae.meta))
    for mishap in sae.meta.get("mishaps", []):
        which = f" of {member.label}" if member.label else ""
        run.remarks.append(
            f"The loss{which} was not finite or leapt at step {mishap['step']}: back at step {mishap['back_to']} with "
            f"{mishap['rate']:g} of the learning rate."
        )
    held = next((a for a in run.project.artefacts("dictionary") if a.path == member.out), None)
    if held is None:
        compared = {f"{when}_{name}": value for when, found in told.items() for name, value in found.items()}
        run.output(
            "dictionary", member.out.stem, member.out, digest=sae.digest, hook=sae.hook or member.config.hook,
            features=sae.d_sae, arch=member.config.arch, **({"sweep": member.label} if member.label else {}), **facts,
            **compared,
        )
    else:
        run.outputs.append(held)
    return facts
