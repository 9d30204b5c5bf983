"""Start-up and memory of a split of very many listed files: names alone, none of which is there.

    python benchmarks/listing.py [--files 10000000]

Writes a list of so many ids and opens the split, in a process of its own; so does the reference, which reads the same
list into a list of lines. Times are seconds of the processor, memory is the peak beyond that of a process that has
imported the same and opened nothing. The last line is JSON.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CARD = """
name = "listed"
image = "images/{id}.jpg"
mask = "masks/{id}.png"
encoding = "index"
splits = { train = "train.txt" }
[classes]
road = 0
sky = 1
"""


def work(kind: str, folder: Path) -> dict[str, float]:
    from manyseg.data.card import read_card
    from manyseg.data.folder import Folder

    card = read_card(folder / "card.toml")
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = (folder / "train.txt").read_text().splitlines() if kind == "lines" else Folder(card, folder)
    seconds = time.process_time() - start
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    return {"files": len(found), "seconds": round(seconds, 2), "GiB": round(memory, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000_000)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(work(args.one[0], Path(args.one[1]))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "card.toml").write_text(CARD)
        with (folder / "train.txt").open("w") as file:
            for start in range(0, args.files, 100_000):
                stop = min(start + 100_000, args.files)
                file.write("".join(f"part{i // 10_000:05}/image{i:09}\n" for i in range(start, stop)))
        result = {}
        for kind in ("lines", "split"):
            command = [sys.executable, __file__, "--one", kind, name]
            result[kind] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(kind, result[kind])
    print(json.dumps({"benchmark": "listing", **result}))


if __name__ == "__main__":
    main()
