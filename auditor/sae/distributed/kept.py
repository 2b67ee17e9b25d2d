"""A checkpoint that several processes write together and any number takes up again (torch.distributed.checkpoint).

Beside the dictionary `name` lies the folder `name.training` with one folder a checkpoint, numbered in the order of
writing: `facts.json`, safetensors files that each process writes its part of, and for process n `arch-n.json`, what its
architecture knows, which counts where as many processes go on. Safetensors rather than the library's
own format, which holds a pickle. A checkpoint is written under a name ending in `.partial`, renamed, and only then is
the one before it removed, so a kill at any time leaves a whole one. The folder must be one that all processes share.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.base.files import sync_folder, told, write_atomic
from auditor.sae import checkpoint
from auditor.sae.checkpoint import Progress
from auditor.sae.finite import FiniteFlag

if TYPE_CHECKING:
    from auditor.sae.distributed.group import Group

_FACTS = "facts.json"
_SUFFIX = ".training.safetensors"
# Gives the first row that is held here of the tensor of a name, the row after the last, and how many there are in all;
# None where every process holds the whole of it.
Split = Callable[[str], "tuple[int, int, int] | None"]


def whole(name: str) -> None:
    """The Split of processes that all hold everything."""


def folder(path: Path) -> Path:
    """Where the checkpoints of the training kept as `path` lie."""
    return path.with_name(path.name.removesuffix(_SUFFIX) + ".training")


def newest(path: Path) -> Path | None:
    """The last whole checkpoint there; None if there is none, or one process wrote a later one as the file `path`."""
    found = _whole(folder(path))
    if not found:
        return None
    return found[-1] if not path.exists() or checkpoint.reached(path) <= _facts(found[-1])["step"] else None


def exists(path: Path) -> bool:
    """Whether an unfinished training is kept as `path`, by one process or several."""
    return path.exists() or bool(_whole(folder(path)))


def size(tensors: Mapping[str, Tensor], split: Split) -> int:
    """Bytes of the whole of tensors of which these are held here."""
    total = 0
    for name, tensor in tensors.items():
        first, last, rows = split(name) or (0, 1, 1)
        total += tensor.numel() * tensor.element_size() * rows // (last - first)
    return total


def forget(place: Path) -> None:
    """Remove the file or folder `place`, if it is there."""
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def save(
    progress: Progress, path: Path, identity: dict[str, Any], flag: FiniteFlag, group: Group, split: Split
) -> None:
    """Keep the state, each process its part. AuditorError on all of them where one cannot write."""
    facts, tensors = checkpoint.content(progress, identity, flag)
    home = folder(path)
    with group.together():
        if group.rank == 0:
            home.mkdir(parents=True, exist_ok=True)
            for left in home.glob("*.partial"):
                forget(left)
    before = _whole(home)
    target = home / group.tell(f"{int(before[-1].name) + 1 if before else 1:06d}")
    unfinished = target.with_name(f"{target.name}.partial")
    try:
        with group.together():
            _write(unfinished, tensors, group, split)
            write_atomic(unfinished / _own_state(group), json.dumps(progress.arch).encode())
        with group.together():
            if group.rank == 0:
                write_atomic(unfinished / _FACTS, json.dumps({**facts, "processes": group.size}).encode())
                sync_folder(unfinished)
                os.replace(unfinished, target)
                sync_folder(home)
                for old in (*before, path):
                    forget(old)
    except BaseException as error:
        if group.rank == 0:
            shutil.rmtree(unfinished, ignore_errors=True)
        if isinstance(error, OSError):
            raise told(error, target) from error
        raise


def load(
    progress: Progress, path: Path, identity: dict[str, Any], flag: FiniteFlag, group: Group | None = None,
    split: Split = whole,
) -> None:
    """Put the last state kept as `path` into `progress`, whatever number of processes kept it and take it up.
    AuditorError where it is damaged or of another run than `identity`."""
    place = newest(path)
    if place is None:
        facts, tensors = checkpoint.read(path)
        tensors = part(tensors, split)
    else:
        facts, tensors = _facts(place), {}
    checkpoint.same(facts["identity"], identity, place or path)
    if place is not None:
        tensors = _read(place, group, split)
        if group is not None and facts["processes"] == group.size:
            facts["arch"] = _json(place / _own_state(group))
    checkpoint.take(progress, facts, tensors, flag, place or path)


def part(tensors: Mapping[str, Tensor], split: Split) -> dict[str, Tensor]:
    """Of whole tensors, what is held here."""
    places = {name: split(name) for name in tensors}
    return {
        name: tensor if (place := places[name]) is None else tensor[place[0] : place[1]]
        for name, tensor in tensors.items()
    }


def _write(place: Path, tensors: dict[str, Tensor], group: Group, split: Split) -> None:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    from auditor.sae.distributed.group import broken

    try:
        save(
            {name: _spread(name, tensor, group, split) for name, tensor in tensors.items()},
            storage_writer=HuggingFaceStorageWriter(str(place), save_distributed=True), process_group=group.host,
        )
    except RuntimeError as error:
        raise broken(group.size, error) from error
    except CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        if isinstance(first, OSError):
            raise told(first, place) from first
        raise AuditorError(f"The training could not be kept ({first}).", "Check the disk.") from error


def _read(place: Path, group: Group | None, split: Split) -> dict[str, Tensor]:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        reader = HuggingFaceStorageReader(str(place))
        wanted = {name: _room(name, facts, group, split) for name, facts in _metadata(reader).items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that one process alone is meant
            load(wanted, storage_reader=reader, process_group=group and group.host, no_dist=group is None)
    except (SafetensorError, OSError, RuntimeError, KeyError, ValueError, AssertionError) as error:
        raise checkpoint.unreadable(place, error) from error
    return {name: _own(tensor) for name, tensor in wanted.items()}


def _metadata(reader: Any) -> dict[str, Any]:
    return dict(reader.read_metadata().state_dict_metadata)


def _room(name: str, facts: Any, group: Group | None, split: Split) -> Tensor:
    """Memory for what this process reads of a stored tensor."""
    rows = split(name)
    if rows is None or group is None:
        return torch.empty(facts.size, dtype=facts.properties.dtype)
    own = torch.empty(rows[1] - rows[0], *facts.size[1:], dtype=facts.properties.dtype)
    return _spread(name, own, group, split)


def _spread(name: str, tensor: Tensor, group: Group, split: Split) -> Tensor:
    """The tensor as the library takes it: one that every process holds, or the rows held here of one."""
    rows = split(name)
    if rows is None:
        return tensor
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Shard

    shape = torch.Size([rows[2], *tensor.shape[1:]])
    stride = torch.empty(shape, device="meta").stride()
    mesh = DeviceMesh.from_group(group.host, "cpu")
    return DTensor.from_local(tensor, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)


def _own(tensor: Tensor) -> Tensor:
    local = getattr(tensor, "to_local", None)
    return tensor if local is None else local()


def _whole(home: Path) -> list[Path]:
    if not home.is_dir():
        return []
    return sorted(place for place in home.iterdir() if place.name.isdecimal() and (place / _FACTS).is_file())


def _own_state(group: Group) -> str:
    """The file of what the architecture of this process alone knows."""
    return f"arch-{group.rank}.json"


def _facts(place: Path) -> dict[str, Any]:
    try:
        facts = checkpoint.checked(_json(place / _FACTS))
        return {"processes": 0, **facts}
    except (ValueError, KeyError, TypeError) as error:
        raise checkpoint.unreadable(place, error) from error


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
        if not isinstance(found, dict):
            raise ValueError(f"{file.name} holds no object")
        return found
    except (OSError, ValueError, RecursionError) as error:
        raise checkpoint.unreadable(file.parent, error) from error
