"""Light fine-tuning: the last layers of a pretrained network learn from training episodes, and all else stays."""

from __future__ import annotations

import math

import torch

from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.learner import Setting
from autometa.learning.learners.frozen import SCALE, Frozen


class Tuned(Frozen):
    """Hu et al. 2022, Pushing the limits of simple pipelines for few-shot learning (P>M>F), its second stage.

    It begins as `frozen` with the cosine head, and takes outer steps on episodes of train classes. They train what the
    backbone lets them: with `lite.tuned` the last block and the head. The centre and the directions are those of the
    features before the first step. The paper trains all layers, of features without directions.

    Args:
        whiten, spread: as of `frozen`.
        scale: of cosines, where training begins; it is learned.
    """

    is_trained = True

    def __init__(
        self, backbone: Backbone, setting: Setting, *, whiten: float = 0.5, spread: float = 0.04, scale: float = 16.0
    ) -> None:
        super().__init__(backbone, setting, whiten=whiten, spread=spread)
        if scale <= 0:
            raise ConfigError(f"tuned.scale = {scale}: it must be positive")
        with torch.no_grad():
            self.log_scale.fill_(math.log(scale / SCALE))
