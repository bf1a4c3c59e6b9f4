"""Saves and restores a training state with Orbax: a checkpoint is whole, or it is not there.

Each checkpoint is a folder whose name is the step. It is written under another name and renamed when it is whole, so
that a process which is killed at any moment leaves the checkpoints that were there before.
"""

import os
import re
import secrets
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
from flax import traverse_util

from flax_attn.layers.module import require

State = TypeVar("State")
NAME = re.compile(r"(\d+)(?:-(\d+))?")
"""The name of a checkpoint: its step and, if the step was saved before, the number of the repetition."""
UNFINISHED = ".unfinished-"
LOCKS: Any = import_module("fcntl") if os.name == "posix" else None


def save(folder: str | os.PathLike, state: Any, keep: int = 3) -> Path:
    """Save a state as the newest checkpoint in ``folder``, and remove all but the ``keep`` newest.

    One process saves at a time; another one waits. A step can be saved again; the new checkpoint is then the newer.

    Args:
        folder: where the checkpoints of one run are; made if it is not there.
        state: a ``TrainState``, or another pytree of arrays with an attribute ``step``.
        keep: how many checkpoints to keep.

    Returns:
        The folder of the new checkpoint, such as folder/120 for step 120.

    Raises:
        ValueError: if ``keep`` is below 1, a leaf is no array, or ``folder`` has a later step already.
        OSError: if the folder cannot be written, or the disk is full. The checkpoints that were there stay.
    """
    require(keep >= 1, f"save: expected keep >= 1, got {keep}")
    step, place = int(state.step), Path(folder).absolute()
    arrays = {path: _saved(path, leaf) for path, leaf in _leaves(state).items()}
    place.mkdir(parents=True, exist_ok=True)
    with _alone(place):
        for rest in place.glob(f"{UNFINISHED}*"):
            shutil.rmtree(rest, ignore_errors=True)
        there = checkpoints(place)
        newest, again = _number(there[-1]) if there else (-1, 0)
        require(
            step >= newest,
            f"save: expected a step of at least {newest}, the newest in {place}, got {step}; save to another folder",
        )
        target = place / (str(step) if step > newest else f"{step}-{again + 1}")
        _write(target, {path: array for path, array in arrays.items() if array.size})
        for old in checkpoints(place)[:-keep]:
            _remove(old)
    return target


def restore(folder: str | os.PathLike, like: State) -> State:
    """The newest good checkpoint in ``folder``. One that cannot be read is left out with a warning.

    Args:
        folder: what was given to ``save``.
        like: a state of the same form, such as a new one. Its numbers do not matter. The arrays that are returned have
            its shapes, dtypes and devices.

    Returns:
        A state, to the bit as it was saved.

    Raises:
        FileNotFoundError: if ``folder`` has no checkpoint.
        ValueError: if the checkpoint has other leaves, shapes or dtypes than ``like``; the message lists them. If a
            leaf of ``like`` is no array.
        OSError: if no checkpoint can be read.
    """
    found = checkpoints(folder)
    if not found:
        raise FileNotFoundError(f"{folder}: expected a checkpoint, such as the folder 120, found none; call save first")
    leaves, failures = _leaves(like), []
    for name, leaf in leaves.items():
        _require_array("restore", name, leaf)
    for path in reversed(found):
        try:
            arrays = _read(path)
        except Exception as error:
            failures.append(f"{path} could not be read: {str(error).partition(chr(10))[0]}")
            continue
        for failure in failures:
            warnings.warn(f"{failure}; an older checkpoint is used, {path}", stacklevel=2)
        _check(path, arrays, leaves)
        restored = [_restored(arrays.get(name), leaf) for name, leaf in leaves.items()]
        return jax.tree.unflatten(jax.tree.structure(like), restored)
    raise OSError("; ".join(failures))


def checkpoints(folder: str | os.PathLike) -> list[Path]:
    """The folders of the checkpoints in ``folder``, oldest first. What was not finished is not among them."""
    place = Path(folder).absolute()
    entries = place.iterdir() if place.is_dir() else ()
    return sorted((path for path in entries if NAME.fullmatch(path.name) and path.is_dir()), key=_number)


def _number(path: Path) -> tuple[int, int]:
    step, _, again = path.name.partition("-")
    return int(step), int(again or 0)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Wait until no other process saves to ``place``. A lock ends with its process."""
    with open(place / ".lock", "ab") as file:
        if LOCKS is not None:
            LOCKS.flock(file, LOCKS.LOCK_EX)
        yield


def _write(target: Path, arrays: dict[tuple[str, ...], np.ndarray]) -> None:
    unfinished = target.with_name(f"{UNFINISHED}{secrets.token_hex(8)}")
    try:
        try:
            with orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
                checkpointer.save(unfinished / "state", traverse_util.unflatten_dict(arrays))
        except Exception as error:
            raise OSError(f"{target}: could not be written, and is not there; Orbax says: {error}") from error
        for name, _, files in os.walk(unfinished):
            for file in (*files, ""):
                _sync(Path(name, file))
        os.rename(unfinished, target)
        _sync(target.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a checkpoint. It gets another name first, so that none is ever there in part."""
    unfinished = path.with_name(f"{UNFINISHED}{secrets.token_hex(8)}")
    os.rename(path, unfinished)
    shutil.rmtree(unfinished, ignore_errors=True)


def _read(path: Path) -> dict[tuple[str, ...], np.ndarray]:
    with orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(path / "state").item_metadata.tree
        as_numpy = jax.tree.map(lambda _: orbax.checkpoint.RestoreArgs(restore_type=np.ndarray), tree)
        return traverse_util.flatten_dict(checkpointer.restore(path / "state", restore_args=as_numpy))


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _leaves(state: Any) -> dict[tuple[str, ...], Any]:
    """The leaves of a state by their paths. The path of a random key ends in the name of its generator."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        names = tuple(jax.tree_util.keystr((part,), simple=True) for part in path)
        found[(*names, str(jax.random.key_impl(leaf))) if _is_key(leaf) else names] = leaf
    return found


def _require_array(who: str, path: tuple[str, ...], leaf: Any) -> None:
    known = isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float)
    require(known, f"{who}: expected a state of arrays, got {type(leaf).__name__} at {'.'.join(path)}")


def _saved(path: tuple[str, ...], leaf: Any) -> np.ndarray:
    _require_array("save", path, leaf)
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _restored(array: np.ndarray | None, leaf: Any) -> Any:
    """An array of a checkpoint, as what ``leaf`` is. Empty arrays are not stored."""
    if array is None or not isinstance(leaf, jax.Array):
        return leaf if array is None else type(leaf)(array) if isinstance(leaf, bool | int | float) else array
    copy = jnp.array(array)
    value = jax.random.wrap_key_data(copy, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else copy
    return jax.device_put(value, leaf.sharding)


def _check(path: Path, arrays: dict[tuple[str, ...], np.ndarray], leaves: dict[tuple[str, ...], Any]) -> None:
    """ValueError that lists how a checkpoint differs from the leaves that are expected."""
    expected = {name: _shape(leaf) for name, leaf in leaves.items()}
    wanted = {name: f"{leaf.dtype} {leaf.shape}" for name, leaf in expected.items() if leaf.size}
    got = {name: f"{array.dtype} {array.shape}" for name, array in arrays.items()}
    differences = [
        f"{'.'.join(name)}: expected {wanted.get(name, 'nothing')}, got {got.get(name, 'nothing')}"
        for name in sorted(wanted.keys() | got.keys())
        if wanted.get(name) != got.get(name)
    ]
    require(
        not differences,
        f"{path}: expected a checkpoint of the form of the given state, got one with {len(differences)} other leaves; "
        "create the state with the optimizer and the options that the run had\n" + "\n".join(differences),
    )


def _shape(leaf: Any) -> Any:
    """Shape and dtype of what is saved of a leaf."""
    if isinstance(leaf, jax.Array):
        return (
            jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        )
    return np.asarray(leaf)
