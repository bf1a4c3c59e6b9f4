"""Pin key lists of published code: ``python -m tests.catalog.golden.pin FOLDER NAME...``.

Reads FOLDER/NAME.txt, lines such as ``conv1.weight (64, 3, 7, 7) float32``, and writes NAME.json beside this file.
NAME:PREFIX pins the keys under PREFIX of NAME.txt, one block of a network, as NAME.PREFIX.json. With ``--foreign`` the
lists are written to the folder foreign: the key names of other code.
"""

import argparse
import ast
import json
import re
from pathlib import Path

LINE = re.compile(r"(\S+) (\(.*\))(?: \w+)?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--foreign", action="store_true", help="write to the folder foreign")
    arguments = parser.parse_args()
    for name in arguments.names:
        source, _, prefix = name.partition(":")
        start = prefix and f"{prefix}."
        lines = (arguments.folder / f"{source}.txt").read_text().splitlines()
        pairs = [LINE.fullmatch(line).groups() for line in lines]
        keys = {key.removeprefix(start): shape for key, shape in pairs if key.startswith(start)}
        rows = [f'  "{key}": {json.dumps(list(ast.literal_eval(shape)))}' for key, shape in keys.items()]
        folder = Path(__file__).parent / ("foreign" if arguments.foreign else "")
        (folder / f"{name.replace(':', '.')}.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
