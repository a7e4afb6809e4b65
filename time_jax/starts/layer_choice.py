"""Which layers of its teacher a student begins with."""

from time_jax.core.errors import UserError

TEACHER = "teacher"
LOWER, SPACED = "lower", "spaced"


def is_teacher(init_from: str) -> bool:
  """Returns whether a student begins with layers of its teacher.

  Args:
    init_from: value of `student.init_from`.
  """
  return init_from.partition(":")[0] == TEACHER


def layers_of(init_from: str, wanted: int, highest: int) -> list[int]:
  """Returns the teacher's layer for each of the student's, from 1.

  Args:
    init_from: "teacher:lower" takes the lowest layers; "teacher:spaced" and
      "teacher" take evenly spaced ones, of which the last is the distilled one;
      "teacher:1,4,9" names them, in their order in the student.
    wanted: number of the student's layers; layers that are named are to be as
      many, which is for the caller to check.
    highest: the teacher's distilled layer, above which nothing is taken unless
      it is named.

  Raises:
    UserError: there are too few layers, or it is said in no such way.
  """
  chosen = init_from.partition(":")[2] or SPACED
  if chosen in (LOWER, SPACED):
    _check_enough(wanted, highest)
    top = wanted if chosen == LOWER else highest
    return [round(i * top / wanted) for i in range(1, wanted + 1)]
  try:
    return [int(number) for number in chosen.split(",")]
  except ValueError:
    raise UserError(
      f"student.init_from={init_from!r}: expected {TEACHER}:{LOWER}, "
      f"{TEACHER}:{SPACED} or layer numbers, such as {TEACHER}:1,4,9."
    ) from None


def _check_enough(wanted: int, highest: int) -> None:
  if wanted <= highest:
    return
  twice = ",".join(str(-(-i * highest // wanted)) for i in range(1, wanted + 1))
  raise UserError(
    f"student.num_layers={wanted} is more than the {highest} layers of the "
    f"teacher up to teacher.layer; expected at most {highest}, or a list in "
    f"which layers come twice, such as student.init_from={TEACHER}:{twice}."
  )
