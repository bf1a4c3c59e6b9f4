"""What ``plot_attention`` draws on one pair of matplotlib axes, for each kind of map. Maps are those of one sample."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

POINTS = 32
"""How many points of a grid are drawn along one side, at most."""

Size = tuple[int, int]


class Options(NamedTuple):
    """The arguments of ``plot_attention`` that only some kinds read."""

    position: Size | int | None
    size: Size | None
    align_corners: bool


def refuse(expected: str, got: object) -> ValueError:
    """The error to raise."""
    return ValueError(f"plot_attention: expected {expected}, got {got}")


def overlay(ax: Any, image: np.ndarray, colours: np.ndarray) -> None:
    """Draw ``colours`` (h, w) over the image, which is stretched to the same size; nothing where they are NaN."""
    h, w = colours.shape
    extent = (-0.5, w - 0.5, h - 0.5, -0.5)
    ax.imshow(image, cmap="gray", extent=extent)
    ax.imshow(colours, cmap="inferno", alpha=0.75, extent=extent)
    ax.set_axis_off()


def mark(ax: Any, y: float | int, x: float | int) -> None:
    """Draw a mark at the query."""
    ax.plot(x, y, "x", color="cyan", markersize=10, markeredgewidth=2)


def chosen(position: Any, size: Size) -> Size:
    """The query: ``position``, or the middle when None. Raises ValueError for one outside of ``size``."""
    if isinstance(position, int):
        raise refuse("a position (y, x)", position)
    y, x = (size[0] // 2, size[1] // 2) if position is None else position
    if not (0 <= y < size[0] and 0 <= x < size[1]):
        raise refuse(f"a position within {size}", position)
    return y, x


def pixels(count: int, image: np.ndarray, size: Size | None, what: str) -> Size:
    """(h, w) of ``count`` pixels: ``size``, or the numbers whose product is ``count`` in the image's proportions."""
    if size is not None:
        if math.prod(size) != count:
            raise refuse(f"a size of {count} {what}", size)
        return size
    ideal = math.sqrt(count * image.shape[0] / image.shape[1])
    h = min((h for h in range(1, count + 1) if count % h == 0), key=lambda h: abs(h - ideal))
    if abs(h - ideal) >= 1:
        raise refuse(f"{what} that are pixels in the proportions of the image, or a size=(h, w)", f"{count} {what}")
    return h, count // h


def spatial(ax: Any, image: np.ndarray, gate: np.ndarray, options: Options) -> None:
    """A gate (h, w, c), the mean over channels."""
    overlay(ax, image, gate.mean(-1))


def attention(ax: Any, image: np.ndarray, weights: np.ndarray, options: Options) -> None:
    """The weights (q, k) or (heads, q, k) of one query for the pixels."""
    weights = weights.mean(0) if weights.ndim == 3 else weights
    queries, keys = weights.shape
    h, w = pixels(keys, image, options.size, "keys")
    if isinstance(options.position, int):
        if not 0 <= options.position < queries:
            raise refuse(f"a position below the {queries} queries", options.position)
        overlay(ax, image, weights[options.position].reshape(h, w))
        return
    rows, columns = (h, w) if queries == keys else pixels(queries, image, None, "queries")
    y, x = chosen(options.position, (rows, columns))
    overlay(ax, image, weights[y * columns + x].reshape(h, w))
    mark(ax, (y + 0.5) * h / rows - 0.5, (x + 0.5) * w / columns - 0.5)


def criss_cross(ax: Any, image: np.ndarray, pair: Sequence[np.ndarray], options: Options) -> None:
    """The weights of one query for its row and its column, from all rows (h, w, w) and all columns (h, w, h)."""
    rows, columns = pair
    y, x = chosen(options.position, rows.shape[:2])
    cross(ax, image, rows[y, x], columns[y, x], (y, x))


def cross(ax: Any, image: np.ndarray, row: np.ndarray, column: np.ndarray, position: Size) -> None:
    """The weights of one query for its row (w,) and its column (h,)."""
    y, x = position
    colours = np.full((len(column), len(row)), np.nan)
    colours[:, x] = column
    colours[y] = row
    overlay(ax, image, colours)
    mark(ax, y, x)


def channels(ax: Any, image: np.ndarray, gate: np.ndarray, options: Options) -> None:
    """A gate (..., c) of the channels: bars, those of several branches on top of each other."""
    branches = gate.reshape(-1, gate.shape[-1])
    below = np.zeros(gate.shape[-1])
    for branch in branches:
        ax.bar(np.arange(len(branch)), branch, bottom=below, width=1.0)
        below = below + branch
    ax.set_xlabel("channel")


def glimpse(ax: Any, image: np.ndarray, boxes: np.ndarray, options: Options) -> None:
    """The boxes (k, 4) of one glimpse or (t, k, 4) of several, and the path between the centres of the first boxes."""
    from matplotlib.patches import Rectangle

    steps = boxes.reshape(-1, *boxes.shape[-2:])
    ax.imshow(image, cmap="gray")
    for step, patches in enumerate(steps):
        for left, top, right, bottom in patches:
            corner, colour = (left - 0.5, top - 0.5), f"C{step % 10}"
            ax.add_patch(Rectangle(corner, right - left, bottom - top, fill=False, edgecolor=colour))
    x, y = ((steps[:, 0, i] + steps[:, 0, i + 2] - 1) / 2 for i in range(2))
    ax.plot(x, y, "o-", color="cyan", markersize=4)
    ax.set_axis_off()


def grid(ax: Any, image: np.ndarray, places: np.ndarray, options: Options) -> None:
    """The places (h, w, 2), (x, y) from -1 to 1, as points, and the border around them."""
    height, width = image.shape[:2]
    sides = np.array([width, height])
    at = (places + 1) / 2 * (sides - 1) if options.align_corners else ((places + 1) * sides - 1) / 2
    ax.imshow(image, cmap="gray")
    border = np.concatenate([at[0], at[1:, -1], at[-1, -2::-1], at[-2::-1, 0]])
    ax.plot(border[:, 0], border[:, 1], color="cyan")
    step = max(1, math.ceil(max(at.shape[:2]) / POINTS))
    points = at[::step, ::step].reshape(-1, 2)
    ax.scatter(points[:, 0], points[:, 1], s=4, color="orange")
    ax.set_axis_off()


DRAW = {draw.__name__: draw for draw in (spatial, attention, criss_cross, channels, glimpse, grid)}
"""The function of each kind."""

RANKS = {"spatial": (4,), "attention": (3, 4), "channels": (2, 3, 4), "glimpse": (3, 4), "grid": (4,)}
"""The ranks that a map of each kind may have, with the axis of the samples."""
