"""The architectures that can be trained; a new one is one file and one line here."""

from __future__ import annotations

from auditor.base.registry import Registry
from auditor.sae.archs.abstopk import AbsTopK
from auditor.sae.archs.architecture import Architecture
from auditor.sae.archs.batchtopk import BatchTopK
from auditor.sae.archs.clt import CrossLayer
from auditor.sae.archs.crosscoder import Crosscoder
from auditor.sae.archs.gated import Gated
from auditor.sae.archs.groupmax import GroupMax
from auditor.sae.archs.jumprelu import JumpRelu
from auditor.sae.archs.matching_pursuit import MatchingPursuit
from auditor.sae.archs.matryoshka import Matryoshka
from auditor.sae.archs.relu import Relu
from auditor.sae.archs.skip_transcoder import SkipTranscoder
from auditor.sae.archs.temporal import Temporal
from auditor.sae.archs.topk import TopK
from auditor.sae.archs.transcoder import Transcoder

ARCHITECTURES: Registry[type[Architecture]] = Registry("architecture")
_ALL: tuple[type[Architecture], ...] = (
    TopK, BatchTopK, Matryoshka, AbsTopK, GroupMax, MatchingPursuit, Temporal, Relu, Gated, JumpRelu, Transcoder,
    SkipTranscoder, Crosscoder, CrossLayer,
)  # fmt: skip
for _kind in _ALL:
    ARCHITECTURES.add(_kind.name, _kind)
