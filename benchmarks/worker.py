"""One contender in a process of its own, driven by :mod:`benchmarks.harness` over its pipes.

It is started with the contender's reference (``package.module:function``) and options as JSON.
The function returns a callable that does the work once and returns an array.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from typing import Any

import numpy as np


def main() -> None:
    """Set up, say so, then run as often as each line of the input asks."""
    answers, sys.stdout = sys.stdout, sys.stderr  # a library that prints must not break the talk
    reference, options, output = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    module, _, name = reference.partition(":")
    work = getattr(import_module(module), name)(**options)
    np.save(output, np.asarray(work()))
    _answer(answers, "ready")
    for line in sys.stdin:
        _answer(answers, [_seconds(work) for _ in range(int(line))])


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _answer(answers: Any, value: object) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
