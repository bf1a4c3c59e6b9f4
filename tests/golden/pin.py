"""Pin key lists of published code: ``python -m tests.golden.pin FOLDER NAME...`` reads FOLDER/NAME.txt, lines such as
``conv1.weight (64, 3, 7, 7) float32``, and writes NAME.json beside this file."""

import argparse
import ast
import json
import re
from pathlib import Path

LINE = re.compile(r"(\S+) (\(.*\)) \w+")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+")
    arguments = parser.parse_args()
    for name in arguments.names:
        lines = (arguments.folder / f"{name}.txt").read_text().splitlines()
        keys = dict(LINE.fullmatch(line).groups() for line in lines)
        rows = [f'  "{key}": {json.dumps(list(ast.literal_eval(shape)))}' for key, shape in keys.items()]
        Path(__file__).with_name(f"{name}.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
