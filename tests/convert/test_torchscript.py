"""TorchScript archives: the parameters lie in two pickles, and no code is run."""

import pickletools

import numpy as np
import pytest

from convert.files.source import Source
from convert.files.torch_file import read_zip
from convert.files.zip_archive import read_archive
from tests.helpers import checkpoint_bytes as files


def test_both_pickles_and_their_storages_are_read(tmp_path):
    constants = {
        "constants.pkl": files.pickled(b"(" + files.tensor() + b"t"),
        "constants/0": files.NUMBERS[::-1].tobytes(),
    }
    data = {"data.pkl": files.pickled(files.mapping(files.state())), **files.data_entries()}
    (tmp_path / "x").write_bytes(files.zip_bytes({**data, **constants, "code/__torch__.py": b"import os"}))
    file = read_zip(Source(tmp_path / "x"))
    assert file.format == file.constants.format == "TorchScript archive"
    np.testing.assert_array_equal(file.arrays(file.tree)["conv.weight"], files.NUMBERS.reshape(3, 4))
    np.testing.assert_array_equal(file.lazy(file.tree["norm.weight"]).make(), files.HALVES)
    (constant,) = file.constants.tree
    np.testing.assert_array_equal(file.constants.lazy(constant).make(), files.NUMBERS[::-1].reshape(3, 4))
    assert file.constants.constants is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["script", "trace", "freeze"])
def test_what_torch_writes_has_the_entries_that_are_read(tmp_path, kind):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()).eval()
    script = torch.jit.trace(net, torch.ones(1, 3)) if kind == "trace" else torch.jit.script(net)
    (torch.jit.freeze(script) if kind == "freeze" else script).save(str(tmp_path / "x"))
    entries = read_archive(Source(tmp_path / "x"))
    folder = "constants" if kind == "freeze" else "data"
    weight = net[0].weight.detach().numpy().tobytes()
    stored = {name: entry.read(0, entry.size).tobytes() for name, entry in entries.items() if f"/{folder}/" in name}
    assert weight in stored.values()
    for name in ("data.pkl", "constants.pkl"):
        opcodes = list(
            pickletools.genops(next(entry for key, entry in entries.items() if key.endswith(f"/{name}")).stream())
        )
        assert opcodes[-1][0].name == "STOP"


@pytest.mark.filterwarnings("ignore")
def test_programs_and_packages_of_torch_are_named(tmp_path):
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("torch.package")
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(2, 2),))
    torch.export.save(program, tmp_path / "x.pt2")
    with package.PackageExporter(tmp_path / "y.pt") as exporter:
        exporter.extern("torch.**")
        exporter.save_pickle("model", "model.pkl", torch.nn.Linear(2, 2))
    for name, kind in (("x.pt2", "a program of torch.export"), ("y.pt", "an archive of torch.package")):
        with pytest.raises(ValueError, match=f"got {kind}; save model.state_dict"):
            read_zip(Source(tmp_path / name))
