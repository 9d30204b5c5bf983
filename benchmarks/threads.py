"""What waiting without occupying the core is worth: a training step beside another busy process, and alone.

    python benchmarks/threads.py

Each line is a process of its own that takes steps with a small and a larger network on the CPU: with torch's own choice
of threads, with one thread, and as `manyseg train` does (`share_cores` and `threads_for` of manyseg.cores). The busy
process is one Python loop. The ratio is to torch's own choice in the same condition.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from contextlib import contextmanager

CODE = """
import sys, time
import timm, torch
torch.manual_seed(0)
network = timm.create_model(sys.argv[1], features_only=True)
optimizer = torch.optim.AdamW(network.parameters())
image = torch.randn(6, 3, int(sys.argv[2]), int(sys.argv[3]))
if sys.argv[4] == "manyseg":
    from manyseg.cores import threads_for
    torch.set_num_threads(threads_for(image.numel() // 3, torch.get_num_threads()))
def step():
    network(image)[-1].square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
step()
start, steps = time.perf_counter(), 0
while time.perf_counter() - start < 8:
    step()
    steps += 1
print(6 * steps / (time.perf_counter() - start))
"""

NETWORKS = (("mobilenetv3_small_050", "96", "128"), ("tf_efficientnet_lite0", "192", "256"))

CHOICES: dict[str, dict[str, str]] = {
    "torch's own": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "manyseg": {"OMP_WAIT_POLICY": "PASSIVE"},
}


@contextmanager
def busy(count: int):
    """Keep `count` processes busy."""
    processes = [multiprocessing.Process(target=_loop, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()


def _loop() -> None:
    while True:
        pass


def images_per_second(network: tuple[str, str, str], name: str) -> float:
    """Return the images that a process with this choice of threads trains in a second."""
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", CODE, *network, name]
    return float(subprocess.run(command, env=clean | CHOICES[name], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Print the table."""
    print("| network | beside | threads | images/s | ratio |\n|---|---|---|---|---|")
    for network in NETWORKS:
        for others in (0, 1):
            with busy(others):
                rates = {name: images_per_second(network, name) for name in CHOICES}
            own = rates["torch's own"]
            for name, rate in rates.items():
                beside = f"{others} busy" if others else "nothing"
                print(f"| {network[0]} | {beside} | {name} | {rate:.1f} | {rate / own:.2f} |")


if __name__ == "__main__":
    main()
