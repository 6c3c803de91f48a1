"""One LightningModule per method. A config names one as ``model.class_path``."""

from lightning_samseg.methods.aux_ol import AuxOl
from lightning_samseg.methods.base import BaseMethod
from lightning_samseg.methods.cpc_sam import CpcSam
from lightning_samseg.methods.direct_ol import DirectOl
from lightning_samseg.methods.supervised import SAMed, UNet
from lightning_samseg.methods.zero_shot import ZeroShot

__all__ = ["AuxOl", "BaseMethod", "CpcSam", "DirectOl", "SAMed", "UNet", "ZeroShot"]
