"""A synthetic stream on which SAM errs in a way that a small network can learn to correct."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from lightning_samseg.losses.binary import dice_loss
from lightning_samseg.models.unet import UNet
from lightning_samseg.online.batch import BatchConfig, OnlineBatch
from lightning_samseg.online.crop_network import CropNetwork
from lightning_samseg.online.fusion import Fusion, FusionConfig
from lightning_samseg.online.learner import OnlineLearner
from lightning_samseg.prompts.boxes import Box
from tests import float64


@dataclass
class Sample:
    image: torch.Tensor
    sam_logits: torch.Tensor
    crops: list[Box]
    reference: np.ndarray


@pytest.fixture
def make_stream():
    """Bright discs on dim noise; SAM sees each of them shifted by half its radius, with a margin around its box."""

    def make(length, prompts=1, seed=0):
        samples = []
        for position in range(length):
            rng = np.random.default_rng((seed, position))
            height, width = 48, 40 + 32 * prompts
            rows, columns = np.ogrid[:height, :width]
            reference = np.zeros((height, width), np.uint8)
            logits, crops = [], []
            for number in range(prompts):
                y, x, radius = rng.uniform(20, 28), rng.uniform(20, 26) + 34 * number, rng.uniform(8, 12)
                reference[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = 1
                dy, dx = radius / 2 * rng.choice([-1, 1], 2)
                distance = np.sqrt((rows - y - dy) ** 2 + (columns - x - dx) ** 2)
                logits.append(np.clip(radius - distance, -4, 4))
                crops.append(
                    Box(
                        max(0, int(x - radius - 5)),
                        max(0, int(y - radius - 5)),
                        min(width, int(x + radius + 6)),
                        min(height, int(y + radius + 6)),
                    )
                )
            image = rng.normal(0.3, 0.08, (3, height, width)) + 0.3 * reference
            samples.append(
                Sample(
                    torch.tensor(np.clip(image, 0, 1), dtype=torch.float32),
                    torch.tensor(np.array(logits), dtype=torch.float32),
                    crops,
                    reference,
                )
            )
        return samples

    return make


@pytest.fixture
def make_learner():
    """A learner with a tiny network, the same weights every time unless seeded otherwise; ``exact``: in float64."""

    def make(seed=0, network=None, fusion=None, batch=None, cls=OnlineLearner, exact=False, **settings):
        extra = settings.get("extra_channel")
        if network is None:
            torch.manual_seed(seed)
            network = UNet(3 if extra is None else 4, (8, 16, 16, 16, 16))
        if exact:
            network = float64.Float64(network)
            settings = {"loss": float64.dice_loss} | settings
        steps = {name: settings.pop(name) for name in ("step_per", "replay_without_feedback") if name in settings}
        return cls(
            CropNetwork(network, **{"loss": dice_loss, "lr": 5e-3, "crop_size": 32} | settings),
            Fusion(FusionConfig("adaptive", window=3) if fusion is None else fusion),
            OnlineBatch(BatchConfig(4) if batch is None else batch),
            **steps,
        )

    return make
