"""A compiled program, parsed from its HLO text.

What a program holds in memory, moves and calls is stated nowhere else: the
compiler's own cost analysis counts the body of a loop once. The text is that
of one device; all sizes here are per device. The format is described at
https://openxla.org/xla/operation_semantics.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_HEAD = re.compile(r"^\s*(ROOT )?%([\w.\-]+) = ")
_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"\b(?:calls|body|condition|to_apply)=%([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_OP_NAME = re.compile(r'\bop_name="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')

# Opcodes that run computations; others that name one apply it to two scalars.
# A computation that runs beside the program is named where it starts, and by
# some versions of XLA again where it is waited for.
_RUN = (
  *("while", "fusion", "call", "conditional", "call-start", "async-start"),
)
# Opcodes that only name or group what others have computed.
FREE = (
  *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
  *("while", "call", "call-start", "call-done", "conditional"),
  *("async-start", "async-update", "async-done", "after-all"),
  *("optimization-barrier", "partition-id", "replica-id"),
)
# Targets of calls by which a compiler marks a buffer or waits for one.
_INTERNAL = (
  *("AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast"),
  *("AsyncCollectiveStart", "AsyncCollectiveDone"),
  *("PrepareAsyncCallStart", "PrepareAsyncCallDone"),
  "GatherScatterIndicesBitpacked",
)


@dataclasses.dataclass(frozen=True)
class Shape:
  """Type of an array.

  Attributes:
    dtype: element type as XLA spells it: f32, bf16, s32, pred.
    dims: sizes of its dimensions.
    on_chip: whether it lies in the fast memory beside the processor (a TPU's
      VMEM), not in the device's main memory.
  """

  dtype: str
  dims: tuple[int, ...]
  on_chip: bool = False

  @property
  def size(self) -> int:
    """Bytes, without the padding of the device's layout."""
    bits = _BITS.get(self.dtype)
    if bits is None:
      bits = int((re.findall(r"\d+", self.dtype) or ["0"])[0])
    return math.prod(self.dims) * bits // 8

  def __str__(self) -> str:
    return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a program.

  Attributes:
    name: unique in the program.
    opcode: name of the operation.
    shapes: types of its result; several if that is a tuple.
    operands: names of the instructions whose results it reads.
    arguments: text in its brackets; the value of a constant.
    attributes: rest of the line.
    is_root: whether it is its computation's result.
  """

  name: str
  opcode: str
  shapes: tuple[Shape, ...]
  operands: tuple[str, ...]
  arguments: str
  attributes: str
  is_root: bool

  @property
  def size(self) -> int:
    """Bytes of the result."""
    return sum(shape.size for shape in self.shapes)

  @functools.cached_property
  def scope(self) -> str:
    """Path of the named scopes and functions it comes from; may be empty."""
    match = _OP_NAME.search(self.attributes)
    return match[1] if match else ""

  @functools.cached_property
  def called(self) -> tuple[str, ...]:
    """Names of the computations that it runs."""
    branches = _BRANCHES.search(self.attributes)
    inside = re.findall(r"%([\w.\-]+)", branches[1]) if branches else []
    return (*_CALLED.findall(self.attributes), *inside)

  def attribute(self, name: str) -> str:
    """Returns the value of NAME="..." or NAME=...; empty if absent."""
    match = re.search(rf'\b{name}=["%]?([\w.\-$]+)', self.attributes)
    return match[1] if match else ""


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program.

  Attributes:
    computations: name -> its instructions by name, callees before callers.
    times: computation -> how often a run of the program executes it. Each
      branch of a conditional counts as if it were always taken.
    unknown_loops: loops whose length the text does not tell; counted once.
  """

  computations: Mapping[str, Computation]
  times: Mapping[str, int]
  unknown_loops: int

  @functools.cached_property
  def fused(self) -> frozenset[str]:
    """Computations inside a fusion, whose results are never in memory."""
    return frozenset(
      name
      for computation in self.computations.values()
      for instruction in computation.values()
      if instruction.opcode == "fusion"
      for name in instruction.called
    )

  def executed(self) -> Iterator[tuple[Instruction, Computation, int]]:
    """Yields instruction, computation and executions, outside of fusions."""
    for name, computation in self.computations.items():
      if self.times[name] and name not in self.fused:
        for instruction in computation.values():
          yield instruction, computation, self.times[name]


def read(text: str) -> Program:
  """Parses what `jax.stages.Compiled.as_text` returns."""
  computations: dict[str, Computation] = {}
  current: Computation = {}
  entry = ""
  for line in text.splitlines():
    if head := _COMPUTATION.match(line):
      current = computations.setdefault(head[2], {})
      entry = head[2] if head[1] else entry
    elif instruction := _read_instruction(line):
      current[instruction.name] = instruction
  times = collections.Counter({entry: 1})
  unknown = 0
  for name in reversed(computations):
    for instruction in computations[name].values():
      trips: int | None = 1
      if instruction.opcode == "while":
        trips = _trips(instruction, computations[name], computations)
        unknown += trips is None
      if instruction.opcode in _RUN:
        for called in instruction.called:
          times[called] += times[name] * (1 if trips is None else trips)
  return Program(computations, times, unknown)


def _read_instruction(line: str) -> Instruction | None:
  head = _HEAD.match(line)
  if not head:
    return None
  rest = line[head.end() :]
  split = _closing(rest) if rest.startswith("(") else rest.find(" ")
  kind, rest = rest[:split], rest[split:].lstrip()
  opcode, _, _ = rest.partition("(")
  rest = rest[len(opcode) :]
  end = _closing(rest)
  arguments = rest[1 : end - 1]
  return Instruction(
    name=head[2],
    opcode=opcode,
    shapes=tuple(_read_shapes(kind)),
    operands=tuple(re.findall(r"%([\w.\-]+)", arguments)),
    arguments=arguments,
    attributes=rest[end:],
    is_root=bool(head[1]),
  )


def _read_shapes(text: str) -> Iterator[Shape]:
  for dtype, dims, layout in _SHAPE.findall(text):
    sizes = tuple(int(size) for size in dims.split(",") if size)
    # Memory space 0 is the main one and is not written.
    yield Shape(dtype, sizes, "S(" in layout)


def _closing(text: str) -> int:
  """Returns where the bracket that `text` starts with is closed, plus one."""
  depth = 0
  for bracket in re.finditer(r"[()]", text):
    depth += 1 if bracket[0] == "(" else -1
    if depth == 0:
      return bracket.end()
  return len(text)


def _trips(
  loop: Instruction,
  around: Computation,
  computations: Mapping[str, Computation],
) -> int | None:
  """Returns how often a loop runs; None if the text does not tell."""
  if known := _TRIPS.search(loop.attributes):
    return int(known[1])
  condition = computations[loop.attribute("condition")]
  (root,) = (i for i in condition.values() if i.is_root)
  if root.opcode != "compare" or root.attribute("direction") != "LT":
    return None
  index, bound = (_source(condition, name) for name in root.operands)
  if bound.opcode != "constant" or index.opcode != "get-tuple-element":
    return None
  initial, start = around[loop.operands[0]], 0
  if initial.opcode == "tuple":
    place = int(index.attribute("index"))
    first = _source(around, initial.operands[place])
    start = int(first.arguments) if first.opcode == "constant" else 0
  return int(bound.arguments) - start


def _source(computation: Computation, name: str) -> Instruction:
  """Returns the instruction that a name stands for, copies left out."""
  instruction = computation[name]
  while instruction.opcode in ("copy", "bitcast", "copy-done", "copy-start"):
    instruction = computation[instruction.operands[0]]
  return instruction


def kernels(program: Program) -> dict[str, int]:
  """Counts the executions of hand-written kernels and library calls.

  A Pallas kernel goes by its own name. Calls that the compiler itself adds, to
  mark a buffer or wait for one, are left out.
  """
  counts: collections.Counter[str] = collections.Counter()
  for name, computation in program.computations.items():
    for instruction in computation.values():
      if instruction.opcode == "custom-call":
        target = instruction.attribute("custom_call_target")
        if target in _INTERNAL or not program.times[name]:
          continue
        counts[_kernel_name(instruction, target)] += program.times[name]
  return dict(counts)


def _kernel_name(instruction: Instruction, target: str) -> str:
  path = instruction.scope.split("/")
  if path[-1] != "pallas_call" or not path[:-1]:
    return target
  return re.sub(r"^.*\((.+?)\)+$", r"\1", path[-2])  # jvp(jit(name))


def largest(program: Program, count: int) -> list[Instruction]:
  """Returns those with the largest results in main memory, one of a shape.

  Results live only while they are needed, so they do not add up to the
  program's memory; but the largest are where to look first.
  """
  best: dict[str, Instruction] = {}
  for instruction, _, _ in program.executed():
    if instruction.opcode in FREE or len(instruction.shapes) != 1:
      continue
    if not instruction.shapes[0].on_chip:
      best.setdefault(str(instruction.shapes[0]), instruction)
  ordered = sorted(best.values(), key=lambda i: i.size, reverse=True)
  return ordered[:count]


def tensors(program: Program) -> Iterator[tuple[Shape, str]]:
  """Yields every array that an instruction puts in memory, with its scope."""
  for instruction, _, _ in program.executed():
    if instruction.opcode not in FREE:
      for shape in instruction.shapes:
        yield shape, instruction.scope
