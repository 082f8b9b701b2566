"""``python -m benchmarks.page``: write the page, its chart and README's table."""

from __future__ import annotations

from benchmarks.cpu import runs
from benchmarks.page import page, parts

if __name__ == "__main__":
    page.write()
    for name in parts.stale(runs.load()):
        print(f"{name}: measured on older sources: python -m benchmarks.cpu --only {name}")
