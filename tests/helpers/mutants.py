"""Spoils small checkpoint files in thousands of ways, by seed, and tells what the reader does with each.

``python -m tests.helpers.mutants 10000`` prints the figures.
"""

import argparse
import copy
import json
import os
import pickletools
import random
import struct
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from convert import CheckpointError, read
from convert.checkpoint import scan
from convert.tensors import as_numpy
from tests.helpers import checkpoint_bytes as files
from tests.helpers.agreement import agrees, same

ODD = [0, 1, 2, 3, 7, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
ODD_VALUES = [*ODD, -1, -(2**63), 2**64, 2**200, True, None, 1.5, "0", (), (1,), (3, 4), [], {}, (2**40, 2**40), (0, 5)]
KINDS = ["Float", "Half", "Double", "Byte", "BFloat16", "Bool", "Long", "ComplexDouble", "Untyped", "QInt8"]
OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
BOMBS = [
    *(b")" + b"\x85" * 3000, b"]" * 3000 + b"a" * 2999, b"(" * 3000, b"]q\0h\0a", b"}q\0NX\1\0\0\0wh\0s", b"0" * 50),
    *(b"X\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 7 + b"\x7f", b"\x8b\xff\xff\xff\x7f", b"L" + b"9" * 5000 + b"L\n"),
    *(b"r\xff\xff\xff\xff", b"p99999999999\n", b"h\xff", b")q\0" + b"h\0h\0\x86q\0" * 100, b"cos\nsystem\n(Vx\ntR"),
]
FIELDS = {
    b"PK\5\6": {4: 2, 6: 2, 8: 2, 10: 2, 12: 4, 16: 4, 20: 2},
    b"PK\1\2": {6: 2, 8: 2, 10: 2, 16: 4, 20: 4, 24: 4, 28: 2, 30: 2, 32: 2, 34: 2, 42: 4},
    b"PK\6\6": {4: 8, 16: 4, 20: 4, 24: 8, 32: 8, 40: 8, 48: 8},
    b"PK\6\7": {4: 4, 8: 8, 16: 4},
    b"PK\3\4": {6: 2, 8: 2, 14: 4, 18: 4, 22: 4, 26: 2, 28: 2},
}
"""Where the numbers are in the records of a zip archive, and how many bytes each has."""

LIMIT_SECONDS, LIMIT_MEMORY = 5.0, 4
FREE_MEMORY = 1 << 20
"""What the reading of any file may take."""


class Outcome(NamedTuple):
    """What came of a mutant: "read", "refused", or what should not be. ``seed`` makes it again."""

    kind: str
    seed: int
    seconds: float = 0.0
    memory: int = 0


def flip_bits(rng: random.Random, raw: bytes) -> bytes:
    changed = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2, 8])):
        changed[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, raw: bytes) -> bytes:
    return raw[: rng.randrange(len(raw))]


def move(rng: random.Random, raw: bytes) -> bytes:
    """Some bytes are removed, doubled, or put elsewhere."""
    start = rng.randrange(len(raw))
    part = raw[start : start + rng.choice([1, 2, 8, 64])]
    place = rng.randrange(len(raw))
    return rng.choice([raw[:start] + raw[start + len(part) :], raw[:place] + part + raw[place:], raw + part])


def put_number(rng: random.Random, raw: bytes) -> bytes:
    width = rng.choice([1, 2, 4, 8])
    number = struct.pack("<Q", rng.choice(ODD))[:width]
    start = rng.randrange(len(raw))
    return raw[:start] + number + raw[start + width :]


def put_field(rng: random.Random, raw: bytes) -> bytes:
    """A number in one of the records of a zip archive is changed."""
    signature = rng.choice(list(FIELDS))
    places = [start for start in range(len(raw)) if raw.startswith(signature, start)]
    if not places:
        return flip_bits(rng, raw)
    offset, width = rng.choice(list(FIELDS[signature].items()))
    start = rng.choice(places) + offset
    old = int.from_bytes(raw[start : start + width], "little")
    new = rng.choice([*ODD, old + 1, old - 1, old ^ 1, old ^ 8, 8, 12, 2 * old]) % 2 ** (8 * width)
    return raw[:start] + new.to_bytes(width, "little") + raw[start + width :]


BYTES = [flip_bits, flip_bits, cut, move, put_number, put_field]


def swap_opcodes(rng: random.Random, body: bytes) -> bytes:
    """One opcode becomes another one, moves, goes, or comes twice."""
    starts = [position for _, _, position in pickletools.genops(files.pickled(body))][1:]
    parts = [files.pickled(body)[start:stop] for start, stop in zip(starts, [*starts[1:], None], strict=True)]
    index, other = rng.randrange(len(parts)), rng.randrange(len(parts))
    choice = rng.randrange(5)
    if choice == 0:
        parts[index] = rng.choice(OPCODES) + parts[index][1:]
    elif choice == 1:
        parts[index], parts[other] = parts[other], parts[index]
    elif choice == 2:
        parts.insert(index, parts[other])
    elif choice == 3:
        del parts[index]
    else:
        parts.insert(index, rng.choice(OPCODES))
    return b"".join(parts)[:-1]


def recall(rng: random.Random, body: bytes) -> bytes:
    """Something is taken from the memo, or put there, where it was not."""
    starts = [position for _, _, position in pickletools.genops(files.pickled(body))][1:]
    place = rng.choice(starts) - 2
    return body[:place] + rng.choice([b"h", b"q"]) + bytes([rng.randrange(6)]) + body[place:]


def plant_bomb(rng: random.Random, body: bytes) -> bytes:
    starts = [position for _, _, position in pickletools.genops(files.pickled(body))][1:]
    place = rng.choice(starts) - 2
    return body[:place] + rng.choice(BOMBS) + body[place:]


PICKLES = [swap_opcodes, swap_opcodes, recall, plant_bomb, flip_bits, put_number, move]


def odd_state(rng: random.Random, view: bytes) -> dict[str, bytes]:
    """A state dict of which one tensor has odd numbers in it."""
    if view:
        view = rng.choice([view, view, files.value(("v", rng.choice(ODD_VALUES), rng.choice(ODD_VALUES)))])
    arguments: dict[str, Any] = {"offset": 0, "size": (3, 4), "stride": (4, 1)}
    flat = {"count": rng.choice([12, 11, 3, *ODD_VALUES]), "kind": f"torch.{rng.choice(KINDS)}Storage"}
    if rng.random() < 0.5:
        arguments |= {key: rng.choice(ODD_VALUES) for key in rng.sample(sorted(arguments), k=rng.choice([1, 1, 2, 3]))}
        flat = {}
    elif rng.random() < 0.5:
        length = rng.choice([1, 2, 3, 64, 65])
        numbers = [tuple(rng.choice([0, 1, 1, 2, 3, *ODD[-6:]]) for _ in range(length)) for _ in range(2)]
        arguments = {"offset": rng.randrange(5), "size": numbers[0], "stride": numbers[1]}
    state = files.state(view)
    return {rng.choice([*state, "odd"]): files.tensor(files.storage(view=view, **flat), **arguments), **state}


def pickle_mutant(rng: random.Random, make: Callable[..., bytes], view: bytes = b"") -> bytes:
    """A file whose pickle is spoiled before it is put into its container, so that the checksum holds."""
    if rng.random() < 0.35:
        return make(files.mapping(odd_state(rng, view)))
    body = files.mapping(files.state(view))
    if rng.random() < 0.3:
        body = files.mapping({rng.choice(["state_dict", "model", "other"]): body, "epoch": files.value(3)})
    for _ in range(rng.choice([1, 1, 2])):
        try:
            body = rng.choice(PICKLES)(rng, body)
        except ValueError:
            break
    return make(body)


def header_mutant(rng: random.Random) -> bytes:
    """A safetensors file with odd values, other fields or odd JSON in its header."""
    header = copy.deepcopy(files.safetensors_header())
    entry = header[rng.choice(["conv.weight", "norm.weight"])]
    choice = rng.randrange(5)
    if choice == 0:
        entry[rng.choice([*entry, "more"])] = rng.choice([*ODD_VALUES, "F64", "F4", "F7", "I32"])
    elif choice == 1:
        entry[rng.choice(["shape", "data_offsets"])] = [rng.choice([*ODD, 48, 58, 12]) for _ in range(rng.randrange(4))]
    elif choice == 2:
        header["__metadata__"] = rng.choice([None, {}, {"a": 1}, {"a": "b"}, [], "x", 5, {"a": None}])
    elif choice == 3:
        header["more"] = rng.choice([entry, list(entry.values()), None, {}, {**entry, "data_offsets": [58, 58]}])
    text = json.dumps(header, separators=rng.choice([(",", ":"), None]))
    odd = [f"{'[' * 5000}", "NaN", '"\\ud800"', "1e999", "-0", "9" * 5000, f"{'[' * 100}{']' * 100}", '{"a":1,"a":1}']
    if choice == 4:
        text = text.replace("{", '{"more":' + rng.choice(odd) + ",", 2)
    return files.safetensors_file(rng.choice(["", "", " ", "\n"]) + text + rng.choice(["", "   ", "\0", "x"]))


def containers() -> dict[str, tuple[Callable[..., bytes], bytes]]:
    """How each kind of file is made from the pickle of a state dict, and what stands behind its storages."""
    return {
        "zip": (files.zip_file, b""),
        "zip64": (lambda body: files.with_zip64(files.zip_file(body)), b""),
        "deflated": (lambda body: files.zip_file(body, True), b""),
        "legacy": (files.legacy_file, files.NONE),
    }


def mutant(seed: int) -> bytes:
    """The spoiled file number ``seed``."""
    rng = random.Random(seed)
    kind = rng.choice(["zip", "zip64", "deflated", "legacy", "safetensors", "script"])
    if kind in ("safetensors", "script"):
        whole = files.script_file(files.state()) if kind == "script" else None
        if whole is None and rng.random() < 0.6:
            return header_mutant(rng)
        return rng.choice(BYTES)(rng, whole or files.safetensors_file(files.safetensors_header()))
    make, view = containers()[kind]
    if rng.random() < 0.6:
        return pickle_mutant(rng, make, view)
    return rng.choice(BYTES)(rng, make(files.mapping(files.state(view))))


def outcome(seed: int, folder: Path) -> Outcome:
    """Read the mutant, and measure it. Where torch is installed, what is read is compared with torch."""
    path = folder / "mutant"
    raw = mutant(seed)
    path.write_bytes(raw)
    os.utime(path, (0, 0))
    tracemalloc.start()
    start, kind = time.perf_counter(), "read"
    try:
        checkpoint = read(path)
        late = {key: as_numpy(array) for key, array in scan(path).arrays.items()}
    except CheckpointError:
        kind = "refused"
    except Exception as error:
        kind = f"{type(error).__name__}: {error}"[:200]
    seconds, (_, memory) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    if seconds > LIMIT_SECONDS:
        kind = "too slow"
    if memory > LIMIT_MEMORY * len(raw) + FREE_MEMORY:
        kind = "too much memory"
    if kind == "read" and not all(same(late[key], array) for key, array in checkpoint.arrays.items()):
        kind = "other numbers when they are read later"
    if kind == "read" and not agrees(path, checkpoint):
        kind = "other numbers than torch"
    return Outcome(kind, seed, seconds, memory)


def outcomes(seeds: range, folder: Path) -> Iterator[Outcome]:
    for seed in seeds:
        yield outcome(seed, folder)


def main() -> None:
    """Print how many mutants were read and refused, all others, the slowest, and the highest memory."""
    options = argparse.ArgumentParser(description=main.__doc__)
    options.add_argument("count", type=int, help="how many mutants to make")
    count = options.parse_args().count
    with tempfile.TemporaryDirectory() as folder:
        found = list(outcomes(range(count), Path(folder)))
    kinds = Counter(one.kind for one in found)
    good = kinds["read"] + kinds["refused"]
    print(f"{count} mutants: {kinds['read']} read, {kinds['refused']} refused, {count - good} other")
    print(f"slowest {max(one.seconds for one in found):.3f} s, highest memory {max(one.memory for one in found)} bytes")
    for one in found:
        if one.kind not in ("read", "refused"):
            print(f"seed {one.seed}: {one.kind}")


if __name__ == "__main__":
    main()
