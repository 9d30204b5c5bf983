"""Programs that run in two processes, which torchrun starts and gloo joins, on the CPU even where there are GPUs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


@contextmanager
def two_processes(program: str, folder: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Write a program into a folder and start two processes of it; stdout has all that they say.

    They are ended where the block fails, such as by a timeout of `communicate`.
    """
    script = folder / "script.py"
    script.write_text(program)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        [*torchrun, *map(str, arguments)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as two:
        try:
            yield two
        except BaseException:
            two.kill()
            raise
