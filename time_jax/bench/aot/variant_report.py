"""What `bench aot` reports of one variant of a run."""

import dataclasses

from time_jax.bench.aot.collectives import Total


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of one device.

  Attributes:
    parameters: parameters of the students.
    optimizer: state of the optimizer, and counters.
    teacher: the device's part of the teacher's parameters.
    batch: token rows.
    padding: bytes that the device's layout adds to these four.
    temporaries: activations, gradients and gathered parameters, at the peak.
    outputs: results that do not take the place of arguments.
    code: the program itself.
    total: sum of all.
  """

  parameters: int
  optimizer: int
  teacher: int
  batch: int
  padding: int
  temporaries: int
  outputs: int
  code: int
  total: int

  @property
  def held(self) -> int:
    """Bytes of the arguments, without the layout's padding."""
    return self.parameters + self.optimizer + self.teacher + self.batch


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A roofline: the seconds that each part of a device needs for one step.

  It is an estimate from published peaks and from the program's text, not a
  measurement.

  Attributes:
    compute: seconds for the method's matrix products, at the bfloat16 peak.
    hbm: seconds for the bytes to and from main memory, see `aot.traffic`; where
      this machine stands for the devices, only for what each step must move:
      state, weights and batch.
    ici: seconds for the bytes sent to other devices, in rings along one axis of
      a slice, or over NVLink.
    peak: FLOP/s of a device.
    hbm_bandwidth: bytes/s of main memory.
    ici_bandwidth: bytes/s of a ring.
    source: where the peak is published.
    link_source: where the bandwidths are published.
  """

  compute: float
  hbm: float
  ici: float
  peak: float
  hbm_bandwidth: float
  ici_bandwidth: float
  source: str
  link_source: str

  @property
  def best(self) -> float:
    """Seconds of a step if the three overlap wholly."""
    return max(self.compute, self.hbm, self.ici)

  @property
  def worst(self) -> float:
    """Seconds of a step if nothing overlaps."""
    return self.compute + self.hbm + self.ici


@dataclasses.dataclass(frozen=True)
class Report:
  """What compiling one variant of a run has shown.

  Attributes:
    topology: its name.
    device_kind: name of the devices, as JAX says it.
    devices: their number.
    mesh: axis -> size.
    global_batch_size: rows of a step.
    rows_per_device: rows of a micro-batch on one device.
    tokens: places of a step, rows times their length.
    accumulation: micro-batches of a step.
    forced: whether devices of this machine stand for the named ones.
    fits: whether the compiler accepts the program; if `forced`, whether this
      machine's program would be small enough; None where neither can be said.
    reason: why it does not fit.
    needed: bytes on a device that the reason names; 0 if it names none.
    capacity: bytes that a program may use on a device; None if not known.
    compile_seconds: seconds that the compiler took on this machine.
    cached: whether it had compiled the same before.
    memory: memory of a device; None, as all that follows, if nothing fits.
    optimizer_total: bytes of the optimizer's state, all devices together.
    kernels: hand-written kernels and library calls -> executions in a step.
    relation_matrices: shapes of S x S matrices that the relation loss holds,
      the largest first.
    heads_at_once: relation heads whose S x S matrices are held at a time.
    collectives: what devices exchange in a step, by kind.
    unreached: number of exchanges that are not among these, because nothing is
      known to run them.
    exchanges: the largest exchanges, as kind, bytes and scope.
    unknown_loops: loops whose length the text does not tell; counted once.
    largest: the largest results in main memory, as shape, bytes and scope.
    flops: FLOPs of the step on all devices, see `time_jax.step.flops`.
    relation_heads: numbers of relation heads R of the students, each once.
    estimate: estimate of the step's time; None if there is none.
    no_estimate: why there is none.
  """

  topology: str
  device_kind: str
  devices: int
  mesh: dict[str, int]
  global_batch_size: int
  rows_per_device: int
  tokens: int
  accumulation: int
  forced: bool
  fits: bool | None
  reason: str
  needed: int
  capacity: int | None
  compile_seconds: float
  cached: bool = False
  memory: Memory | None = None
  optimizer_total: int = 0
  kernels: dict[str, int] = dataclasses.field(default_factory=dict)
  relation_matrices: list[str] = dataclasses.field(default_factory=list)
  heads_at_once: float = 0
  collectives: list[Total] = dataclasses.field(default_factory=list)
  unreached: int = 0
  exchanges: list[tuple[str, int, str]] = dataclasses.field(
    default_factory=list
  )
  unknown_loops: int = 0
  largest: list[tuple[str, int, str]] = dataclasses.field(default_factory=list)
  flops: int = 0
  relation_heads: list[int] = dataclasses.field(default_factory=list)
  estimate: Estimate | None = None
  no_estimate: str = ""
