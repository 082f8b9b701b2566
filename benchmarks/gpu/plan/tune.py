"""Sweep the kernel's cut on one shape: ``python3 tune.py OUT.json [shape] [dtype]``.

The shape ``once`` launches FLUX's two shapes once, as the product cuts them: for a profiler.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu import timing
from benchmarks.gpu.compiler import find_compiler
from benchmarks.gpu.contenders import OURS, Routine, copies, kernel_call
from benchmarks.gpu.device import CudaDevice
from benchmarks.gpu.kernel import Kernel, Tuning
from benchmarks.gpu.shapes import SHAPES, make_problem

out, name, dtype = [*sys.argv[1:], *("flux", "fp16")[len(sys.argv) - 2 :]]
major, minor = torch.cuda.get_device_capability()
device, kernel = CudaDevice(), Kernel(find_compiler(f"{major}{minor}").kernel())
shapes = {shape.name: shape for shape in SHAPES}
prepare = partial(kernel_call, device, kernel)
if name == "once":
    for shape in (shapes["flux"], shapes["flux-512"]):
        prepare(make_problem(shape, dtype, device.torch, 0)).run()
    device.synchronize()
    sys.exit()
cuts = [
    Routine(
        f"{OURS} heads<={heads} blocks>={blocks}",
        partial(prepare, tuning=Tuning(1 << 30, blocks, heads)),
        exact=True,
    )
    for heads in (4, 8, 12, 24)
    for blocks in (0, 1, 528, 1056, 2112, 4224)  # 0: by the GPU's own waves
]
plan = timing.Plan(rounds=7, batches=1)
entrants = [*cuts, *(copy for copy in copies(device, kernel) if copy.captured)]
check = timing.measure(device, f"{name} {dtype}", (shapes[name], dtype), entrants, plan)
rows = sorted((t.time_us, t.name, t.copy_share, t.spread) for t in check.timings if t.time_us)
for us, key, share, spread in rows:
    print(f"{key:36s} {us:9.2f} us  {share:6.1%} of a copy  {spread:.1%}")
gpu = torch.cuda.get_device_name()
document = {"gpu": gpu, "shape": name, "dtype": dtype, "verdict": check.verdict, "rows": rows}
Path(out).write_text(json.dumps(document, indent=1))
