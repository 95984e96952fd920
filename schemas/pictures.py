"""Pictures in a response: output that is large by itself, and can be left out of a record (U-90). Pure.

A generated picture is the `result` of an `image_generation_call`, in base64; its previews are events of their
own, which no object repeats.
"""

from collections.abc import Sequence
from typing import Any

from schemas.output import cut_status

Item = dict[str, Any]

PREVIEW = "response.image_generation_call.partial_image"
"""The event with a picture as far as it is drawn. The next preview, and the result, replace it."""


def picture_bytes(item: object) -> int:
    """The bytes of the picture in `item`; 0 without one."""
    if not isinstance(item, dict) or item.get("type") != "image_generation_call":
        return 0
    result = item.get("result")
    return len(result) if isinstance(result, str) else 0


def without_picture(item: object) -> Item | None:
    """`item` as it is without its picture, None when it has none."""
    if not isinstance(item, dict) or not picture_bytes(item):
        return None
    return {**item, "status": cut_status(item["type"]), "result": None}


def fitting(items: Sequence[Item], excess: int) -> list[Item]:
    """`items` without their largest pictures: as many are left out as make `excess` bytes."""
    left = list(items)
    for index in sorted(range(len(left)), key=lambda index: picture_bytes(left[index]), reverse=True):
        smaller = without_picture(left[index])
        if excess <= 0 or smaller is None:
            break
        excess -= picture_bytes(left[index])
        left[index] = smaller
    return left
