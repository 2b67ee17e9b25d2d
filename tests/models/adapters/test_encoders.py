"""What encoders, encoder-decoders and state-space networks have of their own, beside what every family passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from auditor.base.errors import AuditorError
from auditor.data import PositionKind, Sample, text_sample
from auditor.models import AddDirection, open_model
from tests.models.tiny import ALL, Case, opened
from tests.models.tiny.encoders import GATED, ROBERTA, WORDS, made, two_sounds
from tests.models.tiny.entry import word_tokenizer


def case(name: str) -> Case:
    return opened(ALL[name])


def saved(folder: Path, network: Any, **config: Any) -> Path:
    network.save_pretrained(folder)
    word_tokenizer(folder, ends=True)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | config), encoding="utf-8")
    return folder


def test_that_an_edit_in_one_block_of_shared_weights_acts_in_that_block_alone() -> None:
    model = case("albert").model
    inputs = model.encode([text_sample("one two red cat")])
    names = [f"blocks.{number}.resid_post" for number in range(4)]
    assert model.hook_points[names[0]].module == model.hook_points[names[1]].module
    clean = model.run(inputs, record=names).records
    push = AddDirection("blocks.1.mlp_out", torch.linspace(-1, 1, 32), 3.0)
    edited = model.run(inputs, record=names, edits=[push]).records
    assert torch.equal(edited[names[0]], clean[names[0]])
    block = model.network.get_submodule(model.hook_points[names[1]].module)
    middle = model.run(inputs, record=["blocks.1.resid_mid", "blocks.1.mlp_out"]).records
    told = block.full_layer_layer_norm(middle["blocks.1.mlp_out"] + push.direction * 3.0 + middle["blocks.1.resid_mid"])
    torch.testing.assert_close(edited[names[1]], told)
    assert not torch.allclose(edited[names[2]], clean[names[2]], atol=1e-3)


def test_that_a_run_ends_at_the_call_that_is_asked_for() -> None:
    model = case("albert").model
    calls: list[int] = []
    module = model.network.get_submodule(model.hook_points["blocks.0.resid_post"].module)
    handle = module.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        for number in (0, 1):
            calls.clear()
            model.run("one two", record=[f"blocks.{number}.resid_mid"], logits=False)
            assert len(calls) == number + 1
    finally:
        handle.remove()


def test_that_tensors_which_a_file_keeps_apart_stay_apart(tmp_path: Path) -> None:
    """Flan-T5 has a head of its own, though its config object says that it is the embedding."""
    torch.manual_seed(3)
    network = made("T5", "ForConditionalGeneration", **GATED)().eval()
    saved(tmp_path, network)
    tensors = load_file(str(tmp_path / "model.safetensors"))
    head = torch.randn(10, 32)
    save_file(tensors | {"lm_head.weight": head}, str(tmp_path / "model.safetensors"), metadata={"format": "pt"})
    model = open_model(tmp_path)
    assert torch.equal(model.network.get_submodule("lm_head").weight, head)
    assert not torch.equal(model.network.get_submodule("shared").weight, head)
    inputs = model.encode([Sample("a", text="one two", labels={"target": "red"})])
    run = model.run(inputs, record=["decoder.final_norm"])
    assert run.logits is not None
    torch.testing.assert_close(run.logits, run.records["decoder.final_norm"] @ head.T)
    told = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert inputs.target is not None
    with torch.no_grad():
        torch.testing.assert_close(run.logits, told(input_ids=inputs.ids, decoder_input_ids=inputs.target.ids).logits)


def test_that_a_decoder_is_given_its_start_and_the_target_less_its_end() -> None:
    model = case("t5").model
    inputs = model.encode([Sample("a", text="one two", labels={"target": "red cat"}), text_sample("three")])
    assert inputs.target is not None and inputs.ids.tolist() == [[1, 4, 5, 2], [1, 6, 2, -1]]
    # <pad> is T5's start token; the tiny tokenizer puts a begin token of its own before every text.
    assert inputs.target.ids.tolist() == [[0, 1, 7, 8], [0, 1, -1, -1]]
    special, text, pad = (int(PositionKind[kind]) for kind in ("SPECIAL", "TEXT", "PAD"))
    assert inputs.target.kind.tolist() == [[special, special, text, text], [special, special, pad, pad]]
    run = model.run(inputs, record=["encoder.blocks.0.resid_post"])
    assert run.logits is not None and run.logits.shape == (2, 4, 10)
    assert torch.equal(run.positions("encoder.blocks.0.resid_post").kind, inputs.kind)
    run = model.run(inputs, record=["decoder.blocks.0.cross_k", "decoder.blocks.0.cross_q"], logits=False)
    assert torch.equal(run.positions("decoder.blocks.0.cross_k").unit, inputs.unit)
    assert torch.equal(run.positions("decoder.blocks.0.cross_q").unit, inputs.target.unit)
    assert model.encode([text_sample("one two red")], 2).target.ids.shape == (1, 2)  # type: ignore[union-attr]


def test_that_the_labels_loss_of_the_library_is_that_of_the_logits() -> None:
    """Teacher forcing as in training: what the library shifts itself is what the adapter gives the decoder."""
    held = case("t5")
    inputs = held.model.encode([Sample("a", text="one two", labels={"target": "red cat"})])
    labels = torch.tensor([[1, 7, 8, 2]])
    run = held.model.run(inputs)
    assert run.logits is not None
    loss = torch.nn.functional.cross_entropy(run.logits[0], labels[0])
    torch.testing.assert_close(loss, held.source(input_ids=inputs.ids, labels=labels).loss)


def test_that_the_values_of_deberta_are_those_of_its_heads_less_a_bias() -> None:
    model = case("deberta").model
    record = [f"blocks.1.{site}" for site in ("v", "pattern", "z")]
    run = model.run("one two red cat", record=record).records
    bias = model.network.get_submodule("deberta.encoder.layer.1.attention.self").v_bias
    values = (run["blocks.1.v"] + bias).unflatten(-1, (4, -1)).transpose(1, 2)
    torch.testing.assert_close(run["blocks.1.z"], (run["blocks.1.pattern"] @ values).transpose(1, 2).flatten(2))


def test_that_mamba_2s_mixer_is_its_gated_and_normed_state_space() -> None:
    model = case("mamba2").model
    run = model.run("one two red cat", record=[f"blocks.1.{site}" for site in ("gate", "ssm_out", "mixer_hidden")])
    gate, space, hidden = (run.records[f"blocks.1.{site}"] for site in ("gate", "ssm_out", "mixer_hidden"))
    norm = model.network.get_submodule("backbone.layers.1.mixer.norm")
    gated = (space * gate * torch.sigmoid(gate)).unflatten(-1, (2, -1))
    told = gated / (gated.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
    torch.testing.assert_close(hidden, norm.weight * told.flatten(-2))


def test_that_mambas_gate_closes_and_opens_what_the_state_space_gives() -> None:
    model = case("mamba").model
    record = ["blocks.1.gate", "blocks.1.mixer_hidden"]
    clean = model.run("one two red cat", record=record).records
    push = AddDirection("blocks.1.gate", torch.ones(64), 2.0)
    edited = model.run("one two red cat", record=record, edits=[push]).records
    silu, gate = torch.nn.functional.silu, clean["blocks.1.gate"]
    told = clean["blocks.1.mixer_hidden"] / silu(gate) * silu(gate + 2.0)
    torch.testing.assert_close(edited["blocks.1.mixer_hidden"], told, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("name", "longest"), [("Roberta", 40), ("MPNet", 40), ("Bert", 42)])
def test_that_as_many_tokens_are_read_as_the_network_has_positions(tmp_path: Path, name: str, longest: int) -> None:
    settings = ROBERTA | ({} if name != "Bert" else {"type_vocab_size": 2}) | {"pad_token_id": 1}
    model = open_model(saved(tmp_path, made(name, **settings)()))
    full = " ".join(["one"] * (longest - 2))
    assert model.run(full).logits.shape == (1, longest, 10)  # type: ignore[union-attr]
    with pytest.raises(AuditorError, match=f"{longest + 1} tokens; the model reads at most {longest}"):
        model.run(full + " one")


def test_that_a_checkpoint_with_another_head_opens_without_it(tmp_path: Path) -> None:
    network = made("Bert", "ForTokenClassification", **WORDS, num_labels=3)().eval()
    model = open_model(saved(tmp_path, network))
    run = model.run("one two", record=["blocks.2.resid_post"])
    assert run.logits is None
    told = network.bert(input_ids=run.inputs.ids).last_hidden_state
    torch.testing.assert_close(run.records["blocks.2.resid_post"], told)


def test_that_a_classifier_that_lacks_its_pooler_is_told(tmp_path: Path) -> None:
    saved(tmp_path, made("Bert", "ForMaskedLM", **WORDS)(), architectures=["BertForSequenceClassification"])
    with pytest.raises(AuditorError, match="lack"):
        open_model(tmp_path)


def test_that_an_mlp_that_is_asked_to_work_in_chunks_is_recorded_whole(tmp_path: Path) -> None:
    saved(tmp_path, made("Bert", **WORDS)(), chunk_size_feed_forward=1)
    run = open_model(tmp_path).run("one two three", record=["blocks.0.mlp_out"])
    assert run.records["blocks.0.mlp_out"].shape == (1, 5, 32)


def test_that_the_spectra_of_sounds_are_those_of_the_librarys_own_processor(tmp_path: Path) -> None:
    samples, model = two_sounds(), case("whisper").model
    inputs = model.encode(samples)
    assert inputs.sound is not None and inputs.sound.shape == (2, 8, 80)
    extractor = transformers.WhisperFeatureExtractor(feature_size=8)
    for row, sample in enumerate(samples):
        assert sample.audio is not None
        told = extractor(sample.audio.load(16_000), sampling_rate=16_000, max_length=80 * 160, return_tensors="pt")
        torch.testing.assert_close(inputs.sound[row], told.input_features[0])
    # 0.5 s are 25 frames of 20 ms, 0.31 s fifteen and a half.
    assert inputs.mask.sum(1).tolist() == [25, 16] and inputs.unit[0, :26].tolist() == [*range(25), -1]
    assert set(inputs.kind.unique().tolist()) == {int(PositionKind.PAD), int(PositionKind.AUDIO)}
    assert model.longest_sound == pytest.approx(0.8) and inputs.frame_seconds == pytest.approx(0.02)


def test_that_a_batch_goes_to_a_device_whole() -> None:
    moved = case("whisper").model.encode(two_sounds()).to("meta")
    assert moved.sound is not None and moved.target is not None
    assert {moved.sound.device.type, moved.target.ids.device.type, moved.kind.device.type} == {"meta"}


def test_that_a_network_says_what_it_cannot_hear_or_read() -> None:
    with pytest.raises(AuditorError, match="hears sounds only"):
        case("whisper").model.encode([text_sample("one")])
    with pytest.raises(AuditorError, match="reads text only"):
        case("bert").model.encode(two_sounds())


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("albert", {"num_hidden_groups": 0}),
        ("albert", {"inner_group_num": 0}),
        ("albert", {"inner_group_num": 1 << 40}),
        ("albert", {"num_hidden_layers": 1024, "inner_group_num": 2}),
        ("roberta", {"pad_token_id": None}),
        ("t5", {"num_heads": 0}),
        ("t5", {"d_ff": 1 << 60}),
        ("mamba2", {"n_groups": 0}),
        ("mamba2", {"expand": 1 << 40}),
        ("whisper", {"encoder_attention_heads": 0}),
        ("whisper", {"max_source_positions": 1 << 50}),
        ("deberta-v3", {"position_buckets": -5}),
    ],
)
def test_that_an_impossible_config_is_told(tmp_path: Path, name: str, config: dict[str, Any]) -> None:
    ALL[name].save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | config), encoding="utf-8")
    with pytest.raises(AuditorError):
        open_model(tmp_path)


@pytest.mark.parametrize(
    "name", ["albert", "deberta-v3", "modernbert", "t5", "bart", "m2m_100", "mamba", "mamba2", "whisper"]
)
def test_that_bfloat16_records_the_same_to_its_precision(tmp_path: Path, name: str) -> None:
    ALL[name].save(tmp_path)
    full, half = open_model(tmp_path), open_model(tmp_path, dtype="bfloat16")
    posts = [hook for hook in full.hook_points if hook.endswith("resid_post")]
    told, found = (model.run(model.encode(ALL[name].samples()), record=posts).records for model in (full, half))
    for hook in posts:
        assert float((told[hook] - found[hook].float()).norm() / told[hook].norm()) < 0.05, hook
    assert next(half.network.parameters()).dtype == torch.bfloat16


def test_that_impossible_spectra_are_refused(tmp_path: Path) -> None:
    ALL["whisper"].save(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"hop_length": 99999999999}', encoding="utf-8")
    with pytest.raises(AuditorError, match="hop_length"):
        open_model(tmp_path)


@pytest.mark.parametrize("hook", ["encoder.blocks.1.resid_post", "decoder.blocks.0.resid_post"])
def test_that_a_dictionary_is_judged_by_the_target_that_the_decoder_writes(hook: str) -> None:
    from auditor.sae.sae import Sae
    from auditor.sae.splice import spliced_loss

    model, samples = case("t5").model, ALL["t5"].samples()
    inputs = model.encode(samples)
    run = model.run(inputs, record=[hook])
    kind = run.positions(hook).kind
    rows = run.rows(hook)[kind == int(PositionKind.TEXT)]
    directions = torch.nn.functional.normalize(rows[:1] - rows.mean(0), dim=1)
    sae = Sae("topk", directions.T.contiguous(), directions, torch.zeros(1), rows.mean(0), k=1, hook=hook)
    found = spliced_loss(model, sae, samples, batch_size=2)
    assert inputs.target is not None and run.logits is not None
    counted = inputs.target.kind[:, 1:] == int(PositionKind.TEXT)
    told = torch.nn.functional.cross_entropy(run.logits[:, :-1][counted], inputs.target.ids[:, 1:][counted])
    assert found.n == int(counted.sum()) and found.clean == pytest.approx(float(told), rel=1e-4)
    assert found.kl > 0


@pytest.mark.parametrize(
    ("name", "said"), [("gemma3_text", {"use_bidirectional_attention": True}), ("qwen2", {"is_causal": False})]
)
def test_that_a_decoder_that_looks_both_ways_sees_no_padding(name: str, said: dict[str, Any], tmp_path: Path) -> None:
    """EmbeddingGemma and GTE-Qwen2 are built so."""
    samples = ALL[name].samples()
    model = open_model(saved(tmp_path, case(name).source, **said))
    hook, pattern = "blocks.2.resid_post", "blocks.1.pattern"
    batch, alone = (model.run(model.encode(each), record=[hook, pattern]) for each in (samples, samples[1:]))
    rows = alone.rows(hook)[0]
    torch.testing.assert_close(batch.rows(hook)[1, : len(rows)], rows, atol=1e-4, rtol=1e-4)
    assert bool((alone.records[pattern].triu(1).amax(dim=(1, 2, 3)) > 0.01).all())
    with pytest.raises(AuditorError, match="Linearised runs are not available"), model.linearised():
        pass
