"""How the time of a proposal grows with the number of classes, on generated names, texts and confusions.

    python benchmarks/labels_scale.py [most classes, 5000]

Every dataset draws 50 of a vocabulary's concepts; half of the names are spelled as in the vocabulary, the others are
synonyms that only the text knows (unit vectors at cosine 0.9 of the concept's, all others random in 64 dimensions).
Confusions send 80 % of a class to its counterpart, where there is one, and the rest to random classes.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np

from manyseg.labels import LabelSpace
from manyseg.relate import propose


def generated(datasets, classes=50, seed=0):
    rng = np.random.default_rng(seed)
    concepts = max(150, datasets * classes // 10)
    centre = rng.normal(size=(concepts, 64))
    centre /= np.linalg.norm(centre, axis=1, keepdims=True)
    vectors, spaces, drawn = {}, [], []
    for d in range(datasets):
        mine = rng.choice(concepts, classes, replace=False)
        names = []
        for c in mine:
            name = f"thing{c}" if rng.random() < 0.5 else f"sort{d} of{c}"
            noise = rng.normal(size=64) / 8
            vectors[name] = centre[c] if name.startswith("thing") else 0.9 * centre[c] + 0.43 * noise
            names.append(name)
        spaces.append(LabelSpace.of(f"set{d}", names))
        drawn.append(mine)
    confusion = {}
    for a, x in enumerate(drawn):
        for b, y in enumerate(drawn):
            counts = rng.dirichlet(np.full(classes, 0.1), classes) * 200
            rows, columns = np.nonzero(x[:, None] == y[None])
            counts[rows, columns] += 800
            confusion[f"set{a}", f"set{b}"] = np.round(counts)
    return spaces, confusion, lambda texts: np.stack([vectors[t] for t in texts])


def main(most):
    print("classes datasets by        nodes seconds  of CPU  peak GB")
    for datasets in (4, 10, 20, 40, 100):
        if datasets * 50 > most:
            break
        spaces, confusion, encode = generated(datasets)
        for by in ("names", "text", "both"):
            start, busy = time.perf_counter(), time.process_time()
            p = propose(spaces, by=by, encode=encode, confusion=confusion, templates=("{}",))
            seconds, busy = time.perf_counter() - start, time.process_time() - busy
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            size = f"{datasets * 50:7d} {datasets:8d} {by:9} {len(p.taxonomy.unified):6d}"
            print(f"{size} {seconds:7.1f} {busy:7.1f} {peak:8.2f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
