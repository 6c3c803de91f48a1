"""One run folder, one process: ``run.lock`` says who writes, ``status.json`` how far the run is. Needs no torch."""

import json
import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lightning_samseg.errors import UserError, described, explained, first_line
from lightning_samseg.io.files import atomic_write, remove_leftovers
from lightning_samseg.log import logger
from lightning_samseg.runs.requeue import Requeued
from lightning_samseg.runs.slurm import WAITING, job_state

LOCK, STATUS = "run.lock", "status.json"
LOOK_EVERY = 5.0
"""Seconds between two looks at the lock: a process that has lost it stops no later than that."""
BEAT_EVERY = 15.0
"""Seconds between two signs of life."""
SILENT_AFTER = 600.0
"""Seconds without a sign of life after which a process on another machine counts as dead, where Slurm cannot tell."""

STATUS_BYTES = 2048
"""Of ``status.json``, blanks at its end included."""

State = Literal["running", "finished", "failed", "interrupted", "requeued"]


@dataclass(frozen=True)
class Holder:
    """Who writes into a run folder: the content of ``run.lock``."""

    host: str
    pid: int
    pid_started: str | None
    """When the process began, in the kernel's ticks; None where the system does not say. Ids are used again."""
    job: str | None
    """``SLURM_JOB_ID``; None outside Slurm."""
    restart: int
    """``SLURM_RESTART_COUNT``: how often the job has been put back into the queue."""
    started: str
    """Local time, ISO 8601."""
    token: str
    """Unique."""

    def __str__(self) -> str:
        """For messages."""
        job = f"job {self.job}, " if self.job else ""
        return f"{job}process {self.pid} on {self.host}, since {self.started}"


@dataclass(frozen=True)
class Status:
    """How far a run has come: the content of ``status.json``."""

    state: State
    verb: str
    step: int = 0
    """Iterations, or images of a stream, that are done."""
    steps: int = 0
    """Of how many; 0 before that is known."""
    rate: float | None = None
    """Iterations per second, over the last minutes."""
    starts: int = 1
    """How often the run was started or resumed."""
    requeued: int = 0
    """How often it went back into Slurm's queue."""
    error: str | None = None
    """Why it failed, in one line."""
    updated: str = ""
    holder: dict[str, Any] | None = None
    """Who wrote this, see :class:`Holder`."""


def results_folder(run_dir: Path, verb: str, resumes: bool) -> Path:
    """Where a verb writes: ``fit`` into an unused run folder or on in its own; the others never overwrite.

    Args:
        run_dir: The run folder, ``trainer.default_root_dir``.
        verb: ``fit``, ``validate``, ``test`` or ``predict``.
        resumes: Whether the user said that the run goes on (``--ckpt_path``).

    Returns:
        The run folder, or for a verb that finds it used a new folder in it, such as ``test-1``.

    Raises:
        UserError: If ``fit`` would mix two runs.
    """
    foreign = sorted(run_dir.glob("hpc_ckpt_*.ckpt"))
    if foreign and "SLURM_JOB_ID" in os.environ:
        raise UserError(
            f"{foreign[-1]} is a checkpoint that another program left, and Lightning would silently start from it.",
            expected="checkpoints/last.ckpt, which our runs go on from",
            fix="move it out of the run folder; to start from it, name it there with --ckpt_path",
        )
    used = any((run_dir / name).exists() for name in ("metrics.json", "checkpoints"))
    if verb == "fit" and used and not resumes:
        holder = live_holder(run_dir)
        if holder is not None:
            raise locked(run_dir, holder)
        raise UserError(
            f"The run folder {run_dir} holds an earlier run.",
            fix="choose another --trainer.default_root_dir, go on with --ckpt_path last, or delete the folder",
        )
    if verb == "fit" or not used:
        return run_dir
    attempt = 1
    while (folder := run_dir / f"{verb}-{attempt}").exists():
        attempt += 1
    return folder


class Claim:
    """Holds a run folder while this process writes into it: a context manager.

    Args:
        folder: The run folder; made if need be.
        verb: What is being done.

    Raises:
        UserError: On entering, if another process holds the folder, or a waiting job will go on with it.
    """

    def __init__(self, folder: str | Path, verb: str) -> None:
        self.folder = Path(folder)
        self.progress: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """Gives iterations done and to do; set when there is a trainer."""
        self._me = _this_process()
        self._status = Status("running", verb)
        self._samples: deque[tuple[float, int]] = deque(maxlen=20)
        self._done = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="run.lock", daemon=True)

    def __enter__(self) -> "Claim":
        """Take the folder."""
        job = waiting_job(self.folder)
        if job is not None and job != self._me.job:
            raise UserError(
                f"The run in {self.folder} belongs to job {job}, which waits in Slurm's queue and will go on with it.",
                fix=f"let it, or take it out of the queue with: scancel {job}",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock()
        for folder in (self.folder, self.folder / "checkpoints", self.folder / "logs"):
            remove_leftovers(folder)
        last = read_status(self.folder)
        if last is not None:
            self._status = replace(
                self._status, starts=last.starts + 1, requeued=last.requeued + (last.state == "requeued")
            )
        self._write()
        self._keeper.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Note how the run ended, and leave the folder."""
        self._done.set()
        self._keeper.join()
        if _read_lock(self.folder) != self._me:
            return  # another has taken over and writes its own
        state: State = "finished" if error is None else _state_after(error)
        reason = None if error is None or state == "requeued" else _reason(error)
        self._status = replace(self._status, state=state, error=reason)
        self._write()
        (self.folder / LOCK).unlink(missing_ok=True)

    def _lock(self) -> None:
        """Create the lock, which fails where there is one; put a stale one aside first."""
        path = self.folder / LOCK
        for _ in range(3):
            try:
                with path.open("x", encoding="utf-8") as file:
                    try:
                        file.write(json.dumps(asdict(self._me)))
                        file.flush()
                    except OSError:  # a full disk
                        path.unlink()
                        raise
                return
            except FileExistsError:
                holder = _read_lock(self.folder)
                if holder is None:  # gone, or not yet written
                    time.sleep(0.5)
                    if path.exists() and _read_lock(self.folder) is None:
                        self._put_aside(None)
                    continue
                restarted = holder.job is not None and holder.job == self._me.job and holder.restart < self._me.restart
                if not restarted and is_live(self.folder, holder):
                    raise locked(self.folder, holder) from None
                may_live = holder.host != self._me.host or is_live(self.folder, holder)
                self._put_aside(holder)
                if restarted and may_live:  # a node that Slurm gave up may go on working: it now sees its lock gone
                    time.sleep(2 * LOOK_EVERY)
        raise UserError(f"Others start in the run folder {self.folder}, too.", fix="start one run per folder")

    def _put_aside(self, stale: Holder | None) -> None:
        """Take a stale lock away, and nothing but it: another process may have been faster."""
        aside = self.folder / f".{LOCK}.{uuid.uuid4().hex[:12]}"
        try:
            (self.folder / LOCK).rename(aside)
        except FileNotFoundError:
            return
        taken = _parse(aside)
        if taken is not None and taken != stale:
            aside.rename(self.folder / LOCK)
            raise locked(self.folder, taken)
        aside.unlink()

    def _keep(self) -> None:
        """Look at the lock now and then, give signs of life, and end the process if another holds the folder now."""
        beat = time.monotonic()
        missing = 0
        while not self._done.wait(LOOK_EVERY):
            holder = _read_lock(self.folder)
            missing = missing + 1 if holder is None else 0
            if missing > 1 or (holder is not None and holder != self._me):
                if self._done.is_set():
                    return
                logger.warning(f"error: another process has taken over {self.folder}: {holder}")
                os._exit(3)  # at once: whatever is written from here on would fall into the other's files
            if time.monotonic() - beat >= BEAT_EVERY and not missing:
                beat = time.monotonic()
                self._write()

    def _write(self) -> None:
        step, steps = self.progress()
        self._samples.append((time.monotonic(), step))
        (then, first), (now, last) = self._samples[0], self._samples[-1]
        rate = (last - first) / (now - then) if last > first else self._status.rate
        self._status = replace(self._status, step=step, steps=steps, rate=rate, updated=_now(), holder=asdict(self._me))
        try:
            _put(self.folder / STATUS, json.dumps(asdict(self._status), indent=2) + "\n")
            os.utime(self.folder / LOCK)
        except OSError as error:  # a full disk or a deleted folder is for the run itself to report
            logger.warning(f"warning: {self.folder / STATUS} could not be written: {error}")


def read_status(folder: str | Path) -> Status | None:
    """What ``status.json`` says; None where there is none, or it is not ours."""
    try:
        return Status(**json.loads((Path(folder) / STATUS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def live_holder(folder: str | Path) -> Holder | None:
    """Who holds a run folder and is alive; None where it is free or its lock is stale."""
    holder = _read_lock(Path(folder))
    return holder if holder is not None and is_live(Path(folder), holder) else None


def is_live(folder: Path, holder: Holder) -> bool:
    """Whether the holder of a lock lives: the machine knows its processes, Slurm its jobs; else by signs of life."""
    if holder.host == socket.gethostname() and os.name == "posix":
        return _is_running(holder)
    state = job_state(holder.job) if holder.job else None
    if state is not None:
        return state != "" and state not in WAITING
    try:
        silent = time.time() - (folder / LOCK).stat().st_mtime
    except FileNotFoundError:
        return False
    return silent < SILENT_AFTER


def waiting_job(folder: str | Path) -> str | None:
    """Id of the job that has put itself back into the queue and will go on with the run; None where there is none."""
    status = read_status(folder)
    if status is None or status.state == "finished" or not (status.holder or {}).get("job"):
        return None
    job = str((status.holder or {})["job"])
    return job if job_state(job) in WAITING else None


def locked(folder: Path, holder: Holder) -> UserError:
    """The message for those who come second."""
    return UserError(
        f"The run folder {folder} is in use.",
        found=str(holder),
        fix=f"wait for it or end it; if that process is dead for certain, delete {folder / LOCK}",
    )


def _this_process() -> Holder:
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        pid_started=_pid_started(os.getpid()),
        job=os.environ.get("SLURM_JOB_ID"),
        restart=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        started=_now(),
        token=uuid.uuid4().hex,
    )


def _is_running(holder: Holder) -> bool:
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return holder.pid_started == _pid_started(holder.pid)


def _pid_started(pid: int) -> str | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # not Linux
        return None
    return "ended" if fields[0] == "Z" else fields[19]


def _read_lock(folder: Path) -> Holder | None:
    return _parse(folder / LOCK)


def _parse(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _put(path: Path, text: str) -> None:
    """Replace a file in one step; where the disk has no space for a second one, write over it.

    It is longer than its text, so that the disk need not give it more than it has.
    """
    data = text.encode().ljust(STATUS_BYTES)
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(data)
    except OSError:
        if not path.is_file():
            raise
        with path.open("r+b") as file:
            file.write(data)


def _state_after(error: BaseException) -> State:
    if isinstance(error, Requeued):
        return "requeued"
    return "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"


def _reason(error: BaseException) -> str:
    """One line: what is said of it on the screen, or the kind of exception and its first line."""
    message = explained(error) or described(error)
    if message is not None:
        return " ".join(line.strip() for line in str(message).splitlines()[:2])[:300]
    return f"{type(error).__name__}: {first_line(error)}"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
