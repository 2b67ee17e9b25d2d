"""Makes the adapter folders in `fixtures` with the peft library, and what peft's own networks give on a few tokens.

peft is no dependency of Auditor. In an environment of its own: `pip install peft==0.21.2 torch transformers`, then
`python tests/models/peft/make_fixtures.py`. The version that wrote a folder stands in its adapter_config.json.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

FIXTURES = Path(__file__).parent / "fixtures"
IDS = [[1, 4, 5, 7, 8, 9, 6], [1, 9, 9, 4, 2, 5, 8]]
SIZE = {"vocab_size": 10, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def bases() -> dict[str, Any]:
    torch.manual_seed(3)
    llama = transformers.LlamaConfig(
        **SIZE, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False, max_position_embeddings=32,
    )  # fmt: skip
    gpt2 = transformers.GPT2Config(**SIZE, n_positions=32, n_embd=16, n_layer=2, n_head=4)
    made = {"llama": transformers.LlamaForCausalLM(llama), "gpt2": transformers.GPT2LMHeadModel(gpt2)}
    for network in made.values():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(std=0.3)
            else:
                parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return made


def adapters() -> dict[str, tuple[str, Any]]:
    """Name of the folder → (base, peft's config)."""
    from peft import IA3Config, LoraConfig

    attention, every = ["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    plain = {"r": 3, "lora_alpha": 6, "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    return {
        "lora": ("llama", LoraConfig(**plain, target_modules=attention)),
        "patterns": ("llama", LoraConfig(
            **plain, target_modules=every, use_rslora=True,
            rank_pattern={"layers.1.self_attn.q_proj": 5, "down_proj": 2}, alpha_pattern={"^model.layers.0.*v_proj": 1},
        )),
        "dora": ("llama", LoraConfig(**plain, target_modules=every, use_dora=True)),
        "saved": ("llama", LoraConfig(**plain, target_modules=attention, modules_to_save=["lm_head", "norm"])),
        "embedding": ("llama", LoraConfig(**plain, target_modules=["embed_tokens", "q_proj"])),
        "ia3": ("llama", IA3Config(
            target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"],
            init_ia3_weights=False, task_type="CAUSAL_LM",
        )),
        "conv1d": ("gpt2", LoraConfig(**plain, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, bias="all")),
        "conv1d-dora": ("gpt2", LoraConfig(**plain, target_modules=["c_attn"], fan_in_fan_out=True, use_dora=True)),
        "conv1d-ia3": ("gpt2", IA3Config(
            target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True,
            init_ia3_weights=False, task_type="CAUSAL_LM",
        )),
    }  # fmt: skip


def main() -> None:
    import peft

    shutil.rmtree(FIXTURES, ignore_errors=True)
    expected: dict[str, torch.Tensor] = {}
    ids = torch.tensor(IDS)
    for name, network in bases().items():
        network.eval().save_pretrained(FIXTURES / f"base-{name}")
        (FIXTURES / f"base-{name}" / "generation_config.json").unlink(missing_ok=True)
        expected[f"base-{name}"] = network(ids).logits.detach()
    for number, (name, (base, config)) in enumerate(adapters().items()):
        torch.manual_seed(20 + number)
        whole = transformers.AutoModelForCausalLM.from_pretrained(FIXTURES / f"base-{base}")
        network = peft.get_peft_model(whole, config).eval()
        for parameter_name, parameter in network.named_parameters():
            changed = any(part in parameter_name for part in ("lora_", "ia3_", "modules_to_save", "bias"))
            if parameter.requires_grad and changed:
                parameter.data.add_(torch.randn_like(parameter) * 0.2)
        expected[name] = network(ids).logits.detach()
        network.save_pretrained(FIXTURES / name)
        (FIXTURES / name / "README.md").unlink(missing_ok=True)
        said = FIXTURES / name / "adapter_config.json"
        written = json.loads(said.read_text())
        said.write_text(json.dumps(written | {"base_model_name_or_path": f"someone/{base}"}, indent=1, sort_keys=True))
    save_file(expected, FIXTURES / "logits.safetensors")
    sys.stdout.write(f"peft {peft.__version__}, transformers {transformers.__version__}: {', '.join(expected)}\n")


if __name__ == "__main__":
    main()
