"""Data sets as Lightning DataModules. They are imported when asked for, so that listing files does not import torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_modules.acdc import AcdcDataModule as AcdcDataModule
    from data_modules.base import SegmentationDataModule as SegmentationDataModule
    from data_modules.busi import BusiDataModule as BusiDataModule
    from data_modules.folder import FolderDataModule as FolderDataModule
    from data_modules.generated.demo import DemoDataModule as DemoDataModule
    from data_modules.generated.demo import DemoStreamDataModule as DemoStreamDataModule
    from data_modules.glas import GlasDataModule as GlasDataModule
    from data_modules.polyp import PolypDataModule as PolypDataModule
    from data_modules.retouch import RetouchDataModule as RetouchDataModule

_WHERE = {
    "AcdcDataModule": "acdc",
    "SegmentationDataModule": "base",
    "BusiDataModule": "busi",
    "DemoDataModule": "generated.demo",
    "DemoStreamDataModule": "generated.demo",
    "FolderDataModule": "folder",
    "GlasDataModule": "glas",
    "PolypDataModule": "polyp",
    "RetouchDataModule": "retouch",
}
__all__ = [*_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"data_modules.{_WHERE[name]}"), name)
