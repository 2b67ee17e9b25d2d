"""From checked files of weights to a network: read tensor by tensor, converted once, put in their places without a
first initialisation, so that no more than one tensor is in memory twice."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from auditor.base.errors import AuditorError
from auditor.intake.safetensors_header import check_safetensors
from auditor.intake.weights import ModelFacts
from auditor.models.rounded import ROUNDED, hold_rounded, to_round

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NUMBERS = (*DTYPES, *ROUNDED)
"""How weights can be kept; int8 and int4 (`auditor.models.rounded`) compute in float32."""
# Values that old checkpoints keep and that every network computes for itself.
COMPUTED = (
    "inv_freq", "masked_bias", ".attn.bias", "attn.causal_mask", "attention.bias", "position_ids", "token_type_ids",
)  # fmt: skip
# A headless encoder's summary of its input, which checkpoints with another head lack and nothing here reads.
UNUSED = ("pooler.dense.weight", "pooler.dense.bias")
_TORCH = {
    "F64": torch.float64, "I64": torch.int64, "U64": torch.uint64, "F32": torch.float32, "I32": torch.int32,
    "U32": torch.uint32, "F16": torch.float16, "BF16": torch.bfloat16, "I16": torch.int16, "U16": torch.uint16,
    "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_COMPUTED_AT_MOST = 10_000_000
_RANDOM = frozenset({"normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_"})


Fill = Callable[[Collection[nn.Module]], None]
"""Reads the weights of a network, but for those of these modules and of what is inside them."""
_later: ContextVar[list[Fill] | None] = ContextVar("weights are read later", default=None)
_unfilled: ContextVar[bool] = ContextVar("new parameters are left unfilled", default=False)
_truncated = nn.init._no_grad_trunc_normal_


def _truncated_normal(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return tensor if _unfilled.get() else _truncated(tensor, *args, **kwargs)


# It draws again until all values lie between its bounds, which values that no one drew never do.
nn.init._no_grad_trunc_normal_ = _truncated_normal


class _WithoutInitialisation(TorchFunctionMode):
    """Leaves new parameters unfilled; only for this thread, and only random fills: buffers are computed as ever."""

    def __enter__(self) -> Any:
        self._before = _unfilled.set(True)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)  # type: ignore[no-untyped-call]
        _unfilled.reset(self._before)

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(function, "__name__", "") in _RANDOM:
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))


@contextmanager
def weights_read_later() -> Iterator[list[Fill]]:
    """Networks that are built inside the block have no weights yet where a family can wait for them; for each there is
    a `Fill` in what is yielded."""
    fills: list[Fill] = []
    token = _later.set(fills)
    try:
        yield fills
    finally:
        _later.reset(token)


def dtype_named(name: str) -> torch.dtype:
    """In which format a network of this number format computes (`NUMBERS`). AuditorError for another name."""
    if name not in NUMBERS:
        raise AuditorError(f"“{name}” is not a number format for a model.", f"Choose one of {', '.join(NUMBERS)}.")
    return DTYPES.get(name, torch.float32)


def read_tensors(facts: ModelFacts, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors files; floating ones as `dtype`."""
    return dict(_tensors(facts, dtype))


def _tensors(
    facts: ModelFacts, dtype: torch.dtype, names: Collection[str] | None = None, whole: Collection[str] = ()
) -> Iterator[tuple[str, Tensor]]:
    """Floating ones as `dtype`, but those with a part of `whole` in their names as float32."""
    for path in facts.weights:
        for name, value in tensors_in(path, names):
            kind = torch.float32 if any(part in name for part in whole) else dtype
            yield name, value.to(kind) if value.is_floating_point() else value


def tensors_in(path: Path, names: Collection[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a safetensors file in the order of the file (all, or those of `names`), each in memory of
    its own: a file that is mapped would change the network when somebody changes it. AuditorError for a file that is
    not sound."""
    facts = check_safetensors(path)
    try:
        with open(path, "rb", buffering=0) as file:
            for name, start in facts.starts.items():
                if names is not None and name not in names:
                    continue
                kind, shape = facts.tensors[name]
                tensor = torch.empty(shape, dtype=_TORCH[kind])
                room = tensor.reshape(-1).view(torch.uint8).numpy().data
                file.seek(start)
                while room and (count := file.readinto(room)):
                    room = room[count:]
                if room:
                    raise OSError("it ended early")
                yield name, tensor
    except OSError as error:
        raise AuditorError(f"“{path.name}” in “{path.parent.name}” cannot be read.", "Copy the file again.") from error


def load_transformers(
    facts: ModelFacts,
    config_class: str,
    architectures: Sequence[str],
    dtype: torch.dtype,
    *,
    kind: Any = None,
    left_out: tuple[str, ...] = (),
) -> nn.Module:
    """A transformers network of one of `architectures` with the folder's weights, in evaluation mode, frozen. Or of
    `kind`, a class like these that lacks the tensors whose names begin with `left_out`."""
    import transformers

    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    named = [name for name in facts.architectures if name in architectures]
    kind = kind or getattr(transformers, (named or list(architectures))[0])
    config = plain_config(facts, getattr(transformers, config_class))
    network = _built(kind, config, facts)
    if _fits(network, facts, left_out):
        fill, later = partial(_fill, network, facts, dtype), _later.get()
        if later is None:
            fill(())
        else:
            later.append(fill)
    else:
        _must_be_as_large(network, facts)
        # Names from before a family was rewritten: the library knows the old ones.
        network = _by_library(kind, config, facts, dtype)
        for path, leaf in to_round(network):
            hold_rounded(network.get_submodule(path), leaf)
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
    if isinstance(value, list):
        return [_public(inner) for inner in value]
    if isinstance(value, dict):
        if set(value) == {"__float__"}:  # how the library writes an infinite number (Mamba 2's time steps)
            return float(value["__float__"])
        # Computing an MLP in chunks would call its modules once a chunk; its values are the same without.
        dropped = (
            "output_hidden_states", "output_attentions", "torchscript", "return_dict", "transformers_version",
            "chunk_size_feed_forward", "attribute_map", "sub_configs",
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


def _fits(network: Any, facts: ModelFacts, left_out: tuple[str, ...] = ()) -> bool:
    """Whether names and shapes in the files are the network's, one to one, but for those that it leaves out; tied
    weights may be absent."""
    held = {name: shape for path in facts.weights for name, (_, shape) in check_safetensors(path).tensors.items()}
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    unread = (*left_out, *_unread(network))
    extra = [name for name in held if not (name in expected or name.endswith(COMPUTED) or name.startswith(unread))]
    # What may be tied is none of it in a network that its config keeps apart.
    tied = set(getattr(network, "all_tied_weights_keys", None) or ())
    missing = [name for name in expected if name not in held and name not in tied]
    wrong = [name for name, shape in expected.items() if held.get(name, shape) != shape]
    return not (extra or missing or wrong)


def _unread(network: nn.Module) -> list[str]:
    """What the names of tensors begin with that the network says it has no use for: keys and values of blocks that look
    by those of others (Gemma 3n)."""
    return [
        f"{path}.{name}.".lstrip(".")
        for path, module in network.named_modules()
        for name in getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    ]


def _must_be_as_large(network: nn.Module, facts: ModelFacts) -> None:
    """AuditorError where config.json describes far more numbers than there are: filling them at random takes minutes.
    Some are computed, and not in the files."""
    described = sum(one.numel() for one in network.parameters())
    if described > 4 * facts.parameters + _COMPUTED_AT_MOST:
        raise AuditorError(
            f"config.json in “{facts.name}” describes a network of {described:,} numbers, and its weights hold "
            f"{facts.parameters:,}.",
            "The folder is incomplete or of another model than config.json says.",
        )


def _fill(network: Any, facts: ModelFacts, dtype: torch.dtype, left_out: Collection[nn.Module]) -> None:
    """Put the tensors of the files in their places; those of blocks are rounded where that is asked for."""
    expected, small = set(network.state_dict()), set(to_round(network))
    unread = tuple(f"{path}." for path, module in network.named_modules() if any(module is one for one in left_out))
    wanted = {name for name in expected if not name.startswith(unread)}
    lacking = set(wanted)
    # What the library never rounds: numbers so near to each other that other experts would be chosen.
    whole: Collection[str] = getattr(network, "_keep_in_fp32_modules_strict", None) or ()
    for name, value in _tensors(facts, dtype, wanted, whole):
        path, _, leaf = name.rpartition(".")
        module = network.get_submodule(path)
        if leaf in module._parameters:
            module._parameters[leaf] = nn.Parameter(value, requires_grad=False)
        else:
            module._buffers[leaf] = value
        if (path, leaf) in small:
            hold_rounded(module, leaf)
        lacking.discard(name)
    # Flan-T5's files hold both of two tensors that its config calls one: such are left apart.
    network.tie_weights(missing_keys=lacking)


def _by_library(kind: Any, config: Any, facts: ModelFacts, dtype: torch.dtype) -> Any:
    try:
        network, told = kind.from_pretrained(
            str(facts.folder), config=config, dtype=dtype, local_files_only=True, trust_remote_code=False,
            use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    except Exception as error:
        raise AuditorError(
            f"The weights in “{facts.name}” do not fit its config.json ({_first_line(error)}).",
            "Copy the folder from its source again.",
        ) from error
    if other := sorted((str(name), [*held], [*wanted]) for name, held, wanted in told.get("mismatched_keys", ())):
        name, held, wanted = other[0]
        raise AuditorError(
            f"The weights in “{facts.name}” do not fit its config.json: {name} is {held} in place of {wanted}.",
            "Copy the folder from its source again.",
        )
    lacking = sorted(key for key in told["missing_keys"] if key not in UNUSED)
    if lacking:
        raise AuditorError(
            f"The weights in “{facts.name}” lack {len(lacking)} tensor{'s' if len(lacking) > 1 else ''}: {lacking[0]}"
            f"{' and others' if len(lacking) > 1 else ''}.",
            "The folder is incomplete or of another family than config.json says.",
        )
    network.left_over = sorted(name for name in told["unexpected_keys"] if not name.endswith(COMPUTED))
    return network


def left_over(network: nn.Module) -> list[str]:
    """A sentence on tensors of the files that the network has no place for: what is not run should not be vouched
    for."""
    names: Sequence[str] = getattr(network, "left_over", ())
    if not names:
        return []
    are = f"{len(names)} tensors that are" if len(names) > 1 else "a tensor that is"
    return [f"Its files hold {are} no part of this network: {names[0]}{' and others' if len(names) > 1 else ''}."]


def _first_line(error: BaseException) -> str:
    """The first line of what it says; of its cause where it says only that something is wrong."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if first.endswith(":") and error.__cause__ is not None:
        return _first_line(error.__cause__)
    return first.removesuffix(".")[:200]
