"""Why CPC-SAM gains, or does not: its pseudo labels on a run's unlabelled images, whose masks no training has read.

    python experiments/small_data/pseudo_labels.py data/small/kvasir RUN/checkpoints/last.ckpt ...

prints one line of numbers per checkpoint, see ``lightning_samseg.methods.pseudo_labels``.
"""

import json
import sys

from data_modules import FolderDataModule
from lightning_samseg.methods import CpcSam
from lightning_samseg.methods.pseudo_labels import examine


def main(root: str, *checkpoints: str) -> None:
    """Examine checkpoints of runs on a folder with ten labelled images."""
    for checkpoint in checkpoints:
        method = CpcSam.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True).eval()
        data = FolderDataModule(root, image_size=method.image_size, num_labelled=10)
        found = examine(method, data._once(data.unlabelled_items, "evaluation"))
        print(json.dumps({"checkpoint": checkpoint, **{name: round(value, 3) for name, value in found.items()}}))


if __name__ == "__main__":
    main(*sys.argv[1:])
