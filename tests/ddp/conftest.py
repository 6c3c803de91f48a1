import pytest


@pytest.fixture(scope="module", autouse=True)
def forks(one_thread: None) -> None:
    """So does every module here."""
