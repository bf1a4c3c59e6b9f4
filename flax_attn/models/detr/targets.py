"""End-to-End Object Detection with Transformers - Carion et al. 2020, https://arxiv.org/abs/2005.12872

Follows: the form of the targets in facebookresearch/detr, ``datasets/coco.py``.

Differs: upstream keeps a list of targets of different lengths. Here all images of a batch have the same number of
targets, some of them padding. What upstream finds out on the device, or not at all, is refused here on the host.
"""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flax_attn.layers import require

WHO = "pad_targets"
ROUNDING = 1e-6
"""How far a coordinate may be outside [0, 1]: that much is rounding."""

Target = Mapping[str, Any]


def pad_targets(
    targets: Sequence[Target],
    length: int | None = None,
    size: tuple[int, int] | None = None,
    num_classes: int | None = None,
) -> dict[str, np.ndarray]:
    """The ``Targets`` of a batch, from upstream's form: a dict for each image with labels (k,), boxes (k, 4) and, for
    panoptic segmentation, masks (k, h, w).

    An image without objects, ``{"labels": [], "boxes": []}``, becomes a row of padding. Fill up the last batch of an
    epoch with images of zeros and such targets: the losses stay finite, even if all images are like that. The queries
    of such an image count as "no object" in loss_ce.

    Args:
        length: the number of targets of each image, padding included; the largest number in ``targets`` when None. jit
            compiles once for each length, so give one. Padding costs almost nothing, except that of masks.
        size: (height, width) of the padded images. Masks are padded to it at the bottom and at the right. The size of
            the largest mask when None. With a size, a batch without any object has masks too.
        num_classes: that of ``SetCriterion``: labels that are not below it are refused.

    Raises:
        ValueError: no images, more objects than ``length``, a mask larger than ``size``, or a bad target: wrong shapes,
            different numbers of labels, boxes and masks, labels that are no class, boxes outside [0, 1].
    """
    require(isinstance(targets, Sequence), f"{WHO}: expected a list of dicts, got a {type(targets).__name__}")
    require(len(targets) > 0, f"{WHO}: expected the targets of one image or more, got none")
    has_masks = any(isinstance(target, Mapping) and "masks" in target for target in targets)
    has_masks = has_masks or (size is not None and not any(map(has_objects, targets)))
    return padded([checked(i, target, has_masks, num_classes) for i, target in enumerate(targets)], length, size)


def padded(
    found: Sequence[Mapping[str, np.ndarray]], length: int | None, size: tuple[int, int] | None
) -> dict[str, np.ndarray]:
    """The arrays of all images, padded to one shape."""
    counts = [len(arrays["labels"]) for arrays in found]
    most = max(counts)
    t = most if length is None else length
    require(isinstance(t, numbers.Integral) and t >= 0, f"{WHO}: expected a length of 0 or more, got {length!r}")
    largest = f"{most} (image {counts.index(most)})"
    require(most <= t, f"{WHO}: expected at most length={t} objects in an image, got {largest}")
    spaces: dict[str, tuple[int, ...]] = {"labels": (), "boxes": (4,), "valid": ()}
    if "masks" in found[0]:
        spaces["masks"] = mask_size([arrays["masks"] for arrays in found], size)
    result = {key: np.zeros((len(found), t, *space), found[0][key].dtype) for key, space in spaces.items()}
    for i, arrays in enumerate(found):
        for key, rows in result.items():
            rows[i][tuple(map(slice, arrays[key].shape))] = arrays[key]
    return result


def checked(i: int, target: Target, has_masks: bool, num_classes: int | None) -> dict[str, np.ndarray]:
    """The arrays of image ``i``, with the dtypes of the result."""
    who = f"{WHO}: image {i}"
    given = isinstance(target, Mapping) and {"labels", "boxes"} <= target.keys()
    require(given, f"{who}: expected a dict with labels and boxes, got {described(target)}")
    labels, boxes = array(who, target, "labels", ()), array(who, target, "boxes", (4,))
    counts = f"{len(labels)} labels and {len(boxes)} boxes"
    require(len(labels) == len(boxes), f"{who}: expected as many labels as boxes, got {counts}")
    check_labels(who, labels, num_classes)
    check_boxes(who, boxes)
    arrays = {"labels": labels.astype(np.int32), "boxes": boxes.astype(np.float32), "valid": np.ones(len(labels), bool)}
    if has_masks:
        given = "masks" in target or not len(labels)
        require(given, f"{who}: expected masks, as other images of the batch have them, got none")
        arrays["masks"] = masks(who, target, len(labels))
    return arrays


def has_objects(target: Target) -> bool:
    """Whether a target has a label."""
    return not isinstance(target, Mapping) or np.size(target.get("labels", 0)) > 0


def described(target: Any) -> str:
    """What a message calls a target that cannot be used."""
    if isinstance(target, Mapping):
        return f"one with {', '.join(map(str, target)) or 'nothing'}"
    return f"a {type(target).__name__}"


def array(who: str, target: Target, key: str, space: tuple[int, ...]) -> np.ndarray:
    """target[key] with one row an object; what is empty gets the shape of no object."""
    expected = f"{who}: expected {key} of shape {('k', *space)}".replace("'", "")
    try:
        found = np.asarray(target[key])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{expected}, got something that is no array ({type(target[key]).__name__})") from error
    require(found.dtype.kind in "biuf" or not found.size, f"{who}: expected numbers in {key}, got {found.dtype}")
    if found.size == 0 and found.shape[:1] == (0,) and found.ndim <= len(space) + 1:
        return np.zeros((0, *space), int if key == "labels" else np.float32)
    require(found.ndim == len(space) + 1 and found.shape[1:] == space, f"{expected}, got {found.shape}")
    return found


def check_labels(who: str, labels: np.ndarray, num_classes: int | None) -> None:
    """Refuse labels that are no integers, and those that are no class."""
    require(labels.dtype.kind in "iu", f"{who}: expected integers as labels, got {labels.dtype}")
    below = np.inf if num_classes is None else num_classes
    wrong = labels[(labels < 0) | (labels >= below)]
    classes = "of 0 or more" if num_classes is None else f"from 0 to {num_classes - 1}"
    require(not wrong.size, f"{who}: expected labels {classes}, got {wrong[:1].tolist()}")


def check_boxes(who: str, boxes: np.ndarray) -> None:
    """Refuse boxes that are NaN, outside [0, 1] or of negative size."""
    negative, form = (boxes[:, 2:] < 0).any(1), "(center x, center y, width, height)"
    found = first(boxes, negative)
    require(not negative.any(), f"{who}: expected boxes {form} of a size of 0 or more, got {found}")
    outside = ~((boxes >= -ROUNDING) & (boxes <= 1 + ROUNDING)).all(1)
    found = first(boxes, outside)
    require(not outside.any(), f"{who}: expected boxes {form} within [0, 1], as shares of the image, got {found}")


def first(rows: np.ndarray, wanted: Any) -> list[float]:
    """The first of the wanted rows."""
    return rows[wanted][0].tolist() if wanted.any() else []


def masks(who: str, target: Target, count: int) -> np.ndarray:
    """The masks (count, h, w) of a target; none of size (0, 0) for an image without objects that has none."""
    found = np.asarray(target.get("masks", np.zeros((0, 0, 0), bool)))
    if found.shape == (0,):
        found = np.zeros((0, 0, 0), bool)
    expected = f"{who}: expected masks of shape ({count}, h, w), one for each label"
    require(found.ndim == 3 and len(found) == count, f"{expected}, got {found.shape}")
    plain = found.dtype.kind in "biuf" and bool(((found == 0) | (found == 1)).all())
    require(plain, f"{who}: expected masks of 0 and 1, got other values of {found.dtype}")
    return found.astype(bool)


def mask_size(found: Sequence[np.ndarray], size: tuple[int, int] | None) -> tuple[int, ...]:
    """``size``, or the size of the largest mask when None. Raises ValueError for a mask larger than ``size``."""
    largest = tuple(np.max([each.shape[1:] for each in found], axis=0).tolist())
    if size is None:
        return largest
    pair = isinstance(size, Sequence) and len(size) == 2 and all(isinstance(n, numbers.Integral) for n in size)
    require(pair, f"{WHO}: expected a size (height, width), got {size!r}")
    big = next((i for i, each in enumerate(found) if np.greater(each.shape[1:], size).any()), None)
    room = f"{WHO}: expected masks of at most {tuple(size)}, got {largest} (image {big})"
    require(big is None, room)
    return tuple(size)
