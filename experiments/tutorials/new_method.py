# %% [markdown]
# # A new method in one file
#
# A method is a subclass of `BaseMethod` with two functions: what a step learns, and what it predicts. Schedule,
# validation, scores of whole cases, checkpoints, predictions of files and reports come with it. In a file of its own,
# `my_method.py`, the command line knows it, too: `fit --model my_method.MeanTeacher`, `predict --input ... --trust`.

# %%
import copy
import os
from pathlib import Path

import lightning
import torch
from torch import Tensor
from torch.nn import functional as F

import lightning_samseg as samseg
from data_modules import DemoDataModule
from lightning_samseg.losses.dice_ce import dice_ce_loss
from lightning_samseg.methods import BaseMethod
from lightning_samseg.models.branched_unet import NetworkConfig, build_unet

STEPS = int(os.environ.get("TUTORIAL_STEPS", "200"))
work = Path(os.environ.get("TUTORIAL_FOLDER", "runs/tutorial_new_method"))

# %% [markdown]
# A mean teacher (Tarvainen and Valpola, 2017): on images without masks, the network agrees with a slow copy of itself.
# `uses_unlabelled` asks for both halves of the data. `save_hyperparameters` lets a checkpoint bring the method back.


# %%
class MeanTeacher(BaseMethod):
    """A U-Net and its moving average.

    Args:
        weight: Of the agreement.
        decay: Of the average.
        base: Arguments of BaseMethod.
    """

    uses_unlabelled = True

    def __init__(self, weight: float = 0.1, decay: float = 0.99, **base) -> None:
        super().__init__(**base)
        self.save_hyperparameters()
        self.weight, self.decay = weight, decay
        self.network = build_unet(NetworkConfig("paper"), self.num_classes)
        self.teacher = copy.deepcopy(self.network).requires_grad_(False)

    def training_step(self, batch, batch_idx: int) -> Tensor:
        """Supervised loss on the labelled half, agreement on both."""
        labelled = batch["labelled"]
        images = torch.cat([labelled["image"], batch["unlabelled"]["image"]])
        logits = self.network(images)
        with torch.no_grad():
            target = self.teacher(images).softmax(1)
        supervised = dice_ce_loss(logits[: len(labelled["mask"])], labelled["mask"], 0.5)
        agreement = F.mse_loss(logits.softmax(1), target)
        self.log_dict({"train/loss": supervised.detach(), "train/agreement": agreement.detach()})
        return supervised + self.weight * agreement

    @torch.no_grad()
    def on_train_batch_end(self, outputs, batch, batch_idx: int) -> None:
        """Let the teacher follow."""
        for mean, value in zip(self.teacher.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(value, 1 - self.decay)

    def predict_probabilities(self, image: Tensor) -> Tensor:
        """Class probabilities (B, K, S, S)."""
        return self.network(image).float().softmax(1)


# %% [markdown]
# It is trained, tested and loaded as every other. A checkpoint names the class; to import it is to run its code, so
# that has to be allowed. In this notebook the class is known already.

# %%
data = DemoDataModule(num_benign=28, num_malignant=12, image_size=64, num_labelled=10, labelled_batch_size=2)
lightning.seed_everything(42)
method = MeanTeacher(num_classes=data.num_classes, image_size=data.image_size, optimizer={"lr": 1e-3})
run = samseg.fit(method, data, folder=work, max_steps=STEPS)
print(samseg.test(run.best, data, trust=True).scores["test/dsc"])

model = samseg.load(run.best, trust=True)
answer = model.predict(data.splits.test[0].image)
print(answer.class_names, answer.labels.shape)
