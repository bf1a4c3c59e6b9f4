"""A checkpoint is restored to the bit, in this process and in another, and it is whole or not there."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct

from flax_attn.training import TrainState, freeze, restore, save, train_step
from flax_attn.training.checkpoints import checkpoints
from tests.training.networks import Small, bits, data, loss, new_state, variables

PRELUDE = """
import json, os, random, signal, sys, time, warnings
import jax
jax.config.update("jax_enable_x64", True)
from flax_attn.training import restore, save
from tests.training import test_checkpoints as here

folder = sys.argv[1]
"""

GO_ON = """
print(json.dumps(here.three_steps(restore(folder, here.fresh()))[1]))
"""

KILL = """
def save_on(place):
    for number in range(1, 100_000):
        save(place, here.filled(number), keep=2)

random.seed(0)
committed = []
for number in range(int(sys.argv[2])):
    place = os.path.join(folder, str(number))
    process = os.fork()
    if process == 0:
        save_on(place)
    while not os.path.isdir(os.path.join(place, "3")):
        time.sleep(0.001)
    time.sleep(random.random() * 0.3)
    committed.append(max(int(name) for name in os.listdir(place) if name.isdigit()))
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
print(json.dumps(committed))
"""


def optimizer():
    return optax.chain(optax.clip(1.0), optax.amsgrad(optax.cosine_decay_schedule(0.1, 50)))


def fresh():
    return new_state(Small(p=0.5), optimizer(), rng=11, ema=True)


@cache
def step():
    return train_step(Small(p=0.5), loss, optimizer(), ema_decay=0.9)


def three_steps(state):
    """The state after three more steps, and its bits and losses as text."""
    losses = []
    for _ in range(3):
        state, metrics = step()(state, data(seed=int(state.step)))
        losses.append(float(metrics["loss"]).hex())
    return state, [losses, {path: [str(dtype), shape, raw.hex()] for path, (dtype, shape, raw) in bits(state).items()}]


def filled(number):
    """A state whose numbers are all its step."""
    arrays = {str(i): jnp.full(2_000, number, jnp.float32) for i in range(20)}
    return TrainState(jnp.int32(number), arrays, {}, (), jax.random.key(number))


def run(script, *arguments):
    """What a script prints in another process."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", PRELUDE + script, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": root}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_resume_in_another_process_is_exact(tmp_path):
    middle, _ = three_steps(fresh())
    assert save(tmp_path, middle) == tmp_path / "3"
    found = run(GO_ON, tmp_path)
    _, expected = three_steps(middle)
    assert found == json.loads(json.dumps(expected))


def test_killed_at_any_moment(tmp_path):
    unfinished = 0
    for number, committed in enumerate(run(KILL, tmp_path, 6)):
        folder = tmp_path / str(number)
        state = restore(folder, filled(0))
        assert bits(state) == bits(filled(int(state.step)))
        assert int(state.step) == int(checkpoints(folder)[-1].name) >= committed >= 3
        unfinished += len(list(folder.glob(".unfinished-*")))
        save(folder, filled(100_000), keep=1)
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "100000"]
    assert unfinished > 0


def test_ended_before_the_last_step(tmp_path, monkeypatch):
    """Only the renaming of a whole folder makes a checkpoint, and also ends an old one."""
    save(tmp_path, filled(1))
    seen, rename = [], os.rename

    def killed(source, target):
        if Path(target) != tmp_path / "2":
            return rename(source, target)
        seen.append([path.name for path in checkpoints(tmp_path)])
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", killed)
        patch.setattr("shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(InterruptedError):
            save(tmp_path, filled(2))
    assert seen == [["1"]]
    assert bits(restore(tmp_path, filled(0))) == bits(filled(1))
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda path, **_: seen.append([path.name, *map(str, checkpoints(tmp_path))]))
        save(tmp_path, filled(3), keep=1)
    assert all(".unfinished-" in names[0] for names in seen[1:])
    assert seen[-1][1:] == [str(tmp_path / "3")]


class Odd(struct.PyTreeNode):
    """Leaves of many kinds."""

    step: object
    leaves: object


def odd(number):
    key = jax.random.key(number, impl="rbg")
    leaves = {
        "bfloat16": jnp.array([1.5, jnp.nan, -0.0, number], jnp.bfloat16),
        "empty": jnp.zeros((0, 3)),
        "scalar": jnp.array(number > 3),
        "numpy": np.arange(4.0) * number,
        "python": (number, 0.5 * number, None),
        "nested": [optax.EmptyState(), optax.MaskedNode(), {"a/b": jnp.ones(2) * number, "a": {"b": jnp.zeros(2)}}],
        "key": key,
        "keys": jax.random.split(jax.random.key(number), 3),
    }
    return Odd(number, leaves)


def test_leaves_of_all_kinds(tmp_path):
    save(tmp_path, odd(7))
    got = restore(tmp_path, odd(1))
    assert bits(got) == bits(odd(7))
    assert [type(leaf) for leaf in jax.tree.leaves(got)] == [type(leaf) for leaf in jax.tree.leaves(odd(1))]
    assert got.leaves["key"].dtype.name == "key<rbg>"


def test_the_state_of_freeze(tmp_path):
    params = variables(Small())["params"]
    state = new_state(Small(), freeze(optimizer(), params, ["stem"]))
    save(tmp_path, state)
    assert bits(restore(tmp_path, state)) == bits(state)
    with pytest.raises(ValueError, match=r"stem\.conv\.kernel: expected float64 \(3, 3, 3, 4\), got nothing"):
        restore(tmp_path, new_state(Small(), optimizer()))


def test_the_newest_are_kept(tmp_path):
    for number in (1, 2, 10, 10, 11):
        save(tmp_path, filled(number), keep=3)
    assert [path.name for path in checkpoints(tmp_path)] == ["10", "10-1", "11"]
    assert int(restore(tmp_path, filled(0)).step) == 11


def test_a_step_that_is_saved_again_is_the_newer(tmp_path):
    save(tmp_path, filled(3))
    again = filled(3).replace(params=filled(4).params)
    assert save(tmp_path, again, keep=1) == tmp_path / "3-1"
    assert bits(restore(tmp_path, filled(0))) == bits(again)
    assert len(checkpoints(tmp_path)) == 1


def test_what_is_not_whole_is_left_out(tmp_path):
    save(tmp_path, filled(3))
    for name in (".unfinished-00", "5.orbax-checkpoint-tmp-1", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").write_text("a file")
    assert int(restore(tmp_path, filled(0)).step) == 3
    save(tmp_path, filled(4))
    assert not (tmp_path / ".unfinished-00").exists()
    assert (tmp_path / "notes").exists()


def test_damaged_checkpoints(tmp_path):
    save(tmp_path, filled(3))
    for path in save(tmp_path, filled(4)).rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)
    with pytest.warns(UserWarning, match=r"4 could not be read: .* an older checkpoint is used, .*3"):
        assert int(restore(tmp_path, filled(0)).step) == 3
    (tmp_path / "3" / "state" / "_METADATA").unlink()
    (tmp_path / "3" / "state" / "manifest.ocdbt").unlink()
    with pytest.raises(OSError, match=r"4 could not be read: .*3 could not be read"):
        restore(tmp_path, filled(0))


def test_another_form_is_one_error(tmp_path):
    save(tmp_path, new_state(Small(), optax.sgd(0.1)))
    with pytest.raises(ValueError, match="0: expected a checkpoint of the form of the given state") as failure:
        restore(tmp_path, new_state(Small(), optax.adam(0.1), np.float32))
    lines = str(failure.value).splitlines()
    assert "opt_state.0.mu.fc.bias: expected float32 (3,), got nothing" in lines
    assert "params.fc.kernel: expected float32 (5, 3), got float64 (5, 3)" in lines
    assert len(lines) == 1 + 10 + 4 + 21


def test_what_cannot_be_saved(tmp_path):
    save(tmp_path, filled(5))
    with pytest.raises(ValueError, match=r"expected a step of at least 5, the newest in .*, got 4; save to another"):
        save(tmp_path, filled(4))
    with pytest.raises(ValueError, match="expected keep >= 1, got 0"):
        save(tmp_path, filled(6), keep=0)
    with pytest.raises(ValueError, match=r"save: expected a state of arrays, got str at params\.a"):
        save(tmp_path, filled(6).replace(params={"a": "text"}))
    with pytest.raises(ValueError, match=r"restore: expected a state of arrays, got ShapeDtypeStruct at step"):
        restore(tmp_path, jax.eval_shape(lambda: filled(0)))
    with pytest.raises(FileNotFoundError, match="expected a checkpoint, such as the folder 120, found none"):
        restore(tmp_path / "nothing", filled(0))
    assert [path.name for path in checkpoints(tmp_path)] == ["5"]


def test_a_full_disk(tmp_path, monkeypatch):
    """Orbax then raises a ValueError, with part of its files written."""
    save(tmp_path, filled(5))

    def full(self, path, tree):
        path.mkdir(parents=True)
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("orbax.checkpoint.PyTreeCheckpointer.save", full)
        with pytest.raises(OSError, match=r"6: could not be written, and is not there; Orbax says: .*No space left"):
            save(tmp_path, filled(6), keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "5"]
    assert bits(restore(tmp_path, filled(0))) == bits(filled(5))


def test_a_restored_state_can_be_donated(tmp_path):
    save(tmp_path, fresh())
    restored = restore(tmp_path, fresh())
    assert bits(three_steps(restored)[0]) == bits(three_steps(fresh())[0])
