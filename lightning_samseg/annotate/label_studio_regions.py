"""Regions of Label Studio's annotations: prompts and masks out of them, and masks for it to draw.

Both sides show a picture as its EXIF orientation says, so that sizes and places are the same.
"""

import base64
import binascii
import io
import math
import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_samseg.annotate import label_studio_rle
from lightning_samseg.errors import UserError

MASKS = {"brushlabels", "bitmasklabels"}


def prompt_of(region: Any, size: tuple[int, int]) -> dict[str, Any] | None:
    """The prompt that a region of Label Studio is; percent become whole pixels, so that drawn boxes come back exactly.

    Args:
        region: Of a context's ``result``.
        size: ``(H, W)``.

    Returns:
        None for a region that is no prompt, or a point that is on no object.

    Raises:
        UserError: If the picture is of another size, or numbers are missing.
    """
    kind = region.get("type") if isinstance(region, dict) else None
    if kind not in ("rectanglelabels", "rectangle", "keypointlabels", "keypoint"):
        return None
    height, width = size
    check_size(region, size)
    try:
        value = region["value"]
        x, y = float(value["x"]) * width / 100, float(value["y"]) * height / 100
        if kind.startswith("keypoint"):
            on_image = {"point": [min(width - 1, math.floor(x)), min(height - 1, math.floor(y))]}
            return None if region.get("is_positive") is False else on_image
        w, h = float(value["width"]) * width / 100, float(value["height"]) * height / 100
        angle = math.radians(float(value.get("rotation", 0)))
        corners = [
            (x + dx * math.cos(angle) - dy * math.sin(angle), y + dx * math.sin(angle) + dy * math.cos(angle))
            for dx, dy in ((0, 0), (w, 0), (0, h), (w, h))
        ]
        columns, rows = zip(*corners, strict=True)
        return {"box": [round(min(columns)), round(min(rows)), round(max(columns)), round(max(rows))]}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError("A region of Label Studio cannot be read.", found=str(error), fix="draw it again") from error


def check_size(region: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Raise UserError unless a region was drawn on a picture of ``(H, W)`` pixels."""
    shown = (region.get("original_height"), region.get("original_width"))
    if shown != size:
        raise UserError(
            "Label Studio shows a picture of another size.",
            expected=f"{size[1]} x {size[0]}",
            found=f"{shown[1]} x {shown[0]}",
            fix="let both read the same file",
        )


def mask_of(regions: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Union of an annotation's brush and bitmask regions; none: nothing is there.

    Raises:
        UserError: If a region cannot be read.
    """
    mask = np.zeros(size, np.uint8)
    for region in regions if isinstance(regions, list) else []:
        kind = region.get("type") if isinstance(region, dict) else None
        if kind not in MASKS:
            continue
        check_size(region, size)
        value = region.get("value")
        value = value if isinstance(value, dict) else {}
        mask |= _bitmap(value, size) if kind == "bitmasklabels" else label_studio_rle.decode(value.get("rle"), size)
    return mask


def _bitmap(value: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    try:
        head, _, data = str(value.get("imageDataURL", "")).partition(",")
        if head != "data:image/png;base64":
            raise ValueError("no PNG")
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=["PNG"]) as image:
            if image.size != (size[1], size[0]):  # before it is decoded
                raise ValueError(f"{image.size[0]} x {image.size[1]} pixels")
            channel = image.getchannel("A") if "A" in image.getbands() else image.convert("L")
            return (np.asarray(channel) >= label_studio_rle.FOREGROUND).astype(np.uint8)
    except (OSError, ValueError, binascii.Error, SyntaxError) as error:
        raise UserError("A bitmask of Label Studio cannot be read.", found=str(error), fix="draw it again") from error


def region_of(mask: NDArray[np.uint8], name: str, image: str, label: str, number: str | None = None) -> dict[str, Any]:
    """A brush region that Label Studio draws.

    Args:
        mask: uint8 ``(H, W)``.
        name: Of the control that has brush masks.
        image: Of the object that it belongs to.
        label: The class.
        number: Id of the region; None: made of the mask.
    """
    height, width = mask.shape
    return {
        "id": number or f"{abs(hash(mask.tobytes())):x}"[:10],
        "from_name": name,
        "to_name": image,
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": label_studio_rle.encode(mask), "brushlabels": [label]},
    }


def names_of(config: str, class_name: str) -> tuple[str, str, str]:
    """Control and object of the first brush labels of a labelling configuration, and the label to give.

    Raises:
        UserError: If there are none.
    """
    problem = "no XML"
    if not re.search(r"<!(DOCTYPE|ENTITY)", config, re.IGNORECASE):
        try:
            for element in ElementTree.fromstring(config).iter():
                if element.tag == "BrushLabels":
                    labels = [each.get("value", "") for each in element.iter("Label")]
                    label = class_name if class_name in labels or not labels else labels[0]
                    return element.get("name", "mask"), element.get("toName", "image"), label
            problem = "no BrushLabels"
        except ElementTree.ParseError:
            pass
    raise UserError(
        "The labelling configuration has nothing to draw masks with.",
        expected="BrushLabels, as in the configuration that annotate prints",
        found=problem,
        fix="add them",
    )
