"""Which exceptions are a user's mistake, and what is said of them instead of a traceback."""

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_samseg.__main__ import explained
from lightning_samseg.errors import UserError

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:29073."
NCCL = "NCCL error: remote process exited or there was a network error, NCCL version 2.27.5"


def wrapped(error: Exception) -> Exception:
    outer = RuntimeError("in a library")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("A folder is missing.", fix="make it"), "A folder is missing"),
        (MisconfigurationException("gradient clipping is not supported"), "gradient clipping is not supported"),
        (RuntimeError(GLOO), "Another process of this run has ended"),
        (RuntimeError(NCCL), "Another process of this run has ended"),
    ],
)
def test_mistakes_are_explained_wherever_they_are_wrapped(error: Exception, message: str) -> None:
    for each in (error, wrapped(error)):
        assert message in (explained(each) or "")


def test_what_is_no_mistake_keeps_its_traceback() -> None:
    for error in (RuntimeError("CUDA error"), RuntimeError("gloo: out of memory"), ConnectionError("reset by peer")):
        assert explained(error) is None
        assert explained(wrapped(error)) is None
