"""Converting a file holds one tensor at a time, beside the file that is mapped."""

import tracemalloc

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from convert import from_torch, load, plan, restore, save
from convert.__main__ import main
from convert.checkpoint import scan
from convert.dialects import find_dialect
from convert.tensors import Lazy
from flax_attn import layers
from flax_attn.catalog.entry import Entry, plain

WIDTH, LAYERS = 2000, 10
LARGEST = 4 * WIDTH**2  # 16 MB; the model is ten times that


def wide() -> layers.Sequential:
    """A model of 160 MB."""
    return layers.Sequential([layers.Linear(WIDTH, WIDTH) for _ in range(LAYERS)])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("wide") / "wide.safetensors"
    rng = np.random.default_rng(0)
    mapping = plan(wide(), jax.ShapeDtypeStruct((1, WIDTH), "float32"))
    safetensors.numpy.save_file({k: rng.random(s, np.float32) for k, s in mapping.shapes.items()}, path)
    return path, mapping


def peak(function):
    """The most that ``function`` holds at a time; numpy tells tracemalloc of its arrays."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_converting_holds_one_tensor_at_a_time(file, tmp_path):
    path, mapping = file
    out = tmp_path / "out"
    assert peak(lambda: save(out, mapping.from_torch(load(path)))) > LAYERS * LARGEST
    whole = out.read_bytes()
    assert peak(lambda: save(out, traverse_util.unflatten_dict(mapping.leaves(scan(path).arrays)))) < 1.2 * LARGEST
    assert out.read_bytes() == whole
    example = jax.ShapeDtypeStruct((1, WIDTH), "float32")
    assert peak(lambda: from_torch(wide(), scan(path), example)) < (LAYERS + 1.2) * LARGEST
    assert peak(lambda: load(path)) < (LAYERS + 0.2) * LARGEST
    kernel = restore(out)["params"]["3"]["kernel"]
    np.testing.assert_array_equal(kernel.T, load(path)["3.weight"])


def test_a_leaf_tells_its_dtype_without_being_made():
    torch = pytest.importorskip("torch")
    mapping = plan(layers.Linear(3, 2), jax.ShapeDtypeStruct((1, 3), "float32"))
    for dtype in ("float32", "bfloat16"):
        state = {k: torch.zeros(s, dtype=getattr(torch, dtype)) for k, s in mapping.shapes.items()}
        for leaf in mapping.leaves(state).values():
            assert leaf.dtype == leaf.make().dtype == np.dtype(dtype)
            assert leaf.shape == leaf.make().shape


def test_so_does_the_command_line(file, tmp_path, monkeypatch):
    path, _ = file
    entry = Entry(wide, (plain(1, WIDTH),))
    monkeypatch.setattr("flax_attn.catalog.CATALOG", [entry])
    monkeypatch.setattr("convert.variables_file.about", lambda module: {"format": "flax_attn"})
    arguments = ["convert", str(path), "--model", "wide", "--out", str(tmp_path / "out"), "--quiet"]
    assert peak(lambda: main(arguments)) < 1.5 * LARGEST
    assert (tmp_path / "out").stat().st_size > LAYERS * LARGEST


def test_reading_and_writing_a_dialect_hold_one_array_at_a_time():
    def part(number):
        return Lazy((WIDTH, WIDTH), np.dtype("float32"), lambda: np.full((WIDTH, WIDTH), number, np.float32))

    names = [f"model.encoder.layers.{i}.self_attn.{which}_proj.weight" for i in range(4) for which in "qkv"]
    dialect = find_dialect("hf")
    found = []

    def there_and_back():
        entries, problems = dialect.read({name: part(i) for i, name in enumerate(names)})
        assert (len(entries), problems) == (4, [])
        for name, value in dialect.write({key: entry.value for key, entry in entries.items()}).items():
            array = value.make()
            found.append((name, array.shape, int(array[0, 0]), int(array[-1, -1])))
            del array

    joined = 3 * LARGEST
    assert peak(there_and_back) < 2.4 * joined < len(names) * LARGEST
    assert found == [(name, (WIDTH, WIDTH), i, i) for i, name in enumerate(names)]
