# %% [markdown]
# # Your own images in ten minutes
#
# A folder with `images` and `masks` is all that is needed. Here it is generated: microscope fields with round and long
# nuclei. Put the path of your own folder in its place. Open this file in Jupyter, VS Code or PyCharm, cell by cell, or
# run it as it is: `python experiments/tutorials/own_images.py`.

# %%
import os
from pathlib import Path

import lightning

import lightning_samseg as samseg
from data_modules import FolderDataModule
from data_modules.generated.cells import write_demo_folder
from lightning_samseg.methods import UNet

STEPS = int(os.environ.get("TUTORIAL_STEPS", "300"))
work = Path(os.environ.get("TUTORIAL_FOLDER", "runs/tutorial_own_images"))
folder = work / "my_data"
if not folder.is_dir():
    write_demo_folder(folder)

# %% [markdown]
# The data module looks at the files, finds out what the values of the masks mean (`classes.yaml` names them), and
# divides the images into training, validation and test. `group` keeps the fields of one plate together.

# %%
data = FolderDataModule(str(folder), image_size=128, group=r"^plate\d+", labelled_batch_size=4)
print(data.class_names, len(data.splits.train), len(data.splits.val), len(data.splits.test))

# %% [markdown]
# A small U-Net. Every class of `lightning_samseg.methods` takes the same two numbers from the data; `SAMed` adapts SAM
# in its place, `CpcSam` learns from images without masks, too. The seed decides the first weights.

# %%
lightning.seed_everything(42)
method = UNet(network={"name": "paper"}, num_classes=data.num_classes, image_size=data.image_size)
run = samseg.fit(method, data, folder=work / "run", max_steps=STEPS)
print(run.scores["val/dsc"], run.best)

# %% [markdown]
# The run folder has curves, checkpoints and `config.yaml`, which repeats the run on the command line. The scores that
# count are those of the test images, each at its own size.

# %%
tested = samseg.test(run.best, data)
print(tested.scores["test/dsc"], tested.folder)

# %% [markdown]
# The checkpoint alone predicts: a path, an array, or a list of them. `answer.overlay()` is a picture.

# %%
model = samseg.load(run.best)
answer = model.predict(sorted((folder / "unlabelled").iterdir())[0])
print(answer.class_names, [(answer.labels == number).sum() for number in (1, 2)])
answer.save(work / "mask.png")
answer.overlay().save(work / "overlay.png")
