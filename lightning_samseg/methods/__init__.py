"""One LightningModule per method. A config names one as ``model.class_path``."""

from lightning_samseg.methods.base import BaseMethod
from lightning_samseg.methods.cpc_sam import CpcSam
from lightning_samseg.methods.supervised import SAMed, UNet

__all__ = ["BaseMethod", "CpcSam", "SAMed", "UNet"]
