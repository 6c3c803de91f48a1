"""Other people's servers, for tests against the real thing: an environment of their own, a port, and an end."""

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest


def environment_of(requirement: str, variable: str, folder: Path, seconds: float) -> Path:
    """Programs of a package that pins other versions than ours, so that it gets an environment of its own.

    Args:
        requirement: For pip. The test is skipped where it cannot be installed.
        variable: Of the shell, which may name an environment that is there.
        folder: For a new one.
        seconds: That its installation may take.
    """
    if given := os.environ.get(variable):
        return Path(given) / "bin"
    venv.create(folder / "env", with_pip=True)
    programs = folder / "env" / "bin"
    command = [programs / "python", "-m", "pip", "install", "--quiet", requirement]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        pytest.skip(f"{requirement} cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return programs


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(
    command: list[Path | str], url: str, folder: Path, variables: Mapping[str, str], seconds: float
) -> Iterator[None]:
    """Run a server until the block ends.

    Args:
        command: That starts it.
        url: Answers, with whatever status, once it is ready.
        folder: Where it runs; what it says goes into ``log`` there.
        variables: Of its environment, beside our own.
        seconds: That it may take to be ready.
    """
    log = folder / "log"
    with log.open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, **variables}, cwd=folder)
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except urllib.error.HTTPError:
                break  # it answers
            except OSError:
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.3)
        yield
    finally:
        process.terminate()
        process.wait(60)
