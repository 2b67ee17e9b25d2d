"""Encoders of text and sound, encoder-decoders, and state-space networks."""

from __future__ import annotations

import functools
import tempfile
import wave
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from torch import Tensor
from torch.overrides import TorchFunctionMode

from auditor.data import AudioRef, Sample
from auditor.models import Inputs
from tests.models.tiny.entry import TEXT, Tiny, arguments

AFTER = "its norms stand after each sum, so that what is written is not what the stream gains"
NO_HEAD = "its head is no product with the residual stream"
NO_EXPERTS = "it is no mixture of experts"
NO_LINEAR = "its norms and activation functions are not frozen"
ALL_RUN = "its blocks are always all run"
LACKS = {"experts": NO_EXPERTS, "unembedding": NO_HEAD, "linearised": NO_LINEAR, "given": ALL_RUN}
ENCODES = LACKS | {"sums": AFTER}
DECODES = {"experts": NO_EXPERTS, "linearised": NO_LINEAR, "given": ALL_RUN}
NO_ATTENTION = "it has neither attention nor an MLP"
STATE_SPACE = DECODES | dict.fromkeys(("pattern", "heads", "frozen", "mlp"), NO_ATTENTION)
WORDS = TEXT | {"max_position_embeddings": 40, "type_vocab_size": 2}


READER = TEXT | {"num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 3,
                 "max_position_embeddings": 40}  # fmt: skip
WRITER = READER | {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "head_dim": 6}


def made(name: str, head: str = "ForMaskedLM", **settings: Any) -> Callable[[], Any]:
    """Builds the network of transformers with that name, head and settings."""

    def build() -> Any:
        config = getattr(transformers, f"{name}Config")(**settings)
        return getattr(transformers, f"{name}{head}")(config)

    return build


def every_state(network: Any, inputs: Inputs) -> dict[str, Tensor]:
    """The library's hidden states of an encoder without a final norm: embeddings, then what each block gives."""
    told = network(**arguments(inputs), output_hidden_states=True).hidden_states
    return {"embed": told[0]} | {f"blocks.{number}.resid_post": state for number, state in enumerate(told[1:])}


def state_space(network: Any, inputs: Inputs) -> dict[str, Tensor]:
    """Those of a state-space network: what each block gives, then the final norm."""
    told = network(**arguments(inputs), output_hidden_states=True).hidden_states
    return {f"blocks.{n}.resid_post": state for n, state in enumerate(told[:-1])} | {"final_norm": told[-1]}


def stack(part: str, told: tuple[Tensor, ...], *, normed: bool = True) -> dict[str, Tensor]:
    """Those of a stack, whose last hidden state is after a final norm where there is one."""
    blocks = {f"{part}.blocks.{number}.resid_post": state for number, state in enumerate(told[1:])}
    if normed:
        blocks[f"{part}.final_norm"] = blocks.pop(f"{part}.blocks.{len(told) - 2}.resid_post")
    return {f"{part}.embed": told[0]} | blocks


def asked(network: Any, inputs: Inputs, **of: bool) -> Any:
    read = {"input_ids": inputs.ids} if inputs.sound is None else {"input_features": inputs.sound}
    written = {} if inputs.target is None else {"decoder_input_ids": inputs.target.ids}
    return network(**read, **written, **of)


def both_states(network: Any, inputs: Inputs, normed: bool = True) -> Mapping[str, Tensor]:
    told = asked(network, inputs, output_hidden_states=True)
    if inputs.target is None:
        return stack("encoder", told.hidden_states)
    read, written = told.encoder_hidden_states, told.decoder_hidden_states
    return stack("encoder", read, normed=normed) | stack("decoder", written, normed=normed)


def both_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    told = asked(network, inputs, output_attentions=True)
    if inputs.target is None:
        return patterns("encoder", "pattern", told.attentions)
    own = patterns("encoder", "pattern", told.encoder_attentions)
    own |= patterns("decoder", "pattern", told.decoder_attentions)
    return own | patterns("decoder", "cross_pattern", told.cross_attentions)


def patterns(part: str, site: str, told: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return {f"{part}.blocks.{number}.{site}": pattern for number, pattern in enumerate(told)}


def translations() -> list[Sample]:
    """Texts with what is to be written after them, of different lengths, and one without."""
    return [
        Sample("a", text="one two red cat sat", labels={"target": "two three sat"}),
        Sample("b", text="cat three", labels={"target": "red"}),
    ]


@functools.cache
def _kept() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tiny-sounds-")


def two_sounds() -> list[Sample]:
    """Tones in noise of 0.5 and 0.31 s, at the network's rate and at another, the first with what is said in it."""
    folder, generator, found = Path(_kept().name), np.random.default_rng(7), []
    for name, rate, seconds in (("a", 16_000, 0.5), ("b", 22_050, 0.31)):
        time = np.arange(int(rate * seconds)) / rate
        values = 0.4 * np.sin(2 * np.pi * 440 * time) + 0.1 * generator.standard_normal(len(time))
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes((values.clip(-1, 1) * 32767).astype("<i2").tobytes())
        labels = {"target": "red cat sat"} if name == "a" else {}
        found.append(Sample(name, audio=AudioRef(folder / f"{name}.wav"), labels=labels))
    return found


def encoder(name: str, build: Callable[[], Any], **also: Any) -> Tiny:
    return Tiny(name, build, ends=True, states=every_state, lacks=ENCODES, **{"activation": "gelu", **also})


def before(name: str, build: Callable[[], Any], **also: Any) -> Tiny:
    """With norms before each part, and one after the last block."""
    return Tiny(name, build, ends=True, **{"activation": "gelu", "lacks": LACKS, **also})


CAPTIONS = TEXT | {"max_position_embeddings": 20}
ROBERTA = WORDS | {"max_position_embeddings": 42}
DISTIL = {
    "vocab_size": 10, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 40,
    "pad_token_id": 0,
}  # fmt: skip
RELATIVE = WORDS | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
DEBERTA_V3 = RELATIVE | {"position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm"}
PROTEINS = {"position_embedding_type": "rotary", "token_dropout": True, "mask_token_id": 3}
SEQUENCES = {
    "vocab_size": 10, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4,
    "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0,
}  # fmt: skip
GATED = SEQUENCES | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
MAMBA = {"vocab_size": 10, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8}
BART = {
    "vocab_size": 10, "d_model": 32, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 40,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None,
    "activation_function": "gelu",
}  # fmt: skip
# After more blocks with random weights and norms after each sum, all positions are alike.
SHALLOW = BART | {"encoder_layers": 1}
MODERN = {
    "vocab_size": 10, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
    "sep_token_id": 2, "local_attention": 4, "global_attn_every_n_layers": 2,
}  # fmt: skip
WHISPER = {
    "vocab_size": 10, "d_model": 32, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_mel_bins": 8,
    "max_source_positions": 40, "max_target_positions": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1,
}  # fmt: skip


WAVES = {
    "vocab_size": 10, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "conv_dim": [16, 16], "conv_kernel": [20, 10], "conv_stride": [20, 10], "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
# 0.64 s of two bands and five times.
PATCHES = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "max_length": 64,
    "num_mel_bins": 32,
}  # fmt: skip
# Its positions come from several convolutions, not one with its weights normed.
DATA2VEC = {key: value for key, value in WAVES.items() if key != "num_conv_pos_embeddings"}
STABLE = WAVES | {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}


def heard_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    told = network(input_values=inputs.sound, output_hidden_states=True).hidden_states
    return {"embed": told[0]} | {f"blocks.{number}.resid_post": state for number, state in enumerate(told[1:])}


def heard_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    told = network(input_values=inputs.sound, output_attentions=True).attentions
    return {f"blocks.{number}.pattern": pattern for number, pattern in enumerate(told)}


CONFORMER = WAVES | {"hidden_act": "swish", "conv_depthwise_kernel_size": 3}
ROTARY = CONFORMER | {"position_embeddings_type": "rotary"}


W2V_BERT = {
    "vocab_size": 10, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "feature_projection_input_dim": 32, "conv_depthwise_kernel_size": 3, "left_max_position_embeddings": 4,
    "right_max_position_embeddings": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def spectral_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    told = network(input_features=inputs.sound, output_hidden_states=True).hidden_states
    return {"embed": told[0]} | {f"blocks.{number}.resid_post": state for number, state in enumerate(told[1:])}


def spectral_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    told = network(input_features=inputs.sound, output_attentions=True).attentions
    return {f"blocks.{number}.pattern": pattern for number, pattern in enumerate(told)}


def conformer_sums(network: Any, block: str, records: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """What a conformer's block sums, and what its last norm makes of the end."""
    here = {name.removeprefix(f"{block}."): x for name, x in records.items() if name.startswith(f"{block}.")}
    body = getattr(network, network.base_model_prefix, network)
    norm = body.encoder.layers[int(block.rpartition(".")[2])].final_layer_norm
    ended = here["resid_mid"] + here["mixer_out"] + 0.5 * here["mlp_out"]
    return [
        (here["resid_pre"] + 0.5 * here["first_mlp_out"] + here["attn_out"], here["resid_mid"]),
        (norm(ended), here["resid_post"]),
    ]


class WholeHeads(TorchFunctionMode):
    """The patterns that torch's multi-head attention averages over its heads, each head's own."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Tensor] = []

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(function, "__name__", "") != "multi_head_attention_forward":
            return function(*args, **(kwargs or {}))
        given, weights = function(*args, **{**(kwargs or {}), "average_attn_weights": False})
        self.held.append(weights)
        return given, weights.mean(dim=1)


def apart_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    with WholeHeads() as seen:
        network(input_values=inputs.sound)
    return {f"blocks.{number}.pattern": pattern for number, pattern in enumerate(seen.held)}


def hears(name: str, build: Callable[[], Any], **also: Any) -> Tiny:
    return Tiny(
        name, build, samples=two_sounds,
        **{"states": heard_states, "patterns": heard_patterns, "lacks": LACKS, "activation": "gelu", **also},
    )  # fmt: skip


def sequences(name: str, build: Callable[[], Any], **also: Any) -> Tiny:
    settings = {"samples": translations, "states": both_states, "lacks": DECODES, "activation": "gelu_new", **also}
    return Tiny(name, build, ends=True, patterns=both_patterns, **settings)


def normed_after(name: str, build: Callable[[], Any]) -> Tiny:
    lacks = DECODES | {"sums": AFTER, "unembedding": NO_HEAD}
    return sequences(name, build, states=functools.partial(both_states, normed=False), activation="gelu", lacks=lacks)


ENCODERS: tuple[Tiny, ...] = (
    encoder("bert", made("Bert", **WORDS)),
    encoder("bert of classes", made("Bert", "ForSequenceClassification", **WORDS, num_labels=3)),
    encoder("roberta", made("Roberta", **ROBERTA)),
    encoder("xlm-roberta", made("XLMRoberta", **ROBERTA)),
    encoder("camembert", made("Camembert", **ROBERTA)),
    encoder("distilbert", made("DistilBert", **DISTIL)),
    encoder(
        "albert", made("Albert", **WORDS | {"num_hidden_layers": 4}, embedding_size=16, num_hidden_groups=2),
        activation="gelu_new", remark="layers of a group share their weights; each is a block of its own",
    ),
    encoder(
        "albert, two layers a group",
        made("Albert", **WORDS | {"num_hidden_layers": 2}, embedding_size=16, inner_group_num=2), activation="gelu_new",
    ),
    encoder("electra", made("Electra", **WORDS, embedding_size=16)),
    Tiny(
        "deberta", made("Deberta", **RELATIVE), ends=True, states=every_state, activation="gelu",
        lacks=ENCODES | dict.fromkeys(("heads", "frozen"), "v is taken before its bias, which no module adds"),
    ),
    encoder("deberta-v2, with a convolution", made("DebertaV2", **RELATIVE, conv_kernel_size=3, conv_act="gelu")),
    encoder("deberta-v3", made("DebertaV2", **DEBERTA_V3)),
    encoder("mpnet", made("MPNet", **ROBERTA)),
    Tiny(
        "modernbert", made("ModernBert", "ForMaskedLM", **MODERN), ends=True, activation="gelu", lacks=LACKS,
        remark="some blocks see only the words around each",
    ),
    Tiny(
        "modernbert-decoder", made("ModernBertDecoder", "ForCausalLM", **MODERN), activation="gelu", lacks=LACKS,
        remark="some blocks see only the last few words before each",
    ),
    Tiny(
        "esm", made("Esm", **ROBERTA | PROTEINS), ends=True, activation="gelu", lacks=LACKS,
        remark="over the letters of proteins",
    ),
    encoder("ernie", made("Ernie", **WORDS)),
    encoder("rembert", made("RemBert", **WORDS, input_embedding_size=16, output_embedding_size=16)),
    before("megatron-bert", made("MegatronBert", **WORDS)),
    before("xlm-roberta-xl", made("XLMRobertaXL", **ROBERTA)),
    before("roberta-prelayernorm", made("RobertaPreLayerNorm", **ROBERTA)),
    encoder("data2vec-text", made("Data2VecText", **ROBERTA)),
    encoder("roformer", made("RoFormer", **WORDS, embedding_size=16)),
    encoder("nomic_bert", made("NomicBert", **WORDS), activation="silu"),
    encoder("gte", made("Gte", **WORDS)),
    encoder("jina_embeddings_v3", made("JinaEmbeddingsV3", **WORDS)),
    before("eurobert", made("EuroBert", **WORDS, num_key_value_heads=2), activation="silu",
           lacks=LACKS | {"unembedding": "its logits tell the words at their own places, not the next ones"}),
    before("esmc", made("Esmc", **WORDS), activation="silu", written=12**0.5, normed_together=True,
           remark="over the letters of proteins; attn_out and mlp_out enter the sum over √(blocks / 36)"),
    Tiny("clip text", made("CLIPText", "Model", **CAPTIONS), ends=True, states=every_state, lacks=LACKS,
         activation="quick_gelu"),
    Tiny("clip text projected", made("CLIPText", "ModelWithProjection", **CAPTIONS, projection_dim=16), ends=True,
         states=every_state, lacks=LACKS, activation="quick_gelu"),
    sequences("t5", made("T5", "ForConditionalGeneration", **SEQUENCES), activation="relu"),
    sequences("flan-t5", made("T5", "ForConditionalGeneration", **GATED)),
    sequences("t5 encoder", made("T5", "EncoderModel", **GATED), lacks=LACKS),
    sequences(
        "t5gemma", made("T5Gemma", "ForConditionalGeneration", encoder=READER, decoder=WRITER),
        activation="gelu_pytorch_tanh", remark="the two may be of different sizes",
    ),
    sequences("mt5", made("MT5", "ForConditionalGeneration", **SEQUENCES)),
    sequences("umt5", made("UMT5", "ForConditionalGeneration", **SEQUENCES)),
    normed_after("bart", made("Bart", "ForConditionalGeneration", **SHALLOW)),
    normed_after("plbart", made("PLBart", "ForConditionalGeneration", **SHALLOW)),
    normed_after("marian", made("Marian", "MTModel", **SHALLOW)),
    normed_after("blenderbot-small", made("BlenderbotSmall", "ForConditionalGeneration", **SHALLOW)),
    sequences("blenderbot", made("Blenderbot", "ForConditionalGeneration", **BART), activation="gelu"),
    sequences("mbart", made("MBart", "ForConditionalGeneration", **BART), activation="gelu"),
    sequences("pegasus", made("Pegasus", "ForConditionalGeneration", **BART), activation="gelu"),
    sequences("m2m_100", made("M2M100", "ForConditionalGeneration", **BART), activation="gelu"),
    Tiny("mamba", made("Mamba", "ForCausalLM", **MAMBA), states=state_space, lacks=STATE_SPACE),
    Tiny(
        "mamba2", made("Mamba2", "ForCausalLM", **MAMBA, num_heads=8, head_dim=8, n_groups=2, chunk_size=4),
        states=state_space, lacks=STATE_SPACE,
    ),
    Tiny(
        "falcon_mamba", made("FalconMamba", "ForCausalLM", **MAMBA), states=state_space, lacks=STATE_SPACE,
    ),
    Tiny(
        "rwkv", made("Rwkv", "ForCausalLM", vocab_size=10, hidden_size=32, num_hidden_layers=3, intermediate_size=48,
                     context_length=40),
        states=state_space, lacks=DECODES | dict.fromkeys(("pattern", "heads", "frozen"), "it has no attention"),
        activation="relu2", remark="k, v and z are those of time mixing, which is one head as wide as the network",
    ),
    sequences(
        "whisper", made("Whisper", "ForConditionalGeneration", **WHISPER), samples=two_sounds, activation="gelu",
        remark="the encoder's positions are frames of 20 ms",
    ),
    sequences(
        "whisper of classes", made("Whisper", "ForAudioClassification", **WHISPER, num_labels=3), samples=two_sounds,
        activation="gelu", lacks=LACKS,
    ),
    hears(
        "wav2vec2", made("Wav2Vec2", "ForCTC", **WAVES), lacks=ENCODES,
        remark="positions are frames of 20 ms; the first convolution is normed over time",
    ),
    hears("wav2vec2 stable", made("Wav2Vec2", "Model", **STABLE), remark="norms stand before each part"),
    hears("hubert", made("Hubert", "Model", **WAVES), lacks=ENCODES),
    hears("hubert stable", made("Hubert", "ForCTC", **STABLE)),
    hears(
        "wavlm", made("WavLM", "ForCTC", **WAVES), lacks=ENCODES, patterns=apart_patterns,
        remark="scores also depend on how far apart two frames are",
    ),
    hears("wavlm stable", made("WavLM", "Model", **STABLE), patterns=apart_patterns),
    hears("unispeech", made("UniSpeech", "ForCTC", **WAVES), lacks=ENCODES),
    hears("unispeech-sat stable", made("UniSpeechSat", "Model", **STABLE)),
    hears(
        "audio-spectrogram-transformer", made("AST", "ForAudioClassification", **PATCHES, num_labels=3),
        lacks=LACKS | {"unembedding": "its classes are read off one vector, not off every position"},
        remark="positions are patches of a spectrum, band by band",
    ),
    hears("data2vec-audio", made("Data2VecAudio", "ForCTC", **DATA2VEC), lacks=ENCODES),
    hears(
        "wav2vec2-conformer", made("Wav2Vec2Conformer", "ForCTC", **CONFORMER), activation="silu", sums=conformer_sums,
        remark="blocks also have convolutions, between two MLPs, and end with a norm",
    ),
    hears(
        "wav2vec2-conformer rotary", made("Wav2Vec2Conformer", "Model", **ROTARY), activation="silu",
        sums=conformer_sums, remark="as wav2vec2-conformer",
    ),
    hears(
        "wav2vec2-bert", made("Wav2Vec2Bert", "ForCTC", **W2V_BERT), states=spectral_states, patterns=spectral_patterns,
        activation="silu", sums=conformer_sums, remark="as wav2vec2-conformer, of spectra",
    ),
)  # fmt: skip
