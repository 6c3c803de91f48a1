"""What every test relies on: no display, no network logger, a cache of its own, no scheduler around it."""

import os
from pathlib import Path

import pytest
import torch

from tests.reference.oracle import Oracle, find_recording

os.environ["MPLBACKEND"] = "agg"
os.environ["WANDB_MODE"] = "disabled"
for _name in [name for name in os.environ if name.startswith("SLURM_") and name != "SLURM_CONF"]:
    del os.environ[_name]  # or Lightning takes the job that runs the tests for its own
torch.set_num_threads(2)


def pytest_addoption(parser: pytest.Parser) -> None:
    # Here and not in tests/reference, whose conftest pytest reads too late when another folder is named.
    group = parser.getgroup("reference")
    group.addoption(
        "--oracle",
        metavar="FILE",
        type=Path,
        help="recording of the authors' CPC-SAM (.npz) to compare with; default: shared/oracle/cpc_sam.npz beside "
        "the repository, else the committed slice",
    )
    group.addoption(
        "--oracle-salt",
        "--oracle_salt",
        metavar="TEXT",
        help="text that the keys of its weights were salted with; default: what the recording says, else none",
    )


def pytest_configure(config: pytest.Config) -> None:
    recording = config.getoption("oracle")
    if recording is not None and not recording.is_file():
        raise pytest.UsageError(f"--oracle: no file {recording}")
    if recording is not None:
        Oracle(recording, config.getoption("oracle_salt"))


@pytest.fixture(scope="session")
def oracle(pytestconfig: pytest.Config) -> Oracle:
    """The recording named by --oracle, the shared one, or the committed slice."""
    return Oracle(find_recording(pytestconfig.getoption("oracle")), pytestconfig.getoption("oracle_salt"))


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keeps downloads, demo data and cached outputs of the tests out of the user's cache."""
    folder = tmp_path_factory.mktemp("samseg_cache")
    os.environ["SAMSEG_CACHE"] = str(folder)
    return folder
