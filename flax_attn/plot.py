"""Pictures of attention, with matplotlib."""

from typing import Any

import numpy as np
from jax.typing import ArrayLike

from flax_attn.pictures import DRAW, RANKS, Options, Size, cross, refuse


def plot_attention(
    image: ArrayLike,
    maps: Any,
    position: Size | int | None = None,
    *,
    kind: str | None = None,
    sample: int = 0,
    size: Size | None = None,
    align_corners: bool = False,
) -> Any:
    """Draw the maps of a block over an image, one picture for each map: what ``attention_maps`` returns for the block.

    The kind of a map follows from its shape:

    - "spatial": (n, h, w, 1), a gate of the pixels, as colours. With ``kind``, (n, h, w, c): the mean over channels.
    - "attention": (n, queries, keys), the weights of one query, as colours. With ``kind``, (n, heads, queries, keys):
      the mean over heads.
    - "criss_cross": a pair (n, h, w, w), (n, h, w, h), the weights of one query for its row and column, as colours.
    - "channels": (n, 1, 1, c) or (n, c), a gate of the channels, as bars. With ``kind``, (n, branches, c).
    - "glimpse": integers (n, k, 4) or (n, t, k, 4), the boxes of t glimpses and the path between their centres.
    - "grid": (n, h, w, 2), the places that pixels come from, as points, and the border around them. It may be one of a
      pair with the affine matrix (n, 2, 3).

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3), or a batch (n, H, W, c). Colours are of uint8 or from 0 to 1.
        maps: one map, or a tuple or list of maps.
        position: (y, x) of the query, which a mark shows; the middle when None. A number chooses the query of an
            attention whose queries are not pixels.
        kind: one of the words above, for all maps, where the shape does not tell.
        sample: which sample of the batch.
        size: (h, w) of the pixels that the keys of an attention are. None: from the proportions of the image.
        align_corners: of the sampler, for a grid. It is True for that of ``STN``.

    Returns:
        The matplotlib figure.

    Raises:
        ValueError: if a map has no known shape, or ``kind``, ``position``, ``sample`` or ``size`` does not fit.
    """
    from matplotlib import pyplot as plt

    if kind is not None and kind not in DRAW:
        raise refuse(f"a kind of {', '.join(DRAW)}", repr(kind))
    kinds = [(kind or kind_of(part), _sample(part, sample)) for part in _parts(_arrays(maps), kind)]
    options, picture = Options(position, size, align_corners), _picture(np.asarray(image), sample)
    figure, axes = plt.subplots(1, len(kinds), squeeze=False, figsize=(4 * len(kinds), 4))
    try:
        for ax, (name, part) in zip(axes[0], kinds, strict=True):
            _check(name, part)
            DRAW[name](ax, picture, part, options)
    except ValueError:
        plt.close(figure)
        raise
    return figure


def kind_of(part: Any) -> str:
    """The kind of a map by its shape. Raises ValueError where the shape does not tell."""
    if isinstance(part, tuple):
        return "criss_cross"
    shape = part.shape
    if np.issubdtype(part.dtype, np.integer) and part.ndim in (3, 4) and shape[-1] == 4:
        return "glimpse"
    if part.ndim == 2 or (part.ndim == 4 and shape[1:3] == (1, 1)):
        return "channels"
    if part.ndim == 3:
        return "attention"
    if part.ndim == 4 and shape[-1] in (1, 2):
        return "spatial" if shape[-1] == 1 else "grid"
    raise refuse("a map whose shape tells its kind, or a kind=", f"a map of shape {shape}")


def _arrays(maps: Any) -> Any:
    return [_arrays(m) for m in maps] if isinstance(maps, tuple | list) else np.asarray(maps)


def _parts(maps: Any, kind: str | None) -> list[Any]:
    """The maps to draw, one for each picture: an array, or a pair of arrays for a criss-cross."""
    if not isinstance(maps, list):
        return [maps]
    if not maps:
        raise refuse("at least one map", "none")
    shapes = [getattr(m, "shape", ()) for m in maps]
    if kind in (None, "criss_cross") and _is_pair(shapes):
        return [tuple(maps)]
    if len(maps) == 2 and shapes[0][3:] == (2,) and shapes[1][1:] == (2, 3):
        return maps[:1]
    return [part for m in maps for part in _parts(m, kind)]


def _is_pair(shapes: list[tuple[int, ...]]) -> bool:
    """Whether these are the shapes of the rows and the columns of a criss-cross."""
    if [len(shape) for shape in shapes] != [4, 4]:
        return False
    n, h, w, _ = shapes[0]
    return shapes == [(n, h, w, w), (n, h, w, h)] and (h, w) != (1, 1)


def _sample(part: Any, sample: int) -> Any:
    """The map, or the pair, of one sample."""
    if isinstance(part, tuple):
        return tuple(_sample(p, sample) for p in part)
    count = part.shape[0] if part.ndim else 0
    if not 0 <= sample < count:
        raise refuse(f"a sample below {count}", sample)
    return part[sample]


def _check(kind: str, part: Any) -> None:
    """Refuse a map that ``kind`` cannot be."""
    if isinstance(part, tuple) != (kind == "criss_cross"):
        raise refuse("a pair of maps, (n, h, w, w) and (n, h, w, h), for the kind criss_cross alone", f"{kind!r}")
    if kind != "criss_cross" and part.ndim + 1 not in RANKS[kind]:
        ranks = " or ".join(map(str, RANKS[kind]))
        raise refuse(f"a map of rank {ranks} for the kind {kind}", f"rank {part.ndim + 1}")
    last = {"glimpse": 4, "grid": 2}
    if kind in last and part.shape[-1] != last[kind]:
        raise refuse(f"a map with {last[kind]} numbers on the last axis for the kind {kind}", f"{part.shape[-1]}")


def _picture(image: np.ndarray, sample: int) -> np.ndarray:
    """The image as matplotlib takes it: (H, W) or (H, W, 3)."""
    image = image[sample] if image.ndim == 4 else image
    image = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    if image.ndim != 2 and (image.ndim != 3 or image.shape[-1] not in (3, 4)):
        raise refuse("an image (H, W), (H, W, 1) or (H, W, 3)", f"shape {image.shape}")
    return image


def plot_criss_cross(
    image: ArrayLike,
    row: ArrayLike,
    column: ArrayLike,
    position: tuple[int, int],
    ax: Any = None,
) -> Any:
    """Draw what one position gives to its row and column over the image, and mark the position.

    Args:
        image: (H, W) or (H, W, 3), of any size; the h x w positions are stretched over it.
        row, column: (w,) and (h,): what ``criss_cross_attention`` gives as ``row[n, y, x]`` and ``column[n, y, x]``.
        position: (y, x), below (h, w).
        ax: matplotlib axes; the current ones when None.

    Returns:
        The axes.

    Raises:
        ValueError: if ``position`` lies outside of row and column.
    """
    from matplotlib import pyplot as plt

    row, column = np.asarray(row), np.asarray(column)
    h, w = len(column), len(row)
    y, x = position
    if not (0 <= y < h and 0 <= x < w):
        raise ValueError(f"plot_criss_cross: expected a position within {(h, w)}, got {position}")
    ax = plt.gca() if ax is None else ax
    cross(ax, np.asarray(image), row, column, position)
    return ax
