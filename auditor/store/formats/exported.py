"""What an export of this program says of itself beside its numbers: as text in the file, read back without trust.

It is a JSON object under the name `auditor`: in a safetensors file's metadata, and in an HDF5 file a dataset of one
string, since attributes of foreign files are not read. `sample_id` has the name that each sample had, by its number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from auditor.base.digest import canonical_json
from auditor.base.errors import AuditorError
from auditor.store.layout import check_hook

if TYPE_CHECKING:
    from auditor.store.reader import Store

NAME, IDS = "auditor", "sample_id"
LONGEST_ID = 255
"""Bytes of a sample's name that are written."""
_LONGEST = 1 << 16


class Named(BaseModel):
    """A model, or samples, by name and digest."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(max_length=200)
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")


class Said(BaseModel):
    """Of which hook point the rows are, in which `numbers` the store keeps them, its digest, and from which model and
    samples it was recorded; empty or None where that is not said."""

    model_config = ConfigDict(frozen=True)

    hook: str = ""
    numbers: str = Field("", max_length=20)
    store: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    model: Named | None = None
    samples: Named | None = None

    def told(self) -> dict[str, Any]:
        """As plain values."""
        return self.model_dump(mode="json", exclude_defaults=True)


def saying(store: Store, hook: str) -> str:
    """The text for an export of `hook`."""
    said = Said(
        hook=hook, numbers=store.dtype, store=store.digest,
        model=_named(store.meta.get("model")), samples=_named(store.meta.get("samples")),
    )  # fmt: skip
    return canonical_json(said.told()).decode("utf-8")


def read(text: str) -> Said:
    """What a file says; nothing where it is no such text, or names what cannot be a hook point."""
    try:
        said = Said.model_validate_json(text if len(text) <= _LONGEST else "")
        if said.hook:
            check_hook(said.hook, 1)
        return said
    except (ValidationError, AuditorError):
        return Said()


def _named(facts: Any) -> Named | None:
    try:
        return Named.model_validate(facts)
    except ValidationError:
        return None
