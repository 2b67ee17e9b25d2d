"""What a form says of settings before the start, against what the training itself does with them."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.data import text_sample
from auditor.sae.arch_settings import settings_of
from auditor.sae.archs import ARCHITECTURES
from auditor.sae.refusals import _MADE, CONTINUES, TAKES, Known, passed_over, refused
from auditor.sae.run import Trainer
from auditor.sae.stream import Stream
from auditor.sae.sweep import expand
from auditor.sae.train_config import ARCHS, TrainConfig
from tests.sae.memory_store import MemoryStore

HOOKS = {
    "one": {"hook": "a"}, "samples": {"hook": "a"}, "pair": {"hook": "a", "target": "b"}, "several": {"hook": "a, b"},
    "layers": {"hook": "a, b", "target": "b, c"},
}  # fmt: skip
KNOWN = Known(hooks=("a", "b", "c"), counts={"text": 200})
SMALL = {"d_sae": 64, "k": 4, "heads": 2, "bottleneck": 8, "batch_size": 32, "device": "cpu", "evaluate_rows": 0}


@pytest.fixture(scope="module")
def store():
    rng = np.random.default_rng(8)
    parts = {name: rng.standard_normal((200, 8)) for name in "abc"}
    return MemoryStore(parts, kind=np.ones(200, dtype=np.uint8))


def settings(arch, **changes):
    return SMALL | {"arch": arch} | HOOKS[ARCHITECTURES.get(arch).takes] | changes


def test_that_what_each_architecture_takes_and_goes_on_from_is_as_its_class_says():
    for arch in ARCHS:
        kind = ARCHITECTURES.get(arch)
        assert TAKES.get(arch, "one") == kind.takes and CONTINUES[arch] == kind.continues, arch
    assert set(_MADE) <= set(ARCHS)


@pytest.mark.parametrize("arch", ARCHS)
def test_that_what_can_be_trained_is_not_refused_and_is_as_it_is_said_to_become(arch, store):
    values = settings(arch)
    assert refused(values, KNOWN) == {}
    made = Trainer(TrainConfig(**values), store).finish()
    assert made.arch == _MADE.get(arch, arch)
    told = refused(settings(arch, start_from="x", d_sae=made.d_sae), Known(start={"arch": arch}))
    assert told == {}


REFUSED = [
    ("k", settings("topk", k=100)),
    ("d_sae", settings("groupmax", k=5)),
    ("d_sae", settings("temporal", d_sae=63)),
    ("widths", settings("matryoshka", widths="1/4, two")),
    ("widths", settings("matryoshka", widths="0, 1")),
    ("normalise", settings("transcoder", normalise="layer_norm")),
    ("normalise", settings("crosscoder", normalise="layer_norm")),
    ("hook", settings("topk", hook="")),
    ("hook", settings("topk", hook="d")),
    ("hook", settings("topk", hook="a, b")),
    ("hook", settings("temporal", hook="a, b")),
    ("hook", settings("crosscoder", hook="a")),
    ("target", settings("transcoder", target="")),
    ("target", settings("transcoder", target="d")),
    ("target", settings("skip_transcoder", target="b, c")),
    ("target", settings("clt", target="")),
    ("target", settings("clt", target="b")),
    ("kinds", settings("topk", kinds="image")),
    ("sweep", settings("topk", sweep="k=4,100")),
    ("sweep", settings("topk", sweep="heads=2")),
    ("sweep", settings("topk", sweep="arch=topk,temporal")),
    ("sweep", settings("topk", sweep="arch=topk,transcoder")),
]


@pytest.mark.parametrize(("name", "values"), REFUSED)
def test_that_what_a_form_refuses_the_training_refuses_too(name, values, store, tmp_path):
    from auditor.sae.trainer import train_all

    found = refused(values, KNOWN)
    assert set(found) == {name} and found[name].endswith("."), found
    assert name in settings_of(values["arch"])
    with pytest.raises(AuditorError):
        members = expand(TrainConfig(**values))
        train_all(members, store, [tmp_path / str(at) for at in range(len(members))])


def test_that_a_stream_needs_no_hook_point_where_one_is_read(tiny_llama):
    known = Known(hooks=list(tiny_llama.hook_points))
    samples = [text_sample("Rain fell again."), text_sample("Two and two make four.")]
    values = SMALL | {"hook": "", "model": "m", "samples": "s"}
    one, several = values | {"arch": "topk"}, values | {"arch": "crosscoder"}
    assert refused(one, known) == {} and set(refused(several, known)) == {"hook"}
    assert Trainer(TrainConfig(**one), Stream(TrainConfig(**one), tiny_llama, samples)).reading.sources
    with pytest.raises(AuditorError, match="two hook points"):
        Trainer(TrainConfig(**several), Stream(TrainConfig(**several), tiny_llama, samples))


def test_that_a_sweep_over_what_is_refused_alone_names_the_value():
    assert refused(settings("topk", sweep="k=4,100"), KNOWN)["sweep"] == "With k=100: There are only 64 features."
    assert refused(settings("groupmax", k=5, sweep="k=4,8"), KNOWN) == {}  # the value that is swept over does not count
    assert "twice" in refused(settings("topk", sweep="k=4,4"), KNOWN)["sweep"]
    assert refused(settings("topk") | {"steps": "many"}, KNOWN) == {}


def test_that_the_dictionary_to_start_from_must_be_of_the_kind_and_the_size():
    start = Known(start={"arch": "relu", "features": 128})
    assert set(refused(settings("topk", start_from="x"), start)) == {"arch"}
    assert set(refused(settings("relu", start_from="x"), start)) == {"d_sae"}
    assert refused(settings("jumprelu", start_from="x", d_sae=128), start) == {}


def test_that_what_does_nothing_beside_the_others_is_told():
    values = {"arch": "topk", "splice_samples": 16, "auxk_alpha": 0.03}
    assert set(passed_over(values)) == {"samples", "adapter", "context", "buffer_rows"}
    assert set(passed_over(values | {"model": "m"})) == {"store"}
    assert {"model", "samples"} <= set(passed_over(values | {"arch": "temporal", "model": "m"}))
    assert {"splice_every", "splice_samples"} <= set(passed_over(values | {"arch": "crosscoder"}))
    assert "look_samples" in passed_over(values | {"splice_every": 0})
    assert {"splice_every", "auxk_rows"} <= set(passed_over(values | {"splice_samples": 0, "auxk_alpha": 0.0}))
    assert "random_model" in passed_over(values | {"arch": "crosscoder", "others": "s"})
    for arch in ARCHS:
        assert set(passed_over(values | {"arch": arch})) <= settings_of(arch)
