"""One LightningModule per method. A config names one as ``model.class_path``."""

from lightning_samseg.methods.aux_ol import AuxOl
from lightning_samseg.methods.base import BaseMethod
from lightning_samseg.methods.bcp import Bcp
from lightning_samseg.methods.cpc_sam import CpcSam
from lightning_samseg.methods.cps import Cps
from lightning_samseg.methods.dc_net import DcNet
from lightning_samseg.methods.direct_ol import DirectOl
from lightning_samseg.methods.mc_net_plus import McNetPlus
from lightning_samseg.methods.method import Method
from lightning_samseg.methods.semi_sam import SemiSam
from lightning_samseg.methods.supervised import SAMed, UNet
from lightning_samseg.methods.uamt import Uamt
from lightning_samseg.methods.unimatch import UniMatch
from lightning_samseg.methods.urpc import Urpc
from lightning_samseg.methods.zero_shot import ZeroShot

__all__ = [
    "AuxOl",
    "BaseMethod",
    "Bcp",
    "CpcSam",
    "Cps",
    "DcNet",
    "DirectOl",
    "McNetPlus",
    "Method",
    "SAMed",
    "SemiSam",
    "UNet",
    "Uamt",
    "UniMatch",
    "Urpc",
    "ZeroShot",
]
