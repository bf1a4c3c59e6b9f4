"""Checkpoints in several files, in folders, and on the Hugging Face Hub."""

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from convert import CheckpointError, read
from convert.checkpoint import scan
from tests.helpers.handmade import STATE, bits, mapping, nothing_runs, refused, tensor, write_zip

ARRAYS = {f"module.layer{i}.weight": np.full((2, i + 1), i, "float32") for i in range(5)}


def sharded(folder: Path, name: str = "model.safetensors", **changes: str) -> Path:
    """Three files and their index."""
    folder.mkdir(exist_ok=True)
    stem, suffix = name.split(".", 1)
    files = {key: f"{stem}-0000{i % 3 + 1}-of-00003.{suffix}" for i, key in enumerate(ARRAYS)}
    for file in set(files.values()):
        part = {key: ARRAYS[key] for key in ARRAYS if files[key] == file}
        if suffix == "safetensors":
            safetensors.numpy.save_file(part, folder / file)
        else:
            torch = pytest.importorskip("torch")
            torch.save({key: torch.tensor(x) for key, x in part.items()}, folder / file)
    index = folder / f"{name}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files | changes}))
    return index


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_checkpoint_in_several_files_is_read_as_one(tmp_path, name):
    index = sharded(tmp_path / "x", name)
    for path in (index, str(index), tmp_path / "x"):
        with nothing_runs():
            got = read(path)
        assert got.prefix == "module."
        assert {f"module.{key}": bits(x) for key, x in got.arrays.items()} == {k: bits(x) for k, x in ARRAYS.items()}
        assert got.format.startswith("3 files")
    assert list(read(index, prefix="layer1").arrays) == ["weight"]
    assert bits(scan(index).arrays["layer2.weight"].make()) == bits(ARRAYS["module.layer2.weight"])


def test_an_index_that_does_not_fit_its_files_is_refused(tmp_path):
    refused(sharded(tmp_path / "a", more="model-00001-of-00003.safetensors"), "did not find more")
    refused(sharded(tmp_path / "b", more="gone.safetensors"), "1 are missing: gone.safetensors")
    for name in ("../a/model-00001-of-00003.safetensors", "/etc/passwd", "", "..", "a\\b"):
        refused(sharded(tmp_path / "c", more=name), "names of files beside the index")
    for content in (b"", b"[]", b"{}", b'{"weight_map": {}}', b'{"weight_map": {"a": 1}}', b"[" * 100_000, b"\xff"):
        (tmp_path / "x.index.json").write_bytes(content)
        refused(tmp_path / "x.index.json", "expected")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], ["none in it"]),
        (["readme.md"], ["none in it"]),
        (["a.pth", "b.pth"], ["several: a.pth, b.pth"]),
        ([".metadata", "__0_0.distcp"], ["torch.distributed in pieces", "dcp_to_torch_save"]),
        (["zero_to_fp32.py", "latest"], ["DeepSpeed", "zero_to_fp32.py"]),
        (["global_step100"], ["DeepSpeed"]),
        (["_CHECKPOINT_METADATA"], ["damaged"]),
    ],
)
def test_other_folders_are_named_with_what_to_do(tmp_path, files, words):
    for file in files:
        (tmp_path / file).write_bytes(b"")
    refused(tmp_path, "expected", *words)


def test_the_one_checkpoint_of_a_folder_is_read(tmp_path):
    write_zip(tmp_path / "net.pth", STATE)
    (tmp_path / "config.json").write_text("{}")
    assert list(read(tmp_path).arrays) == ["w", "b"]
    write_zip(tmp_path / "pytorch_model.bin", mapping(other=tensor()))
    assert list(read(tmp_path).arrays) == ["other"]
    write_zip(tmp_path / "x.distcp", STATE)
    refused(tmp_path / "x.distcp", "a part of a checkpoint of torch.distributed")


@pytest.mark.parametrize("path", [None, 3, b"x.pth", ["x.pth"], "x\0.pth", {"w": 1}])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(CheckpointError, match="expected the path of a checkpoint file"):
        read(path)


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hugging Face Hub as a download needs."""

    folder: Path
    asked: list[str]

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        self.asked.append(self.path)
        owner, _, rest = self.path.lstrip("/").partition("/resolve/")
        file = self.folder / owner / rest.partition("/")[2]
        found = file.is_file()
        content = file.read_bytes() if found else b""
        self.send_response(200 if found else 404)
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{len(content)}-{file.name}"')
        if not found:
            self.send_header("X-Error-Code", "EntryNotFound" if file.parent.is_dir() else "RepoNotFound")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


SCRIPT = """
import sys, convert
for address in sys.argv[1:]:
    try:
        print(address, len(convert.load(address)))
    except convert.CheckpointError as error:
        print(error)
"""


@pytest.fixture
def hub(tmp_path):
    """Loads addresses in a process of its own, from a server on this machine, or from the cache alone."""
    pytest.importorskip("huggingface_hub")
    Hub.folder, Hub.asked = tmp_path / "server", []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def loaded(*addresses, offline=False):
        more = {"HF_HUB_OFFLINE": "1"} if offline else {}
        command = [sys.executable, "-c", SCRIPT, *addresses]
        done = subprocess.run(command, env=environment | more, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    yield loaded
    server.shutdown()
    server.server_close()


def test_the_hub_and_its_cache(tmp_path, hub):
    (tmp_path / "server" / "someone").mkdir(parents=True)
    sharded(tmp_path / "server" / "someone" / "large")
    small = tmp_path / "server" / "someone" / "small"
    (small / "sub").mkdir(parents=True)
    write_zip(small / "pytorch_model.bin", STATE)
    write_zip(small / "sub" / "net.pth", mapping(x=tensor(), y=tensor(), z=tensor()))
    addresses = [
        "hf://someone/large",
        "hf://someone/small",
        "hf://someone/small/sub/net.pth",
        "hf://someone/small@main",
    ]
    expected = [f"{address} {count}" for address, count in zip(addresses, (5, 2, 3, 2), strict=True)]
    assert hub(*addresses) == expected
    asked = len(Hub.asked)
    assert hub(*addresses, "hf://someone/other", offline=True) == [
        *expected,
        "hf://someone/other: expected model.safetensors or model.safetensors.index.json or "
        "diffusion_pytorch_model.safetensors in someone/other, found no such file in the local cache, and there is no "
        "connection to the Hub",
    ]
    assert len(Hub.asked) == asked
    gone, absent, odd = hub("hf://someone/small/gone.pth", "hf://no/such", "hf://justaname")
    assert gone.endswith("expected gone.pth in someone/small, found no such file there")
    assert absent.startswith("hf://no/such: expected a file that can be downloaded")
    assert odd.endswith("expected an address such as hf://owner/name or hf://owner/name/model.safetensors")


def test_the_hub_needs_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"hf:// addresses need huggingface_hub: pip install"):
        read("hf://someone/small")
