"""Chinese-CLIP: CLIP's vision tower, and a BERT in the place of its text tower.

Yang et al. 2022, arXiv:2211.01335.
"""

from __future__ import annotations

import torch
from torch import Tensor

from auditor.models.adapters.adapter import heads_of
from auditor.models.adapters.bert import bert_blocks
from auditor.models.adapters.clip import ClipAdapter
from auditor.models.hook_points import HookPoint, block_points
from auditor.models.inputs import Inputs


class ChineseClipAdapter(ClipAdapter):
    """Norms of the text tower stand after each sum, where `resid_mid` and `resid_post` are taken."""

    family = "chinese_clip"
    config_class = "ChineseCLIPConfig"
    architectures = ("ChineseCLIPModel",)
    normed_after = True

    def text_points(self) -> list[HookPoint]:
        text = self.config.text_config
        sizes = self.n_layers, self.d_model, int(text.intermediate_size)
        return block_points(bert_blocks("text_model."), *sizes, heads=heads_of(text))

    def texts(self, inputs: Inputs) -> Tensor:
        mask = inputs.mask.to(torch.int64)
        found: Tensor = self.clip.get_text_features(input_ids=self.ids(inputs), attention_mask=mask).pooler_output
        return found
