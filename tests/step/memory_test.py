"""A step that cannot fit is told before it runs, with what it needs."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest
import running
from meshes import make_mesh

from time_jax.cli import main
from time_jax.core.errors import UserError
from time_jax.step import memory


def plan(temporaries, outputs=0, reused=0, arguments=10**9):
  return types.SimpleNamespace(
    temp_size_in_bytes=temporaries,
    output_size_in_bytes=outputs,
    alias_size_in_bytes=reused,
    argument_size_in_bytes=arguments,
  )


@dataclasses.dataclass
class Device:
  platform: str
  device_kind: str = "H100"


def test_devices_of_a_host_share_its_memory():
  gigabytes = 10**9
  needs = plan(3 * gigabytes, 2 * gigabytes, gigabytes)
  memory.check_fit(needs, [Device("cpu")] * 2, 8 * gigabytes)
  with pytest.raises(UserError) as caught:
    memory.check_fit(needs, [Device("cpu")] * 2, 7 * gigabytes)
  told = str(caught.value)
  assert "needs 8.00 GB on the host, for its 2 devices beside" in told
  assert "which take 1.00 GB, and 7.00 GB are left. Lower train.glob" in told
  memory.check_fit(needs, [Device("gpu")] * 8, 4 * gigabytes)
  with pytest.raises(UserError, match=r"4.00 GB on a device \(H100\) beside"):
    memory.check_fit(needs, [Device("gpu")] * 8, 3 * gigabytes)
  memory.check_fit(None, [Device("other")], 0)  # The backend does not tell.
  memory.check_fit(needs, [Device("gpu")], None)
  memory.check_fit(
    needs, [Device("cpu")] * 2, 16 * gigabytes, sharing_processes=2
  )
  with pytest.raises(UserError, match="16.00 GB on the host, for its 4 devi"):
    memory.check_fit(
      needs, [Device("cpu")] * 2, 15 * gigabytes, sharing_processes=2
    )


def test_what_a_run_of_several_students_takes_is_told():
  mesh = make_mesh(2, 2, 1)
  half = jax.sharding.NamedSharding(mesh, jax.P("fsdp"))
  whole = jax.sharding.NamedSharding(mesh, jax.P())
  wide = jax.ShapeDtypeStruct((100, 50), jnp.bfloat16, sharding=half)
  long = jax.ShapeDtypeStruct((3000,), jnp.float32, sharding=whole)
  states = {"m": {"a": wide, "b": long}, "xs": [long]}
  needs = plan(5000, outputs=700, reused=100)
  told = memory.describe(wide, states, needs, 7_000_000, [Device("gpu")] * 4)
  assert told == (
    "memory of a device: teacher 5 kB; m 17 kB, xs 12 kB (weights and "
    "optimizer); the step 5.6 kB more; 7 MB are left for it"
  )
  on_host = memory.describe(wide, states, needs, 10**6, [Device("cpu")] * 4)
  assert on_host.endswith("; 1 MB are left for it on the host, for 4 devices")
  one = memory.describe(wide, states, needs, 10**6, [Device("cpu")])
  assert one.endswith("; 1 MB are left for it on the host")
  unknown = memory.describe(wide, states, None, None, [Device("other")])
  assert told.startswith(unknown) and unknown.endswith(
    "(weights and optimizer)"
  )


def test_host_memory_says_nothing_of_an_accelerator(monkeypatch):
  device = types.SimpleNamespace(platform="gpu", memory_stats=lambda: None)
  monkeypatch.setattr(jax, "local_devices", lambda: [device])
  assert memory.free() is None
  device.platform = "cpu"
  assert memory.free() > 0


def test_what_does_not_fit_one_process_is_refused_in_all(monkeypatch):
  lowered = jax.jit(lambda x: x + 1).lower(jnp.zeros(3))
  told = []

  def all_gather(text):
    told.append(text)
    others = [text, "elsewhere"] if len(told) == 1 else ["it does not fit", ""]
    return [text, *others]

  def check(program, devices, left, processes):
    assert processes == 2

  monkeypatch.setattr(memory.host_collectives, "all_gather", all_gather)
  monkeypatch.setattr(memory, "check_fit", check)
  with pytest.raises(UserError, match="^it does not fit$"):
    memory.compile_step(lowered, make_mesh(1, 1, 1))
  assert told == [told[0], ""] and told[0]


@pytest.mark.usefixtures("one_process", "one_device")
@pytest.mark.parametrize("command", ["distill", "bench step"])
def test_a_step_that_cannot_fit_does_not_run(
  tiny, tmp_path, monkeypatch, capsys, command
):
  monkeypatch.setattr(memory, "free", lambda: 1000)
  words = running.command(tiny, tmp_path / "run")[1:]
  words.append("--config.data.validation=()")
  assert main.main([*command.split(), *words]) == 2
  told = capsys.readouterr().err
  assert "the training step does not fit: it needs " in told
  assert " on the host beside weights" in told
  assert running.last_step(tmp_path / "run") == -1


def test_a_compiler_that_runs_out_of_memory(monkeypatch):
  mesh = make_mesh(1, 1, 1)
  lowered = jax.jit(lambda x: x + 1).lower(jnp.zeros(3))
  assert memory.compile_step(lowered, mesh)(jnp.zeros(3)).tolist() == [1] * 3

  def compile_():
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 99 GB of 16.\nlong")

  failing = types.SimpleNamespace(compile=compile_)
  with pytest.raises(UserError, match=r"on a device: RESOURCE_.* of 16\. Low"):
    memory.compile_step(failing, mesh)


def test_what_is_left_of_a_container(tmp_path, monkeypatch):
  monkeypatch.setattr(memory, "_GROUP_FOLDER", tmp_path)
  assert memory._free_of_container() == []
  (tmp_path / "memory.max").write_text("max\n")
  (tmp_path / "memory.current").write_text("300\n")
  (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 100\n")
  assert memory._free_of_container() == []
  (tmp_path / "memory.max").write_text("1000\n")
  assert memory._free_of_container() == [800]
  assert memory.free() == 800


def test_what_is_left_of_the_host(tmp_path, monkeypatch):
  monkeypatch.setattr(memory, "_INFO", tmp_path / "meminfo")
  assert memory._free_of_host() > 2**20
  (tmp_path / "meminfo").write_text(
    "MemTotal: 9 kB\nMemAvailable:    7 kB\nHugePages_Total:  0\nSwapFree: 1 kB"
  )
  assert memory._free_of_host() == 8 * 1024
