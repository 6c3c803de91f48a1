"""Messages instead of tracebacks: what is wrong, what was expected, what was found, what to do. Needs no torch."""

import errno
import re
from collections.abc import Iterator

PEER_ENDED = [("gloo", "by peer"), ("NCCL", "remote process exited")]
"""What torch.distributed says where the process on the other side is gone."""
_FULL = "make space on that disk (df -h shows it), or choose another folder"
_RIGHTS = "check who may read and write it (ls -l), or choose another folder"
_OURS = ("", "lightning_samseg", "data_modules")  # a part of them that is missing is a fault of the program
_WHAT_TO_DO = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "make space in your quota, or choose another folder",
    errno.EROFS: "choose another folder: that file system can only be read",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: a part of it is a file where a folder should be",
    errno.EISDIR: "check the path: it is a folder where a file should be",
    errno.EEXIST: "choose another name, or remove what is there",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "allow more open files (ulimit -n 4096), or use fewer --data.num_workers",
    errno.EIO: "check that disk or network: the system could not read or write it",
    errno.ESTALE: "check that disk or network: the system could not read or write it",
}

_NO_MEMORY = re.compile(r"t allocate memory|(CUDA|HIP|MPS).* out of memory|CU\w+_STATUS_ALLOC_FAILED")
"""What PyTorch says of main memory, of a device's, and what a device's libraries say."""
_LESS_MEMORY = (
    "in training set --trainer.precision bf16-mixed, --model.checkpointing true (CPC-SAM and SAMed) or a smaller batch "
    "(--data.labelled_batch_size, --data.unlabelled_batch_size), in evaluation "
    "--data.eval_batch_size 1; in main memory fewer --data.num_workers, too. What was saved is whole: fit "
    "--ckpt_path last goes on"
)


names_flags = False
"""Whether messages name options as they are typed (``--data.root``), as the command line has it; else arguments."""
_FLAG = re.compile(r"--(?:data|model|trainer)\.(?=\w)")


class UserError(Exception):
    """A mistake outside the program. The command line prints it without a traceback and exits with status 2.

    Args:
        problem: What is wrong, with the file, option or step it concerns.
        expected: What would have been right, where that is not obvious.
        found: What was there instead.
        fix: What to do or to type; options as ``--data.root``.
    """

    def __init__(self, problem: str, *, expected: str | None = None, found: str | None = None, fix: str) -> None:
        lines = [problem]
        if expected is not None:
            lines.append(f"  expected: {expected}")
        if found is not None:
            lines.append(f"  found: {found}")
        lines.append(f"  what to do: {fix}")
        text = "\n".join(lines)
        super().__init__(text if names_flags else _FLAG.sub("", text))


class BadValueError(UserError, ValueError):
    """An argument that cannot be."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that is not there."""


def explained(error: BaseException | None) -> str | None:
    """The message of the mistake behind an exception, also where a library or a loader's worker has wrapped it.

    That is a UserError, a setting that Lightning refuses, or the end of another process of the run.
    """
    while error is not None:
        if isinstance(error, UserError):
            return str(error)
        if type(error).__name__ == "MisconfigurationException":  # Lightning's, which is not imported here
            return str(UserError(str(error), fix="change that setting"))
        if any(all(word in str(error) for word in words) for words in PEER_ENDED):
            return str(UserError("Another process of this run has ended.", fix="see its own message, if it had time"))
        # A worker process sends its exceptions as text.
        if sent := re.split(r"lightning_samseg\.errors\.\w+Error: ", str(error))[1:]:
            return sent[-1].rstrip()
        error = error.__cause__ or error.__context__
    return None


def what_to_do(error: OSError) -> str:
    """What to do about an error of the system."""
    return _WHAT_TO_DO.get(error.errno or 0, "check that folder and its disk")


def described(error: BaseException) -> UserError | None:
    """What to say of an exception that the system or a library has raised, and that a user can do something about.

    Args:
        error: The exception; its causes are looked at, too.

    Returns:
        The message; None for what is no such exception, probably a fault of the program.
    """
    return next((message for each in _causes(error) if (message := _described(each)) is not None), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _described(error: BaseException) -> UserError | None:
    text, library = first_line(error), type(error).__module__.partition(".")[0]
    if isinstance(error, ValueError) and _raised_in(error).startswith("lightning."):  # in place of a Misconfiguration
        return UserError(text, fix="change that setting")
    if "No space left on device" in str(error) or "file write failed" in str(error):  # OSError's, h5py's, torch's
        return UserError(f"{_name(error)} cannot be written.", found="No space left on device", fix=_FULL)
    if isinstance(error, OSError) and error.errno in _WHAT_TO_DO:
        fix = _WHAT_TO_DO[error.errno]
        return UserError(f"{_name(error)} cannot be read or written.", found=error.strerror, fix=fix)
    if isinstance(error, UnicodeDecodeError):
        return UserError("A file is not UTF-8 text.", found=text, fix="save the file that was read last as UTF-8")
    if isinstance(error, UnicodeEncodeError):
        fix = "rename it, or set the variable PYTHONUTF8=1"
        return UserError("A name has letters that cannot be written here.", found=text, fix=fix)
    if isinstance(error, ModuleNotFoundError) and (package := (error.name or "").partition(".")[0]) not in _OURS:
        return UserError(f"The package {package} is not installed.", fix="install what pyproject.toml names, or make")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _NO_MEMORY.search(text):
        return UserError("There is not enough memory.", found=text or type(error).__name__, fix=_LESS_MEMORY)
    if library == "omegaconf":
        return UserError(
            "The configuration refers to what is not there.",
            expected="${oc.env:NAME} for a variable of the environment, ${fit.data.init_args.root} for another entry",
            found=text,
            fix="correct what stands in ${...}",
        )
    if library == "wandb":
        fix = "check WANDB_API_KEY, log in anew (wandb login --relogin), or use --wandb.offline true"
        return UserError("Weights & Biases refuses the run.", found=text, fix=fix)
    return None


def _raised_in(error: BaseException) -> str:
    """Name of the module that an exception was raised in."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))


def first_line(error: BaseException) -> str:
    """The line that says what is wrong, cut where it is long: the first, or the last of a worker process's text."""
    lines = str(error).strip().splitlines() or [""]
    return lines[-1 if "Original Traceback" in str(error) else 0][:300]


def _name(error: BaseException) -> str:
    name = getattr(error, "filename", None)
    return name if isinstance(name, str) and name else "A file"
