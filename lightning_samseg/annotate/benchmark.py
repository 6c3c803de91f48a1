"""How long an expert waits for the server of ``annotate``, and what is left to correct as the network learns."""

import http.client
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from lightning_samseg.annotate.client import Client
from lightning_samseg.annotate.effort import COLUMNS, totals
from lightning_samseg.annotate.journal import Journal
from lightning_samseg.annotate.simulated import Waited, annotate_all
from lightning_samseg.errors import UserError
from lightning_samseg.io.mask_levels import look_at
from lightning_samseg.io.mask_rules import decide
from lightning_samseg.io.masks import as_label, read_stored_mask

BEAT = 0.02
"""Seconds between two signs that the event loop is asked for."""


def benchmark_annotate(
    folder: str = "",
    prompt: str = "box",
    backbone: str = "lite_medsam",
    think: float = 4.0,
    patience: float = 1.5,
    most: int = 24,
    config: str = "",
    workspace: str = "",
) -> dict[str, Any]:
    """Let an expert who knows the masks annotate images, at a server in a process of its own.

    Args:
        folder: With ``images`` and ``masks`` of the same names; empty for the images of ``data demo folder``.
        prompt: ``box`` or ``point``.
        backbone: SAM.
        think: Seconds in which the expert draws a prompt, and as many in which a mask is corrected.
        patience: Of the server; ``.inf``: the strict stream of ``fit``.
        most: Images.
        config: Configuration of ``fit`` with AuxOL's options; empty for the defaults of ``annotate``.
        workspace: Where to keep it; empty: it is removed.

    Returns:
        ``waited``: seconds, median and largest, for an image's pixels (``opened``), SAM's mask, the fused mask, and
        the answer of an accept, while the network learns; ``event_loop``: delay of a request that needs no work, in
        seconds, at percentiles 50, 99 and 100; ``thirds`` of the stream: mean pixels to change and mean agreement (a
        fraction) for each column of the report, and the saved effort.
    """
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(folder) if folder else _generated(Path(temporary) / "images")
        kept = Path(workspace) if workspace else Path(temporary) / "workspace"
        reference = References(root / "masks")
        options = ["--input", str(root / "images"), "--output", str(kept), "--prompt", prompt, "--backbone", backbone]
        options += ["--patience", str(patience), *(["--config", config] if config else [])]
        with served(options) as (url, _), heartbeat(url) as delays:
            client = Client(url)
            waited = list(annotate_all(client, reference, think, most or None))
            client.close()
        journal = Journal(kept / "journal.jsonl", read_only=True).events
    accepts = [each for each in journal if each["event"] == "accept"]
    return {
        "images": len(waited),
        "waited": {name: _spread([getattr(each, name) for each in waited]) for name in Waited._fields},
        "event_loop": dict(zip(("p50", "p99", "max"), np.percentile(delays, [50, 99, 100]).tolist(), strict=True)),
        "lag": {"mean": float(np.mean([each["lag"] for each in accepts])), "max": max(each["lag"] for each in accepts)},
        "thirds": [_third([accepts[i] for i in part]) for part in np.array_split(np.arange(len(accepts)), 3)],
        "prompt": prompt,
        "backbone": backbone,
    }


class References:
    """Masks of a folder by the names of their images, of any depth and mode that a data set may have.

    Raises:
        UserError: If the folder is missing, or the values of its masks fit no rule.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(
                f"There is no folder {folder}.", expected="masks of the images beside them", fix="check folder="
            )
        self.paths = {path.stem: path for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."}
        decided = decide(look_at(self.paths.values()))
        for error in decided.faults.values():
            raise error
        self.rule = decided.rule

    def __call__(self, name: str) -> NDArray[np.uint8]:
        """Mask ``(H, W)``, 0 and 1.

        Raises:
            UserError: If there is none.
        """
        path = self.paths.get(Path(name).name) or self.paths.get(Path(name).stem)
        if path is None:
            raise UserError(f"The image {name} has no mask.", fix="give it one of the same name, or take it away")
        return (as_label(read_stored_mask(path, self.rule.indices), self.rule, path) == 1).astype(np.uint8)


@contextmanager
def served(options: Sequence[str]) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Start a server in a process of its own; gives its address and the process, and ends it by Ctrl-C.

    Args:
        options: Of ``annotate``.

    Raises:
        UserError: If it does not start, with what it says.
    """
    command = [sys.executable, "-m", "lightning_samseg", "annotate", *options, "--no_browser", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1)
    assert process.stdout is not None
    said: list[str] = []
    try:
        for line in process.stdout:
            said.append(line)
            if line.startswith("http://"):
                break
        else:
            found = "".join(said[-20:]).strip()
            raise UserError("The server of annotate did not start.", found=found, fix="mend what it says")
        url = line.strip()
        _await_port(urlsplit(url).port or 80, process)
        reading = threading.Thread(target=said.extend, args=(process.stdout,), daemon=True)
        reading.start()  # a full pipe would hold the server
        yield url, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()


def _await_port(port: int, process: "subprocess.Popen[str]") -> None:
    """Wait until someone listens: the address is printed a moment before."""
    while process.poll() is None:
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)


@contextmanager
def heartbeat(url: str) -> Iterator[list[float]]:
    """Ask the event loop again and again for what needs no work; gives the growing list of seconds that it took."""
    parts, done, delays = urlsplit(url), threading.Event(), [0.0]

    def beat() -> None:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
        while not done.wait(BEAT):
            start = time.perf_counter()
            connection.request("GET", "/api/workspace")  # without a token: refused before any work
            connection.getresponse().read()
            delays.append(time.perf_counter() - start)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield delays
    finally:
        done.set()
        thread.join()


def _generated(folder: Path) -> Path:
    command = [sys.executable, "-m", "lightning_samseg", "data", "demo", "folder", "--out", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def _spread(seconds: Sequence[float | None]) -> dict[str, float] | None:
    known = [each for each in seconds if each is not None]
    return {"median": float(np.median(known)), "max": max(known)} if known else None


def _third(accepts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    sums, count = totals(accepts), max(len(accepts), 1)
    return {
        "images": len(accepts),
        "changed": {name: sums["changed"][name] / count for name in (*COLUMNS, "empty")},
        "dsc": sums["dsc"],
        "saved_effort": sums["saved_effort"],
    }
