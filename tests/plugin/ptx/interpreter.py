"""A kernel's PTX, run by NumPy for all threads of some blocks.

What this proves: the code that the compiler made computes the right bits, at the right addresses,
aligned and within its arrays, each output once, for every variant of the kernel. What it does not:
anything about time, caches or the memory model, since each thread here runs as if it were alone,
but for what ``shared.py`` checks, and every access is done at once; nor that ``ptxas`` makes the
machine code of it that it should (what it made is read in ``test_sass.py``), nor that a GPU runs
it. For those there is ``make gpu-test``.

Threads that branch apart are run in order of the instruction that they are at, so that they meet
again at the next label that they share.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from plugin.ptx.instructions import KINDS, OPERATIONS, Operation
from plugin.ptx.memory import KernelError, Memory
from plugin.ptx.parse import Entry, Instruction, UnknownPtxError, members
from plugin.ptx.shared import LANES, SharedMemory, partners

_ADDRESS = re.compile(r"\[(?P<base>[%\w]+)(?:\+(?P<offset>-?\d+))?\]$")
_ACCESS = re.compile(
    r"(?P<what>ld|st)\.(?P<space>param|global|shared)(?P<hints>(?:\.(?:nc|cs))*)"
    r"(?:\.v(?P<count>[24]))?\.(?P<kind>[busf]\d+)$"
)
_SHUFFLE = "shfl.sync.bfly.b32"
_BARRIERS = ("bar.sync", "barrier.sync")
_PARAMETER_ADDRESS = 1 << 62  # of the argument, in a space of its own
_MOST_STEPS = 1_000_000
_DONE = np.iinfo(np.int64).max

Active = NDArray[np.int64]  # the threads that execute an instruction
Action = Callable[["Threads", Active], None]


class UninitialisedError(KernelError):
    """A read of a register that the thread has not written."""


class EndlessError(KernelError):
    """More instructions than any kernel here needs."""


@dataclass
class Threads:
    """The registers of all threads, what they were launched with, and the memory they share."""

    entry: Entry
    argument: NDArray[np.uint8]
    special: dict[str, NDArray[np.uint32]]
    memory: Memory
    numbers: NDArray[np.int32]  # of the threads, none twice in a memory
    shared: SharedMemory
    values: dict[str, NDArray] = field(default_factory=dict)
    written: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, operand: str, kind: str, active: Active) -> NDArray:
        """Return a register, a literal or the argument's address as ``kind``."""
        if operand in self.special:
            bits = self.special[operand][active]
        elif operand.startswith("%"):
            self._kind(operand)
            if operand not in self.values or not self.written[operand][active].all():
                raise UninitialisedError(f"a read of {operand} before it is written")
            bits = self.values[operand][active]
        else:
            bits = np.full(len(active), self._literal(operand, KINDS[kind]))
        if bits.dtype.itemsize != KINDS[kind].itemsize:
            raise UnknownPtxError(f"{operand} as {kind}: another size than the register's")
        return bits.view(KINDS[kind])

    def _literal(self, text: str, kind: np.dtype) -> np.generic:
        if text == self.entry.parameter:
            return np.uint64(_PARAMETER_ADDRESS)
        if text in self.entry.shared:
            return kind.type(self.entry.shared[text])
        if text.startswith("0f"):
            return np.uint32(int(text[2:], 16))
        size = 8 * kind.itemsize
        return np.dtype(f"u{kind.itemsize}").type(int(text, 0) % (1 << size))

    def _kind(self, register: str) -> np.dtype:
        declared = self.entry.register_types.get(register.rstrip("0123456789"))
        if declared is None:
            raise UnknownPtxError(f"a register that is not declared: {register}")
        return KINDS[declared]

    def size(self, register: str) -> int:
        """Return the bytes of a register."""
        return self._kind(register).itemsize

    def write(self, register: str, value: NDArray, active: Active) -> None:
        kind = self._kind(register)
        if kind.itemsize != value.dtype.itemsize:
            raise UnknownPtxError(f"{register} of {value.dtype}: another size than the register's")
        bits = value if kind == np.bool_ else value.view(f"u{kind.itemsize}")
        if register not in self.values:
            self.values[register] = np.zeros(len(self), bits.dtype)
            self.written[register] = np.zeros(len(self), np.bool_)
        self.values[register][active] = bits
        self.written[register][active] = True

    def addresses(self, operand: str, active: Active, kind: str = "u64") -> NDArray:
        match = _ADDRESS.match(operand)
        if match is None:
            raise UnknownPtxError(f"no address: {operand}")
        to = KINDS[kind]
        offset = int(match["offset"] or 0) % (1 << 8 * to.itemsize)
        return self.read(match["base"], kind, active) + to.type(offset)


def _compute(
    operation: Operation, operands: tuple[str, ...], threads: Threads, active: Active
) -> None:
    to, *sources = operands
    values = [
        threads.read(source, kind, active)
        for source, kind in zip(sources, operation.sources, strict=True)
    ]
    threads.write(to, operation.compute(*values).astype(KINDS[operation.result]), active)


def _unpack(operands: tuple[str, ...], threads: Threads, active: Active) -> None:
    to, source = operands
    halves = threads.read(source, "b32", active).view(np.uint16).reshape(-1, 2)
    for register, half in zip(members(to), halves.T, strict=True):
        threads.write(register, half.copy(), active)


def _pack(operands: tuple[str, ...], threads: Threads, active: Active) -> None:
    to, source = operands
    halves = [threads.read(register, "b16", active) for register in members(source)]
    threads.write(to, np.stack(halves, axis=1).view(np.uint32)[:, 0], active)


def _load_argument(kind: str, count: int, operands, threads: Threads, active: Active) -> None:
    to, source = operands
    width = KINDS[kind].itemsize
    offsets = threads.addresses(source, active) - np.uint64(_PARAMETER_ADDRESS)
    if (offsets % np.uint64(width * count) != 0).any():
        raise KernelError("a misaligned read of the argument")
    if (offsets > np.uint64(len(threads.argument) - width * count)).any():
        raise KernelError("a read beside the argument")
    at = offsets.astype(np.int64)[:, None] + np.arange(width * count)
    values = threads.argument[at].view(KINDS[kind])
    wide = threads.size(members(to)[0])
    if values.dtype.kind in "ui" and wide > width:  # a register takes a narrower integer
        values = values.astype(f"{values.dtype.kind}{wide}")
    _spread(values, to, threads, active)


def _load(
    kind: str, count: int, read_only: bool, operands, threads: Threads, active: Active
) -> None:
    to, source = operands
    addresses, numbers = threads.addresses(source, active), threads.numbers[active]
    loaded = threads.memory.load(addresses, KINDS[kind], count, numbers, read_only=read_only)
    _spread(loaded, to, threads, active)


def _spread(values: NDArray, to: str, threads: Threads, active: Active) -> None:
    for register, value in zip(members(to), values.T, strict=True):
        threads.write(register, value.copy(), active)


def _store(kind: str, count: int, operands, threads: Threads, active: Active) -> None:
    to, source = operands
    values = [threads.read(register, kind, active) for register in members(source)]
    if len(values) != count:
        raise UnknownPtxError(f"{count} values expected, got {source}")
    addresses, numbers = threads.addresses(to, active), threads.numbers[active]
    threads.memory.store(addresses, np.stack(values, axis=1), numbers)


def _load_shared(kind: str, count: int, operands, threads: Threads, active: Active) -> None:
    to, source = operands
    addresses = threads.addresses(source, active, "u32")
    _spread(threads.shared.load(addresses, KINDS[kind], count, active), to, threads, active)


def _store_shared(kind: str, count: int, operands, threads: Threads, active: Active) -> None:
    to, source = operands
    values = [threads.read(register, kind, active) for register in members(source)]
    if len(values) != count:
        raise UnknownPtxError(f"{count} values expected, got {source}")
    addresses = threads.addresses(to, active, "u32")
    threads.shared.store(addresses, np.stack(values, axis=1), active)


def _shuffle(operands, threads: Threads, active: Active) -> None:
    """Exchange a register with the lane whose number differs in the bits of the step."""
    to, source, step, last, mask = operands
    for operand, expected in ((last, LANES - 1), (mask, (1 << LANES) - 1)):
        if (threads.read(operand, "u32", active) != expected).any():
            raise UnknownPtxError(f"a shuffle of other lanes than a whole warp's: {operands}")
    others = partners(active, threads.read(step, "u32", active))
    register, _, is_inside = to.partition("|")
    threads.write(register, threads.read(source, "b32", others), active)
    if is_inside:
        threads.write(is_inside, np.ones(len(active), np.bool_), active)


def _wait(threads: Threads, active: Active) -> None:
    threads.shared.wait(active)


def action(instruction: Instruction) -> Action:
    """Return what an instruction does; raise where it is unknown, whether or not it is reached."""
    opcode, operands = instruction.opcode, instruction.operands
    if opcode == "mov.b32" and operands[0].startswith("{"):
        return partial(_unpack, operands)
    if opcode == "mov.b32" and operands[1].startswith("{"):
        return partial(_pack, operands)
    if opcode in OPERATIONS:
        return partial(_compute, OPERATIONS[opcode], operands)
    found = _exchange(instruction) or _access(instruction)
    if found is None:
        raise UnknownPtxError(f"unknown instruction: {instruction.text}")
    return found


def _exchange(instruction: Instruction) -> Action | None:
    if instruction.opcode == _SHUFFLE:
        return partial(_shuffle, instruction.operands)
    if instruction.opcode in _BARRIERS and instruction.operands == ("0",):
        return _wait
    return None


def _access(instruction: Instruction) -> Action | None:
    match = _ACCESS.match(instruction.opcode)
    if match is None:
        return None
    form = match["kind"], int(match["count"] or 1)
    place, operands = (match["what"], match["space"]), instruction.operands
    if place == ("ld", "global"):
        return partial(_load, *form, ".nc" in match["hints"], operands)
    plain = {
        ("st", "global"): _store,
        ("ld", "param"): _load_argument,
        ("ld", "shared"): _load_shared,
        ("st", "shared"): _store_shared,
    }
    act = None if match["hints"] else plain.get(place)
    return None if act is None else partial(act, *form, operands)


class Kernel:
    """An entry that can be run."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self._actions: list[Action | None] = [
            None if step.opcode in ("bra", "bra.uni", "ret") else action(step)
            for step in entry.instructions
        ]

    def run(
        self,
        argument: bytes,
        blocks: NDArray[np.uint32],
        block_threads: int,
        memory: Memory,
        first_number: int = 1,
    ) -> int:
        """Run blocks, given by their index; return the number after those of their threads.

        A ``KernelError`` says which instruction it is of.
        """
        special = {
            "%ctaid.x": np.repeat(blocks, block_threads).astype(np.uint32),
            "%tid.x": np.tile(np.arange(block_threads, dtype=np.uint32), len(blocks)),
        }
        count = len(blocks) * block_threads
        numbers = np.arange(first_number, first_number + count, dtype=np.int32)
        shared = SharedMemory(len(blocks), self.entry.shared_bytes, block_threads)
        given = np.frombuffer(argument, np.uint8)
        threads = Threads(self.entry, given, special, memory, numbers, shared)
        with np.errstate(all="ignore"):
            self._run_all(threads)
        return first_number + count

    def _run_all(self, threads: Threads) -> None:
        at = np.zeros(len(threads), np.int64)
        for _ in range(_MOST_STEPS):
            current = at.min(initial=_DONE)
            if current == _DONE:
                return
            self._run_together(threads, at, int(current))
        raise EndlessError(self.entry.name)

    def _run_together(self, threads: Threads, at: NDArray[np.int64], current: int) -> None:
        """Run those threads that are at ``current`` up to the next branch or label."""
        together = np.flatnonzero(at == current)
        while True:
            step, act = self.entry.instructions[current], self._actions[current]
            try:
                active = _guarded(step, threads, together)
                if act is not None and len(active):
                    act(threads, active)
            except KernelError as e:
                raise type(e)(f"{e}: {step.text}") from e
            current += 1
            if act is None:
                at[together] = current
                at[active] = _DONE if step.opcode == "ret" else self.entry.labels[step.operands[0]]
                return
            if current in self.entry.targets:
                at[together] = current
                return


def _guarded(step: Instruction, threads: Threads, together: Active) -> Active:
    if not step.guard:
        return together
    condition = threads.read(step.guard, "pred", together)
    return together[condition != step.negated]
