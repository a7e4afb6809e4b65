"""Bytes that a compiled program moves between a device and its main memory.

An instruction reads its operands and writes its result; a fusion reads what its
inner instructions use of the operands. So it is the sum of operand and result
bytes of XLA's own cost analysis ("bytes accessed"), but with loops multiplied
and slices and in-place updates counted as what they touch.
"""

import functools

from time_jax.bench.aot.program import FREE, Computation, Instruction, Program

_SLICES = ("dynamic-slice", "slice", "gather")
# Opcodes that give an array another name and do not use it.
_RENAMED = ("bitcast", "tuple", "get-tuple-element", "optimization-barrier")
# Targets of calls that only mark a buffer, or wait for one.
_MARKS = ("AllocateBuffer", "ConcatBitcast", "AsyncCollectiveDone")


def traffic(program: Program) -> int:
  """Returns the bytes read and written in one run, loops included.

  What lies in fast memory costs nothing. Caches and the padding of layouts are
  left out of account, so this is an estimate.
  """
  return sum(
    times * _moved(program, instruction, computation)
    for instruction, computation, times in program.executed()
  )


def _moved(
  program: Program, instruction: Instruction, computation: Computation
) -> int:
  if instruction.opcode in FREE or instruction.opcode.endswith("-done"):
    return 0
  if instruction.attribute("custom_call_target") in _MARKS:
    return 0
  operands = [
    computation[name] for name in instruction.operands if name in computation
  ]
  if instruction.opcode in ("copy-start", "slice-start"):
    return _copied(instruction, operands[0])
  reads = sum(
    _read(program, instruction, place, operand)
    for place, operand in enumerate(operands)
  )
  return reads + _written(program, instruction, computation)


def _copied(instruction: Instruction, source: Instruction) -> int:
  """Returns the bytes of an asynchronous copy; its result names its source."""
  arrays = [shape for shape in instruction.shapes if shape.dims]
  target = min(arrays, key=lambda shape: shape.size)
  sides = [*source.shapes, target]
  return sum(target.size for side in sides if not side.on_chip)


def _read(
  program: Program, user: Instruction, place: int, source: Instruction
) -> int:
  """Returns what an instruction reads of its operand number `place`."""
  if user.opcode in _SLICES and place == 0:
    return _in_memory(source) and user.size
  if user.opcode == "dynamic-update-slice" and place == 0:
    return 0  # It is changed in place.
  if user.opcode == "fusion" and _in_memory(source):
    inside = program.computations[user.called[0]]
    (parameter,) = (
      i
      for i in inside.values()
      if i.opcode == "parameter" and i.arguments == str(place)
    )
    return min(_used(program, inside, parameter), _in_memory(source))
  return _in_memory(source)


def _used(program: Program, inside: Computation, source: Instruction) -> int:
  """Returns what the instructions of a fusion read of one of its operands."""
  total = 0
  for user in inside.values():
    if source.name not in user.operands:
      continue
    if user.opcode in _RENAMED:
      total += _used(program, inside, user)
    elif not _is_link(user):
      total += _read(program, user, user.operands.index(source.name), source)
  return total


def _is_link(instruction: Instruction) -> bool:
  """Returns whether it is part of a collective that runs beside a fusion.

  The fusion that starts the collective counts for all of its links.
  """
  chained = bool(instruction.attribute("chain_id"))
  return chained or instruction.opcode == "custom-call"


def _written(
  program: Program, instruction: Instruction, computation: Computation
) -> int:
  if instruction.opcode == "fusion":
    inside = program.computations[instruction.called[0]]
    (root,) = (i for i in inside.values() if i.is_root)
    if root.opcode == "tuple":
      made = [inside[name] for name in root.operands]
      return sum(map(functools.partial(_made, inside), made))
    return min(_made(inside, root), _in_memory(instruction))
  if instruction.opcode == "dynamic-update-slice":
    return _made(computation, instruction)
  written = _in_memory(instruction)
  if instruction.opcode.endswith("-start"):
    written -= sum(_in_memory(computation[n]) for n in instruction.operands)
  return written


def _made(inside: Computation, instruction: Instruction) -> int:
  """Returns what one result of a fusion writes."""
  whole = _in_memory(instruction)
  while instruction.opcode == "bitcast":
    instruction = inside[instruction.operands[0]]
  if instruction.opcode == "dynamic-update-slice":
    return whole and inside[instruction.operands[1]].size
  passed_on = instruction.opcode == "parameter" or (
    instruction.opcode != "custom-call" and _is_link(instruction)
  )
  return 0 if passed_on else whole


def _in_memory(instruction: Instruction) -> int:
  return sum(s.size for s in instruction.shapes if not s.on_chip)
