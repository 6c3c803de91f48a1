"""What happens around training and testing: checkpoints, guards, result files, pictures."""

from lightning_samseg.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from lightning_samseg.callbacks.config import SaveConfig
from lightning_samseg.callbacks.gallery import CaseGallery
from lightning_samseg.callbacks.nonfinite import StopOnNonFinite
from lightning_samseg.callbacks.overlays import OverlayWriter
from lightning_samseg.callbacks.predictions import PredictionWriter
from lightning_samseg.callbacks.results import ResultsWriter
from lightning_samseg.callbacks.resume import Resumption
from lightning_samseg.callbacks.speed import SpeedMonitor
from lightning_samseg.callbacks.stream import StreamWriter
from lightning_samseg.callbacks.stream_figures import StreamFigures
from lightning_samseg.callbacks.validation_overlays import ValidationOverlays

__all__ = [
    "BestCheckpoint",
    "CaseGallery",
    "LastCheckpoint",
    "OverlayWriter",
    "PredictionWriter",
    "ResultsWriter",
    "Resumption",
    "SaveConfig",
    "SpeedMonitor",
    "StopOnNonFinite",
    "StreamFigures",
    "StreamWriter",
    "ValidationOverlays",
]
