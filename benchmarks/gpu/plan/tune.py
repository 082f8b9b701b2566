"""Sweep the kernel's cut on one shape: ``python3 tune.py OUT.json [shape] [dtype]``.

The shape ``once`` launches FLUX's two shapes once, as the product cuts them: for a profiler.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import torch

from benchmarks.gpu import shapes
from benchmarks.gpu.compiler import find_compiler
from benchmarks.gpu.contenders import copies
from benchmarks.gpu.device import CudaDevice
from benchmarks.gpu.kernel import Kernel, Launch, Tuning
from benchmarks.gpu.timing import Plan, passes_of

out, name, dtype = [*sys.argv[1:], *("flux", "fp16")[len(sys.argv) - 2 :]]
capability = "".join(map(str, torch.cuda.get_device_capability()))
device, kernel = CudaDevice(), Kernel(find_compiler(capability).kernel())
if name == "once":
    for shape in (s for s in shapes.SHAPES if s.name in ("flux", "flux-512")):
        p = shapes.make_problem(shape, dtype, device.torch, 0)
        out_tensors = (torch.empty_like(p.q), torch.empty_like(p.k))
        kernel.call(Launch(p.q, p.k, p.pe, out_tensors))(device.stream())
    device.synchronize()
    sys.exit()
shape = next(s for s in shapes.SHAPES if s.name == name)
moved = shape.moved_bytes(dtype)
sets = shapes.count_sets(moved, device.l2_bytes)
problems = [shapes.make_problem(shape, dtype, device.torch, i) for i in range(sets)]
outputs = [(torch.empty_like(p.q), torch.empty_like(p.k)) for p in problems]
works, moved_bytes = {}, {}


def add(key: str, runs: list, bytes_: int) -> None:
    def all_sets() -> None:
        for run in runs:
            run()

    device.warm_up(all_sets)
    passes = passes_of(device.elapsed_us(all_sets, 2) / 2, sets, Plan())

    def all_passes() -> None:
        for _ in range(passes):
            all_sets()

    works[key] = (device.capture(all_passes), passes * sets)
    moved_bytes[key] = bytes_


for heads in (4, 8, 12, 24):
    for blocks in (0, 1, 528, 1056, 2112, 4224):  # 0: by the GPU's own waves
        tuning = Tuning(1 << 30, blocks, heads)
        calls = [
            kernel.call(Launch(p.q, p.k, p.pe, o), tuning)
            for p, o in zip(problems, outputs, strict=True)
        ]
        runs = [lambda call=call: call(device.stream()) for call in calls]
        add(f"ours heads<={heads} blocks>={blocks}", runs, moved)
for contender in copies():
    if contender.captured:
        made = [contender.prepare(p) for p in problems]
        add(contender.name, [m.run for m in made], made[0].moved_bytes)
times = {key: [] for key in works}
for _ in range(7):
    for key, (run, calls) in works.items():
        times[key].append(device.elapsed_us(run, 3) / (3 * calls))
rows = sorted((statistics.median(t), key, max(t) / min(t) - 1) for key, t in times.items())
best = max(moved_bytes[key] / us for us, key, _ in rows if key.startswith("copy"))
for us, key, spread in rows:
    print(f"{key:36s} {us:9.2f} us  {moved_bytes[key] / us / best:6.1%} of a copy  {spread:.1%}")
document = {"gpu": torch.cuda.get_device_name(), "shape": name, "dtype": dtype, "rows": rows}
Path(out).write_text(json.dumps(document, indent=1))
