"""What the devices of a compiled program exchange, in bytes."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Iterator

from time_jax.bench.aot.program import Computation, Instruction, Program

# Bytes that a device sends in a ring of n, as a share of the payload: it passes
# on n - 1 of n parts, and does so twice in an all-reduce, which is a
# reduce-scatter and an all-gather. See
# https://jax-ml.github.io/scaling-book/sharding
_RING = {
  "all-gather": lambda n: (n - 1) / n,
  "all-reduce": lambda n: 2 * (n - 1) / n,
  "reduce-scatter": lambda n: (n - 1) / n,
  "all-to-all": lambda n: (n - 1) / n,
  "ragged-all-to-all": lambda n: (n - 1) / n,
  "collective-broadcast": lambda n: 1.0,
  "collective-permute": lambda n: 1.0,
}


@dataclasses.dataclass(frozen=True)
class Collective:
  """One exchange between devices.

  Attributes:
    kind: all-reduce, all-gather, reduce-scatter, all-to-all ...
    payload: bytes of the whole array, as one device of the group sees it
      before it is split or after it is joined.
    group: number of devices that take part together.
    times: executions in one run of the program.
    scope: path of named scopes that it comes from.
  """

  kind: str
  payload: int
  group: int
  times: int
  scope: str

  @property
  def sent(self) -> float:
    """Bytes that each device sends in one run, if the group is a ring."""
    return self.times * self.payload * _RING[self.kind](self.group)


@dataclasses.dataclass(frozen=True)
class Total:
  """All collectives of one kind.

  Attributes:
    kind: kind of `Collective`.
    count: executions in one run.
    payload: bytes of all of them.
    sent: bytes that each device sends, if every group is a ring.
  """

  kind: str
  count: int
  payload: int
  sent: int


def collectives(program: Program, num_devices: int) -> list[Collective]:
  """Returns all exchanges of a program between more than one device.

  Args:
    program: compiled program.
    num_devices: number of devices that it runs on.
  """
  return [c for c in _collectives(program, num_devices) if c.times]


def unreached(program: Program, num_devices: int) -> int:
  """Counts the exchanges in computations that nothing is known to run.

  Compilers find new ways to run something beside the program; exchanges that
  are started in such a way would be missing from `collectives` unnoticed.

  Args:
    program: compiled program.
    num_devices: number of devices that it runs on.
  """
  return sum(not c.times for c in _collectives(program, num_devices))


def totals(exchanges: Iterable[Collective]) -> list[Total]:
  """Returns the sums of each kind, the most bytes first."""
  groups = collections.defaultdict(list)
  for exchange in exchanges:
    groups[exchange.kind].append(exchange)
  rows = [
    Total(
      kind,
      sum(c.times for c in group),
      sum(c.times * c.payload for c in group),
      round(sum(c.sent for c in group)),
    )
    for kind, group in groups.items()
  ]
  return sorted(rows, key=lambda row: row.sent, reverse=True)


def _collectives(program: Program, num_devices: int) -> Iterator[Collective]:
  chains = set()
  for name, computation in program.computations.items():
    for instruction in computation.values():
      kind = instruction.opcode.removesuffix("-start")
      if kind not in _RING:
        continue
      group = _group(instruction, num_devices)
      # A TPU gathers while it computes: one collective then stands in each of
      # the fusions that it runs beside, as links of a chain.
      link = instruction.attribute("chain_id")
      chain = instruction.attribute("channel_id"), link
      if link and chain in chains:
        continue
      chains.add(chain)
      if kind == "all-reduce" and _scatters(instruction, computation):
        kind = "reduce-scatter"
      payload = _payload(kind, instruction, computation)
      times = program.times[name]
      if group > 1:
        yield Collective(kind, payload, group, times, instruction.scope)


def _scatters(instruction: Instruction, computation: Computation) -> bool:
  """Returns whether each device keeps only its own part of an all-reduce.

  That is how a TPU's program spells a reduce-scatter.
  """
  (root,) = (i for i in computation.values() if i.is_root)
  sliced = root.opcode == "dynamic-slice"
  return sliced and root.operands[0] == instruction.name


def _payload(
  kind: str, instruction: Instruction, computation: Computation
) -> int:
  read = [
    shape
    for name in instruction.operands
    if name in computation
    for shape in computation[name].shapes
  ]
  made = instruction.shapes
  if instruction.opcode.endswith("-start"):
    # Its result holds the operands, the results, and what is waited for.
    made = made[len(read) : 2 * len(read)]
  shapes = read if kind in ("all-reduce", "reduce-scatter") else made
  return sum(shape.size for shape in shapes)


def _group(instruction: Instruction, num_devices: int) -> int:
  """Returns the devices in each group; XLA writes groups in three ways.

  {{0,1},{2,3}}                       listed
  [2,4]<=[8]                          2 groups of 4
  mesh['x'=2,'y'=4], ... {'y'}        along axes of a mesh, or parts of one:
  mesh['x'=8] {'x':(1)2}              2 of the 8
  """
  text = instruction.attributes
  if "source_target_pairs=" in text:
    return num_devices
  if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", text):
    return listed[1].count(",") + 1
  if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", text):
    return int(iota[1])
  if mesh := re.search(
    r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text
  ):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
    axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])
    return math.prod(int(part or sizes[axis]) for axis, part in axes)
  return num_devices
