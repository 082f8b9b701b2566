"""PTX text as instructions: as much of the language as the compiler writes for this kernel.

What is not known here is refused by name, because a part that is skipped is a part that is not
tested: a ``.local`` array (a spilled register), a second parameter.

Source of the syntax: NVIDIA, "PTX ISA", chapters 4 (syntax) and 11 (directives).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

CUDA_MOST_THREADS = 1024  # of any block
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_ENTRY = re.compile(
    r"\.visible\s+\.entry\s+(?P<name>\w+)\s*\("
    r"\s*\.param\s+\.align\s+\d+\s+\.b8\s+(?P<parameter>\w+)\[(?P<bytes>\d+)\]\s*\)"
    r"(?P<limits>[^{]*)\{"
)
# in a body: a label, a brace of a scope, or a statement, whose operands may have braces as well
_PART = re.compile(
    r"\s*(?:(?P<label>[$\w]+)\s*:|(?P<brace>[{}])|(?P<statement>[^;{}]+(?:\{[^;{}]*\}[^;{}]*)*);)"
)
_INSTRUCTION = re.compile(
    r"(?:@(?P<not>!?)(?P<guard>%\w+)\s+)?(?P<opcode>[a-z][\w.]*)(?:\s+(?P<operands>.*))?$",
    re.DOTALL,
)
_SHARED = re.compile(
    r"\.shared\s+\.align\s+(?P<align>\d+)\s+\.b8\s+(?P<name>\w+)\[(?P<bytes>\d+)\]$"
)
_MODULE_SHARED = re.compile(r"^\s*(\.shared\b[^;]*);", re.MULTILINE)
_MOST_THREADS = re.compile(r"\.maxntid\s+(\d+)")
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")
_REGISTERS = re.compile(r"\.reg\s+\.(?P<type>\w+)\s+(?P<prefix>%[a-z]+)<\d+>$")


class UnknownPtxError(Exception):
    """PTX that is not known here, and so cannot be run."""


@dataclass(frozen=True)
class Instruction:
    """One instruction; its operands are as they are written, ``%r1``, ``{%r1, %r2}``, ``[%rd1+8]``.

    ``guard`` is the predicate under which it is executed, or empty; ``negated`` turns it round.
    """

    opcode: str
    operands: tuple[str, ...]
    guard: str
    negated: bool
    text: str


@dataclass(frozen=True)
class Entry:
    """One kernel: its only parameter, the types of its registers, and its instructions.

    ``most_threads`` of a block, at its launch, as it was compiled for.
    """

    name: str
    parameter: str
    parameter_bytes: int
    most_threads: int
    register_types: dict[str, str]  # by what their names begin with: %rd, b64
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]
    shared: dict[str, int] = field(default_factory=dict)  # where each array begins
    shared_bytes: int = 0

    @cached_property
    def targets(self) -> frozenset[int]:
        """Where threads that went apart may meet again."""
        return frozenset(self.labels.values())


def parse(text: str) -> list[Entry]:
    """Return the kernels of a PTX file."""
    text = _COMMENT.sub("", text)
    arrays = _MODULE_SHARED.findall(text)
    entries = [_entry(match, _body(text, match.end()), arrays) for match in _ENTRY.finditer(text)]
    if len(entries) != len(re.findall(r"\.entry\b", text)):
        raise UnknownPtxError("an entry whose parameters are not one array of bytes")
    if re.search(r"^\s*(?:\.visible\s+)?\.(?:func|global|const)\b", text, re.MULTILINE):
        raise UnknownPtxError("something beside entries: a function or an array")
    return entries


def members(operand: str) -> tuple[str, ...]:
    """Return the registers of a vector, or the one register that an operand is."""
    return tuple(part.strip() for part in operand.strip("{}").split(","))


def _body(text: str, start: int) -> str:
    """Return what lies between the brace before ``start`` and the one that closes it."""
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start : brace.start()]
    raise UnknownPtxError("a body without an end")


def _shared_places(arrays: list[str]) -> tuple[dict[str, int], int]:
    """Return where arrays of shared memory begin, one after the other, and the bytes of all."""
    places: dict[str, int] = {}
    size = 0
    for statement in arrays:
        match = _SHARED.match(" ".join(statement.split()))
        if match is None:
            raise UnknownPtxError(f"no array of shared memory: {statement!r}")
        align = int(match["align"])
        places[match["name"]] = -(-size // align) * align
        size = places[match["name"]] + int(match["bytes"])
    return places, size


def _entry(head: re.Match[str], body: str, arrays: list[str]) -> Entry:
    registers: dict[str, str] = {}
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for part in _parts(body):
        if part["label"]:
            labels[part["label"]] = len(instructions)
        elif statement := part["statement"]:
            if match := _REGISTERS.match(statement):
                registers[match["prefix"]] = match["type"]
            elif statement.startswith(".shared"):
                arrays = [*arrays, *([] if statement in arrays else [statement])]
            elif not statement.startswith(".pragma"):
                instructions.append(_instruction(statement))
    limit = _MOST_THREADS.search(head["limits"])
    most_threads = int(limit[1]) if limit else CUDA_MOST_THREADS
    parameter = head["parameter"], int(head["bytes"])
    # of the module's those that it names
    words = {word for step in instructions for word in re.findall(r"\w+", step.text)}
    used = [text for text in arrays if words & set(re.findall(r"\w+", text.partition(".b8")[2]))]
    return Entry(
        *(head["name"], *parameter, most_threads, registers),
        *(tuple(instructions), labels, *_shared_places(used)),
    )


def _parts(body: str) -> Iterator[re.Match[str]]:
    at = 0
    while body[at:].strip():
        match = _PART.match(body, at)
        if match is None:
            raise UnknownPtxError(f"no statement: {body[at : at + 60].strip()!r}")
        yield match
        at = match.end()


def _instruction(statement: str) -> Instruction:
    text = " ".join(statement.split())
    match = _INSTRUCTION.match(text)
    if match is None:
        raise UnknownPtxError(f"no instruction: {text!r}")
    operands = tuple(_OPERAND.findall(match["operands"] or ""))
    return Instruction(match["opcode"], operands, match["guard"] or "", match["not"] == "!", text)
