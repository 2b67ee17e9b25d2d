"""Who is compared in training a dictionary, and where each runs; imports no peer, so that every environment can."""

from __future__ import annotations

from dataclasses import dataclass, field

ALL = ("topk", "relu", "batchtopk", "jumprelu")


@dataclass(frozen=True)
class Entry:
    """One contender: its class as module:name, what that is made with, what it trains, on which devices, and the
    peer whose environment it runs in (none: this one)."""

    place: str
    settings: dict[str, bool] = field(default_factory=dict)
    archs: tuple[str, ...] = ALL
    devices: tuple[str, ...] = ("cpu", "cuda")
    peer: str = ""


ENTRIES = {
    "auditor": Entry("own:Auditor"),
    "plain torch": Entry("plain:Plain"),
    "sparsify": Entry("sparsify_coder:Coder", archs=("topk",), peer="sparsify"),
    "sae-lens": Entry("saelens:Training", peer="sae-lens"),
    "sae-lens sparse": Entry("saelens:Training", {"sparse": True}, archs=("topk",), peer="sae-lens"),
    "sae-lens autocast": Entry("saelens:Training", {"autocast": True}, peer="sae-lens"),
    "dictionary-learning": Entry("dictlearn:Training", peer="dictionary-learning"),
    "dictionary-learning autocast": Entry(
        "dictlearn:Training", {"autocast": True}, devices=("cuda",), peer="dictionary-learning"
    ),
}
# Not a contender: what no step can be faster than.
FLOOR = Entry("floor:Floor")


def taking_part(arch: str, device: str) -> dict[str, Entry]:
    """The contenders that train this architecture on this device."""
    return {name: entry for name, entry in ENTRIES.items() if arch in entry.archs and device in entry.devices}
