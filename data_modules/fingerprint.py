"""Short names for the data a run has seen, so that runs on other data or another split are not taken for its equals."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from data_modules.layouts.base import Item
from lightning_samseg.io.masks import MaskRule


def data_fingerprint(items: Iterable[Item], rule: MaskRule | None = None) -> str:
    """Hash of case ids, slices, the sizes of their files in bytes, and what their masks mean; no file is opened.

    The same on every machine that holds the same files, whatever their folder and order.

    Args:
        items: Images; one that is listed twice counts once.
        rule: What the values of masks mean; None: the plain case, one foreground and nothing that is ignored.

    Returns:
        16 hexadecimal digits.
    """
    sizes: dict[Path, int] = {}

    def size(path: Path) -> int:
        if path not in sizes:
            # A run that has ended well must not fail because its files have been moved since.
            sizes[path] = path.stat().st_size if path.is_file() else -1
        return sizes[path]

    lines = {
        f"{item.case_id}\t{item.slice_index}\t{size(item.image)}\t{[size(path) for path in item.masks]}"
        for item in items
    }
    if rule is not None and (rule.kind != "binary" or rule.ignore is not None):
        lines.add(f"masks {rule.kind}, ignored {rule.ignore}")
    return sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def split_name(name: str, **parts: Sequence[Item]) -> str:
    """Name of a split with a hash of which image is where, in order: the first training images are the labelled ones.

    Args:
        name: How the data set calls it, such as ``committed``.
        parts: The images of each part.

    Returns:
        ``NAME:HASH``, with 12 hexadecimal digits.
    """
    lines = [f"{part}\t{item.case_id}\t{item.slice_index}" for part, items in parts.items() for item in items]
    return f"{name}:{sha256(chr(10).join(lines).encode()).hexdigest()[:12]}"
