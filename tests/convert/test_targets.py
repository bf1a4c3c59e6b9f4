"""Where files are written: what is refused, what stays, and what is left behind."""

import contextlib
import errno
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convert import CheckpointError, demo, load, restore, save, save_torch
from convert.__main__ import main
from convert.tensors import Lazy
from convert.writing.formats import write_msgpack, write_npz, write_orbax
from convert.writing.targets import check_target, new_folder, replaced

VARIABLES = {"params": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}}
WRITERS = {
    "save": save,
    "save_torch": lambda path, variables: save_torch(path, variables["params"]),
    "npz": write_npz,
    "msgpack": write_msgpack,
}
each_writer = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
DIGITS = str(demo.FOLDER / "digits.pth")


def refusal(write, path, variables=VARIABLES):
    """The one sentence with which ``write`` refuses ``path``."""
    with pytest.raises(CheckpointError) as caught:
        write(path, variables)
    assert str(caught.value).startswith(f"{path}: could not be written: ")
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        before = os.getcwd()
        os.chdir(path.parent)
        try:
            server.bind(path.name)
        finally:
            os.chdir(before)


SPECIAL = {"pipe": os.mkfifo, "socket": make_socket, "folder": os.mkdir}


@each_writer
@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_file_is_refused_and_stays(tmp_path, write, kind, linked):
    place = tmp_path / "place.pth"
    SPECIAL[kind](place)
    before = os.lstat(place)
    path = tmp_path / "link.pth" if linked else place
    if linked:
        path.symlink_to(place)
    assert f"expected a file or a new name, got a {kind}" in refusal(write, path)
    assert os.path.samestat(before, os.lstat(place))
    assert len(list(tmp_path.iterdir())) == 1 + linked


@pytest.mark.parametrize("mode", [stat.S_IFCHR, stat.S_IFBLK])
def test_devices_are_refused(tmp_path, monkeypatch, mode):
    (tmp_path / "device").write_bytes(b"old")
    real = os.stat

    def fake(path, *args, **kwargs):
        found = real(path, *args, **kwargs)
        return os.stat_result((mode | 0o666, *found[1:])) if str(path).endswith("device") else found

    monkeypatch.setattr(os, "stat", fake)
    with pytest.raises(CheckpointError, match="got a device"):
        check_target(tmp_path / "device")
    for write in WRITERS.values():
        assert "got a device" in refusal(write, tmp_path / "device")
    monkeypatch.undo()
    assert (tmp_path / "device").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("command", ["convert", "demo", "export"])
def test_commands_refuse_before_they_read(tmp_path, capsys, command):
    os.mkfifo(tmp_path / "pipe.npz")
    source = [] if command == "demo" else [str(tmp_path / "not there")]
    for out, words in {
        tmp_path / "pipe.npz": "got a pipe",
        tmp_path: "got a folder",
        tmp_path / "no" / "x.npz": f"expected an existing folder, there is none at {tmp_path / 'no'}",
    }.items():
        assert main([command, *source, "--out", str(out)]) == 2
        assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pipe.npz"]


@each_writer
def test_a_link_stays_and_the_file_behind_it_is_replaced(tmp_path, write):
    (tmp_path / "real").mkdir()
    target, link, second = tmp_path / "real" / "net.pth", tmp_path / "a", tmp_path / "b"
    link.symlink_to("real/net.pth")
    second.symlink_to("a")
    for old in (None, b"old"):
        if old:
            target.write_bytes(old)
        write(second, VARIABLES)
        assert link.is_symlink()
        assert second.is_symlink()
        assert target.read_bytes()[:2] not in (b"", b"ol")
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "real"]
    assert os.listdir(tmp_path / "real") == ["net.pth"]


def test_links_that_lead_nowhere(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "lost").symlink_to("missing/net.pth")
    refusal(save, tmp_path / "loop")
    assert "there is none at" in refusal(save, tmp_path / "lost")


@each_writer
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes(tmp_path, write, umask):
    path = tmp_path / "net.pth"
    before = os.umask(umask)
    try:
        write(path, VARIABLES)
        (tmp_path / "plain").write_bytes(b"")
        assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
        for mode in (0o600, 0o640, 0o666, 0o755):
            path.chmod(mode)
            write(path, VARIABLES)
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)


def test_the_new_file_is_never_more_open_than_the_old_one(tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(b"")
    path.chmod(0o600)
    with replaced(path) as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600


def test_the_owner_is_kept_where_that_is_allowed(tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(b"")
    try:
        os.chown(path, 12345, 12346)
    except PermissionError:
        pytest.skip("only root may give files away")
    save(path, VARIABLES)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)
    path.chmod(0o640)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "chown", failing(errno.EPERM))
        save(path, VARIABLES)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_read_only_file_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "net.pth"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "got one that is read-only" in refusal(save, path)
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("form", ["path", "relative", "hard link", "symbolic link"])
def test_the_input_is_not_the_output(tmp_path, capsys, form, monkeypatch):
    source, out = tmp_path / "in.npz", tmp_path / "out.npz"
    source.write_bytes(Path(DIGITS).read_bytes())
    monkeypatch.chdir(tmp_path)
    if form == "hard link":
        os.link(source, out)
    elif form == "symbolic link":
        out.symlink_to(source)
    else:
        out = source if form == "path" else Path("in.npz")
    for command in ("convert", "export"):
        assert main([command, str(source), "--out", str(out)]) == 2
        assert "expected another file than those to read" in capsys.readouterr().err
    assert source.read_bytes() == Path(DIGITS).read_bytes()


def test_nor_is_a_part_of_the_input(tmp_path):
    part, index, other = (tmp_path / name for name in ("a.safetensors", "a.safetensors.index.json", "other"))
    for path in (part, index):
        path.write_bytes(b"")
    for source in (tmp_path, index):
        with pytest.raises(CheckpointError, match="expected another file"):
            check_target(part, source)
        check_target(other, source)
    check_target(index, part)
    check_target(part, "hf://owner/name/model.safetensors.index.json")


def failing(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@each_writer
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("function", ["open", "fsync", "replace"])
def test_a_failing_system_leaves_the_old_file(tmp_path, monkeypatch, write, number, function):
    path = tmp_path / "net.pth"
    write(path, VARIABLES)
    old = path.read_bytes()
    monkeypatch.setattr(os, function, failing(number))
    assert os.strerror(number) in refusal(write, path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["net.pth"]
    assert path.read_bytes() == old


@each_writer
def test_a_disk_that_fills_up(tmp_path, write):
    resource = pytest.importorskip("resource")
    path = tmp_path / "net.pth"
    write(path, VARIABLES)
    old = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        sentence = refusal(write, path, {"params": {str(i): np.zeros(1000) for i in range(9)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.strerror(errno.EFBIG) in sentence
    assert os.listdir(tmp_path) == ["net.pth"]
    assert path.read_bytes() == old


@each_writer
def test_long_names(tmp_path, write):
    for length in (170, 200, 255):
        path = tmp_path / ("n" * length)
        write(path, VARIABLES)
        write(path, VARIABLES)
        path.unlink()
    path = tmp_path / ("é" * 127)
    write(path, VARIABLES)
    path.unlink()
    assert os.strerror(errno.ENAMETOOLONG) in refusal(write, tmp_path / ("n" * 256))
    assert os.listdir(tmp_path) == []


@each_writer
@pytest.mark.parametrize(
    "error", [CheckpointError("source.pth: changed"), OSError(errno.EIO, "bad disk", "source.pth")]
)
def test_an_array_that_cannot_be_read_leaves_the_old_file(tmp_path, write, error):
    def fail():
        raise error

    path = tmp_path / "net.pth"
    write(path, VARIABLES)
    old = path.read_bytes()
    lazy = Lazy((2, 3), np.dtype("float32"), fail)
    with pytest.raises(CheckpointError, match=r"^source\.pth: "):
        write(path, {"params": {"a": np.zeros(3), "w": lazy}})
    assert os.listdir(tmp_path) == ["net.pth"]
    assert path.read_bytes() == old


def test_a_lazy_array_may_come_from_the_file_that_is_replaced(tmp_path):
    path = tmp_path / "net.safetensors"
    save(path, VARIABLES)
    lazy = Lazy((2, 3), np.dtype("float32"), lambda: restore(path)["params"]["w"] + 1)
    save(path, {"params": {"w": lazy}})
    np.testing.assert_array_equal(restore(path)["params"]["w"], VARIABLES["params"]["w"] + 1)


@pytest.mark.parametrize(
    "array", [np.float32(3), np.zeros((0, 2)), np.arange(4, dtype=">f8"), np.ones((4, 6))[::2, ::3].T]
)
def test_save_keeps_arrays_of_every_kind(tmp_path, array):
    save(tmp_path / "x", {"a": {"b": array}})
    found = restore(tmp_path / "x")["a"]["b"]
    assert found.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, array)


def litter(path, number=1):
    return path.with_name(f".{path.name}.flax_attn-{number}-0123456789abcdef.tmp")


@each_writer
def test_what_killed_processes_left_is_removed(tmp_path, write):
    path, other = tmp_path / "net.pth", tmp_path / "net.pt"
    stale = [litter(path), litter(path, os.getpid()), tmp_path / "folder"]
    stays = [litter(other), tmp_path / ".net.pth.tmp", tmp_path / ".net.pth.flax_attn-x.tmp"]
    for file in (*stale[:2], *stays):
        file.write_bytes(b"half")
    stale[2].mkdir()
    (stale[2] / "half").write_bytes(b"")
    stale[2].rename(litter(path, 7))
    litter(path, 8).symlink_to(other)
    os.mkfifo(litter(path, 9))
    write(path, VARIABLES)
    assert sorted(tmp_path.iterdir()) == sorted([path, *stays, litter(path, 8), litter(path, 9)])


def test_what_a_living_process_writes_stays(tmp_path):
    path = tmp_path / "net.pth"
    with replaced(path) as outer:
        outer.write(b"outer")
        with replaced(path) as inner:
            inner.write(b"inner")
        assert path.read_bytes() == b"inner"
        script = f"from convert import save_torch; save_torch({str(path)!r}, {{}})"
        root = {"PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | root)
        assert load_is_empty(path)
        assert len(list(tmp_path.iterdir())) == 2
    assert path.read_bytes() == b"outer"
    assert list(tmp_path.iterdir()) == [path]


def load_is_empty(path):
    with pytest.raises(CheckpointError, match="got a dict of nothing"):
        load(path)
    return True


def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
    from convert.writing import targets

    path = tmp_path / "net.pth"
    litter(path).write_bytes(b"half")
    monkeypatch.setattr(targets.LOCKS, "flock", failing(errno.ENOLCK))
    save(path, VARIABLES)
    assert sorted(tmp_path.iterdir()) == sorted([path, litter(path)])


def test_a_temporary_file_that_another_process_removes_is_made_again(tmp_path, monkeypatch):
    from convert.writing import targets

    real, names = targets.LOCKS.flock, []

    def removing(descriptor, operation):
        if not names:
            names.extend(tmp_path.iterdir())
            names[0].unlink()
        real(descriptor, operation)

    monkeypatch.setattr(targets.LOCKS, "flock", removing)
    save(tmp_path / "net.pth", VARIABLES)
    assert len(names) == 1
    assert os.listdir(tmp_path) == ["net.pth"]


def test_folders_are_moved_to_their_place_as_a_whole(tmp_path):
    with contextlib.suppress(RuntimeError), new_folder(tmp_path / "a") as folder:
        folder.mkdir()
        (folder / "half").write_bytes(b"")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "a") as folder:
        folder.mkdir()
        (folder / "whole").write_bytes(b"")
        assert not (tmp_path / "a").exists()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["a", "a/whole"]


def test_an_existing_folder_is_never_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("lost")
    for name in ("folder", "file", "link"):
        assert "expected a new name for a folder, got one that exists" in refusal(write_orbax, tmp_path / name)
        with pytest.raises(CheckpointError, match="got one that exists"):
            check_target(tmp_path / name, folder=True)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "link"]


@pytest.mark.parametrize("suffix", [".png", ".svg", ""])
def test_the_picture_of_the_demo_is_replaced_as_a_whole(tmp_path, monkeypatch, suffix):
    from matplotlib.figure import Figure

    result = demo.run()
    path = tmp_path / f"maps{suffix}"
    demo.picture(result, path)
    old = path.read_bytes()
    assert old.startswith(b"<?xml" if suffix == ".svg" else b"\x89PNG")

    def half(self, file, **_):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(CheckpointError, match="no space"):
        demo.picture(result, path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
