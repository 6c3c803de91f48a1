"""What every test relies on: no display, no network logger, a cache of its own, no scheduler, the state it expects."""

import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from lightning_samseg import errors
from tests.reference.oracle import Oracle, find_recording

errors.names_flags = True  # messages are compared as the command line has them
os.environ["MPLBACKEND"] = "agg"
os.environ["WANDB_MODE"] = "disabled"
for _name in [name for name in os.environ if name.startswith("SLURM_") and name != "SLURM_CONF"]:
    del os.environ[_name]  # or Lightning takes the job that runs the tests for its own
# Networks of tests are tiny and gain nothing from more threads. Here and not in torch: for processes of tests, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402 - reads the variable

from tests.process_state import belongings, end_services, left_open, put_back, seed, state  # noqa: E402

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
pytest_plugins = ["tests.fake_slurm"]
FAILED = pytest.StashKey[bool]()


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
    folder = tempfile.TemporaryDirectory(prefix="samseg_cache_")
    config.add_cleanup(folder.cleanup)
    # Keeps downloads, demo data and cached outputs of the tests out of the user's cache.
    os.environ["SAMSEG_CACHE"] = folder.name
    if recording is not None:
        Oracle(recording, config.getoption("oracle_salt"))


@pytest.fixture(scope="session")
def oracle(pytestconfig: pytest.Config) -> Oracle:
    """The recording named by --oracle, the shared one, or the committed slice."""
    return Oracle(find_recording(pytestconfig.getoption("oracle")), pytestconfig.getoption("oracle_salt"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    seed()  # before any fixture is made
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("there is no GPU here that PyTorch can use")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for node in item.listchain():
            node.stash[FAILED] = True
    return report


def leave_as_found(node: pytest.Item | pytest.Collector) -> Iterator[None]:
    before, owned = state(), belongings()
    yield
    end_services()
    put_back(before)
    if not node.stash.get(FAILED, False):  # the traceback of a failure holds what the test has held
        assert not (more := left_open(owned)), f"left open: {more}"


@pytest.fixture(scope="module", autouse=True)
def a_module_leaves_no_trace(request: pytest.FixtureRequest) -> Iterator[None]:
    """With the fixtures that a module's tests share."""
    yield from leave_as_found(request.node)


@pytest.fixture(autouse=True)
def a_test_leaves_no_trace(request: pytest.FixtureRequest) -> Iterator[None]:
    """Without what belongs to a module's fixtures, which are made before this one."""
    yield from leave_as_found(request.node)


@pytest.fixture(scope="module")
def one_thread(a_module_leaves_no_trace: None) -> None:
    """For modules that fork: the threads of OpenMP do not exist in a child, which would wait for them for ever.

    And for modules that compare with jobs of one thread.
    """
    torch.set_num_threads(1)
