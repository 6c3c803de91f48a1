"""A Slurm of our own on this host: munge, a controller and virtual nodes, all in one folder, all on 127.0.0.1."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
NODES = ("n1", "n2")
CONFIG = """
ClusterName=samseg
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A job that was put back into the queue waits until its old credential has run out: 5 s is the least that is taken.
AuthInfo=cred_expire=5,socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdTimeout=10
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MailProg=/bin/true
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=5
MinJobAge=600
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PropagateResourceLimits=NONE
PartitionName=main Nodes=ALL Default=YES MaxTime=01:00:00 State=UP PriorityTier=10 OverSubscribe=NO GraceTime=60
PartitionName=high Nodes=ALL MaxTime=01:00:00 State=UP PriorityTier=100 PreemptMode=OFF
"""


def missing() -> str | None:
    """What keeps this machine from running it."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        return f"Slurm's programs are missing: {', '.join(absent)}"
    return None if os.geteuid() == 0 else "the daemons of a private Slurm need root"


class Cluster:
    """Starts on entering, and takes everything down on leaving.

    Args:
        folder: Short and private; holds all state.
        cpus: Cores that each node claims to have.
    """

    def __init__(self, folder: Path, cpus: int = 2) -> None:
        self.folder = folder
        host = socket.gethostname().partition(".")[0]
        ports = _free_ports(1 + len(NODES))
        lines = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=4000"
            for node, port in zip(NODES, ports[1:], strict=True)
        ]
        for part in ("munge", "state", *(f"spool/{node}" for node in NODES)):
            (folder / part).mkdir(parents=True)
        # Nodes are named before partitions use them.
        config = CONFIG.format(host=host, folder=folder, port=ports[0]).split("PartitionName", 1)
        self.config = folder / "slurm.conf"
        self.config.write_text(config[0] + "\n".join(lines) + "\nPartitionName" + config[1])
        (folder / "munge" / "key").write_bytes(os.urandom(1024))
        (folder / "munge" / "key").chmod(0o400)

    def __enter__(self) -> "Cluster":
        os.environ["SLURM_CONF"] = str(self.config)
        munge = self.folder / "munge"
        names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._start("munged", "--force", *(f"--{key}={munge / name}" for key, name in names.items()))
        self._start("slurmctld", "-c")
        for node in NODES:
            self.start_node(node)
        wait_for(lambda: self.ask("sinfo", "-h", "-p", "main", "-o", "%T").split() == ["idle"], 30, "idle nodes")
        return self

    def __exit__(self, *error: object) -> None:
        subprocess.run(["scancel", "--user=root"], capture_output=True)
        for _ in range(40):
            if not self.ask("squeue", "-h"):
                break
            time.sleep(0.25)
        for pid in [*self.folder.glob("slurmd.*.pid"), self.folder / "slurmctld.pid", self.folder / "munge" / "pid"]:
            _end(pid)
        del os.environ["SLURM_CONF"]

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        self._start("slurmd", "-N", node)

    def kill_node(self, node: str) -> None:
        """End a node's daemon as a crash would; what runs on the node goes on, unseen."""
        os.kill(int((self.folder / f"slurmd.{node}.pid").read_text()), signal.SIGKILL)
        (self.folder / f"slurmd.{node}.pid").unlink()

    def ask(self, *command: str) -> str:
        """Standard output of one of Slurm's commands."""
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    def _start(self, *command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, timeout=30)


def wait_for(done, seconds: float, what: str) -> None:
    """Ask until something is true, or fail."""
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            raise AssertionError(f"no {what} within {seconds:.0f} s")
        time.sleep(0.25)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _end(pid_file: Path) -> None:
    if not pid_file.is_file():
        return
    pid = int(pid_file.read_text())
    try:
        os.kill(pid, signal.SIGTERM)
        for _ in range(50):
            time.sleep(0.1)
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, FileNotFoundError):
        pass
