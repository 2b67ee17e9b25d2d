"""From checked files of weights to a network: mapped, converted once, assigned without a first initialisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from auditor.base.errors import AuditorError
from auditor.intake.weights import ModelFacts

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Values that old checkpoints keep and that every network computes for itself.
COMPUTED = ("inv_freq", "masked_bias", "attn.bias", "attention.bias", "position_ids", "token_type_ids")
# A headless encoder's summary of its input, which checkpoints with another head lack and nothing here reads.
UNUSED = ("pooler.dense.weight", "pooler.dense.bias")
_RANDOM = frozenset({"normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_"})


class _WithoutInitialisation(TorchFunctionMode):
    """Leaves new parameters unfilled; only for this thread, and only random fills: buffers are computed as ever."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(function, "__name__", "") in _RANDOM:
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))


def dtype_named(name: str) -> torch.dtype:
    """float32, bfloat16 or float16 by name. AuditorError otherwise."""
    if name not in DTYPES:
        raise AuditorError(f"“{name}” is not a number format for a model.", f"Choose one of {', '.join(DTYPES)}.")
    return DTYPES[name]


def read_tensors(facts: ModelFacts, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors files; floating ones as `dtype`."""
    tensors: dict[str, Tensor] = {}
    for path in facts.weights:
        try:
            loaded = load_file(str(path))
        except (SafetensorError, OSError) as error:
            raise AuditorError(f"“{path.name}” in “{facts.name}” cannot be read.", "Copy the file again.") from error
        tensors |= loaded
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}


def load_transformers(
    facts: ModelFacts, config_class: str, architectures: Sequence[str], dtype: torch.dtype
) -> nn.Module:
    """A transformers network of one of `architectures` with the folder's weights, in evaluation mode, frozen."""
    import transformers

    transformers.logging.set_verbosity_error()
    named = [name for name in facts.architectures if name in architectures]
    kind = getattr(transformers, (named or list(architectures))[0])
    config = plain_config(facts, getattr(transformers, config_class))
    tensors = read_tensors(facts, dtype)
    network = _built(kind, config, facts)
    if not _assigned(network, tensors):
        # Names from before a family was rewritten: the library knows the old ones.
        network = _by_library(kind, config, facts, dtype)
    frozen: nn.Module = network.eval().requires_grad_(False)
    return frozen


def plain_config(facts: ModelFacts, config_class: Any) -> Any:
    """The family's config object from config.json less everything private to the library."""
    try:
        return config_class.from_dict(_public(facts.config))
    except Exception as error:
        raise AuditorError(
            f"config.json in “{facts.name}” does not describe a {facts.model_type} model ({_first_line(error)}).",
            "Copy the folder from its source again.",
        ) from error


def _public(value: Any) -> Any:
    if isinstance(value, dict):
        # Computing an MLP in chunks would call its modules once a chunk; its values are the same without.
        dropped = (
            "output_hidden_states", "output_attentions", "torchscript", "return_dict", "transformers_version",
            "chunk_size_feed_forward",
        )  # fmt: skip
        return {k: _public(v) for k, v in value.items() if not k.startswith("_") and k not in dropped}
    return value


def _built(kind: Any, config: Any, facts: ModelFacts) -> Any:
    try:
        with _WithoutInitialisation():
            return kind(config)
    except Exception as error:
        raise AuditorError(
            f"No network can be built from config.json in “{facts.name}” ({_first_line(error)}).",
            "The sizes in it may be wrong or too large for this machine.",
        ) from error


def _assigned(network: Any, tensors: dict[str, Tensor]) -> bool:
    """Put the tensors in place; False if names or shapes do not fit one to one (tied weights may be absent)."""
    expected = {name: value.shape for name, value in network.state_dict().items()}
    extra = [name for name in tensors if name not in expected and not name.endswith(COMPUTED)]
    tied = set(getattr(network, "all_tied_weights_keys", None) or getattr(network, "_tied_weights_keys", None) or ())
    missing = [name for name in expected if name not in tensors and name not in tied]
    wrong = [name for name, shape in expected.items() if name in tensors and tensors[name].shape != shape]
    if extra or missing or wrong:
        return False
    network.load_state_dict({k: v for k, v in tensors.items() if k in expected}, strict=False, assign=True)
    # Flan-T5's files hold both of two tensors that its config calls one: such are left apart.
    network.tie_weights(missing_keys={name for name in expected if name not in tensors})
    return True


def _by_library(kind: Any, config: Any, facts: ModelFacts, dtype: torch.dtype) -> Any:
    try:
        network, told = kind.from_pretrained(
            str(facts.folder), config=config, dtype=dtype, local_files_only=True, trust_remote_code=False,
            use_safetensors=True, output_loading_info=True,
        )  # fmt: skip
    except Exception as error:
        raise AuditorError(
            f"The weights in “{facts.name}” do not fit its config.json ({_first_line(error)}).",
            "Copy the folder from its source again.",
        ) from error
    lacking = sorted(key for key in told["missing_keys"] if key not in UNUSED)
    lacking = lacking or sorted(str(key) for key in told.get("mismatched_keys", ()))
    if lacking:
        raise AuditorError(
            f"The weights in “{facts.name}” lack {len(lacking)} tensors, {lacking[0]} among them.",
            "The folder is incomplete or of another family than config.json says.",
        )
    return network


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
