"""Label Studio's run lengths of brush masks (npm's ``rle-pack``; ``label_studio_sdk``'s ``converter/brush.py``).

A bit stream, most significant bit first: 32 bits N, the number of bytes; 5 bits word size - 1, here 7; four times 4
bits, the sizes - 1 of lengths, here 3, 4, 8 and 16 bits. Then blocks: 1 bit, whether one byte is repeated; 2 bits,
which size the length has; the length - 1; the byte, or as many bytes. Zeros fill the last byte. The bytes are the
picture's pixels row by row, RGBA with four equal values: 255 on the mask, 0 elsewhere. Needs no torch.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_samseg.errors import UserError

SIZES = (3, 4, 8, 16)
LONGEST = 1 << 16
FOREGROUND = 128
"""Strokes of Label Studio's brush have soft rims: from here on they count."""


def encode(mask: NDArray[Any]) -> list[int]:
    """Turn a mask into the bytes that Label Studio draws.

    Args:
        mask: ``(H, W)``, foreground where it is not 0.

    Returns:
        Bytes as a list, as it stands in JSON.
    """
    values = np.repeat(np.where(np.asarray(mask != 0).ravel(), 255, 0), 4)
    edges = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts = np.concatenate([[0], edges])
    lengths = np.diff(np.concatenate([starts, [values.size]]))
    bits = [f"{values.size:032b}{7:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    for value, length in zip(values[starts].tolist(), lengths.tolist(), strict=True):
        while length:
            part = min(length, LONGEST)
            which = next(number for number, size in enumerate(SIZES) if part <= 1 << size)
            bits.append(f"1{which:02b}{part - 1:0{SIZES[which]}b}{value:08b}")
            length -= part
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def decode(rle: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Turn Label Studio's bytes into a mask.

    Args:
        rle: As it stands in JSON.
        size: ``(H, W)`` that the picture has.

    Returns:
        uint8 ``(H, W)``, 1 where the fourth value of a pixel is 128 or more.

    Raises:
        UserError: If they are no such bytes, or of another size.
    """
    count = 4 * size[0] * size[1]
    if not isinstance(rle, list) or not all(type(each) is int and 0 <= each <= 255 for each in rle):
        raise _refusal(size, "no list of bytes")
    bits = "".join(map("{:08b}".format, rle))
    place = 0

    def take(number: int) -> int:
        nonlocal place
        place += number
        if place > len(bits):
            raise _refusal(size, f"{len(rle)} bytes, which end too early")
        return int(bits[place - number : place], 2)

    found = take(32)
    if found != count:
        raise _refusal(size, f"{found} values")
    word = take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    if word != 8:
        raise _refusal(size, f"words of {word} bits")
    values = np.zeros(count, np.uint8)
    filled = 0
    while filled < count:
        repeated = take(1)
        length = take(sizes[take(2)]) + 1
        if filled + length > count:
            raise _refusal(size, "runs that are too long")
        if repeated:
            values[filled : filled + length] = take(8)
        else:
            end = place + 8 * length
            take(8 * length)
            literal = int(bits[end - 8 * length : end], 2).to_bytes(length, "big")
            values[filled : filled + length] = np.frombuffer(literal, np.uint8)
        filled += length
    return (values.reshape(*size, 4)[..., 3] >= FOREGROUND).astype(np.uint8)


def _refusal(size: tuple[int, int], found: str) -> UserError:
    return UserError(
        "A brush mask of Label Studio cannot be read.",
        expected=f"RLE of {size[1]} x {size[0]} pixels, {4 * size[0] * size[1]} values",
        found=found,
        fix="draw it on the picture that annotate serves",
    )
