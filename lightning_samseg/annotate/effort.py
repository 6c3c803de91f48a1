"""What an expert's work amounts to, in numbers. Needs no torch.

The accepted mask is the measure: it is what the expert agreed to, not the truth. The expert starts from the fused mask,
so that agreement with it is biased upwards; ``blind`` images, which start from SAM's mask and hide the fused one until
they are accepted, give the comparison without that bias.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_samseg.metrics.functional import dsc

COLUMNS = ("sam", "sam_clipped", "aux_ol")
RECENT = 10


def image_effort(
    accepted: NDArray[np.uint8], sam: NDArray[np.bool_], sam_clipped: NDArray[np.bool_], fused: NDArray[np.bool_]
) -> dict[str, Any]:
    """Compare what the expert accepted with what it might have started from.

    Args:
        accepted: ``(H, W)``, 0 and 1.
        sam: Mask of SAM alone.
        sam_clipped: Inside the crops.
        fused: SAM + AuxOL.

    Returns:
        ``changed``: pixels that differ from the accepted mask, of each column and of an ``empty`` mask; ``dsc`` of each
        column, a fraction, 1 where both masks are empty.
    """
    mask = accepted != 0
    columns = dict(zip(COLUMNS, (sam, sam_clipped, fused), strict=True))
    changed = {name: int((column != mask).sum()) for name, column in columns.items()}
    scores = {name: dsc(column, mask) for name, column in columns.items()}
    return {"changed": changed | {"empty": int(mask.sum())}, "dsc": scores}


def totals(accepts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of a stream so far.

    Args:
        accepts: The journal's ``accept`` events in order.

    Returns:
        ``accepted`` images; ``dsc`` of each column, mean over all, and ``dsc_recent`` over the last ten; ``changed``
        pixels in all; ``saved_effort`` = 1 - changed(SAM + AuxOL) / changed(SAM clipped), None where that would have
        needed no correction; ``seconds``, ``strokes`` and ``undos``; the same numbers for ``blind`` images alone; and
        ``trend``, an entry per image.
    """
    return {
        **_sums(accepts),
        "dsc_recent": _sums(accepts[-RECENT:])["dsc"],
        "blind": _sums([each for each in accepts if each["blind"]]),
        "trend": [
            {
                "position": each["position"],
                "changed": each["numbers"]["changed"]["aux_ol"],
                "changed_sam_clipped": each["numbers"]["changed"]["sam_clipped"],
                "dsc": each["numbers"]["dsc"]["aux_ol"],
                "alpha": each["alpha"],
                "seconds": each["effort"].get("seconds"),
                "blind": each["blind"],
            }
            for each in accepts
        ],
    }


def _sums(accepts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    changed = {name: sum(each["numbers"]["changed"][name] for each in accepts) for name in (*COLUMNS, "empty")}
    clipped = changed["sam_clipped"]
    return {
        "accepted": len(accepts),
        "dsc": {
            name: float(np.mean([each["numbers"]["dsc"][name] for each in accepts])) if accepts else None
            for name in COLUMNS
        },
        "changed": changed,
        "saved_effort": 1 - changed["aux_ol"] / clipped if clipped else None,
        **{name: sum(each["effort"].get(name, 0) for each in accepts) for name in ("seconds", "strokes", "undos")},
    }
