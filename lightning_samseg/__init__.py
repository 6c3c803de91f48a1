"""PyTorch Lightning experiments that adapt Segment Anything to medical images: CPC-SAM and AuxOL.

::

    import lightning_samseg as samseg

    model = samseg.load("runs/mine/checkpoints/best.ckpt")
    answer = model.predict("scan.nii.gz")

See :mod:`lightning_samseg.api`. What it names is imported when asked for: torch takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_samseg.api import Answer as Answer
    from lightning_samseg.api import Model as Model
    from lightning_samseg.api import Online as Online
    from lightning_samseg.api import Run as Run
    from lightning_samseg.api import Sam as Sam
    from lightning_samseg.api import fit as fit
    from lightning_samseg.api import load as load
    from lightning_samseg.api import load_sam as load_sam
    from lightning_samseg.api import test as test
    from lightning_samseg.errors import UserError as UserError

__version__ = "0.2.0"
_WHERE = dict.fromkeys(("Answer", "Model", "Online", "Run", "Sam", "fit", "load", "load_sam", "test"), "api")
_WHERE |= {"UserError": "errors"}
__all__ = [*_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
