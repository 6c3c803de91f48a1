import pytest

from tests.reference.oracle import Oracle, find_recording


@pytest.fixture(scope="session")
def oracle(pytestconfig: pytest.Config) -> Oracle:
    """The recording named by --oracle, the shared one, or the committed slice."""
    return Oracle(find_recording(pytestconfig.getoption("oracle")), pytestconfig.getoption("oracle_salt"))
