"""Full disks, damaged text, rows and weights; losses that are no numbers."""

import gzip
import re
import shutil
import subprocess
import sys

import pytest
import running

KILL = "step:25:SIGKILL"


def flip(path):
  content = bytearray(path.read_bytes())
  used = [i for i, byte in enumerate(content) if byte]  # Others may be padding.
  content[used[len(used) // 2]] ^= 1
  path.write_bytes(content)


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# What runs where nothing else sees the mounted disk. It prints the exit code.
SCRIPT = """
mount -t tmpfs -o size=40m tmpfs "$WORKDIR" || exit 77
"$@"; echo "exit code $?"
rm "$WORKDIR/ballast"
date "+again at %s.%N"
FAULTS= "$@"; echo "exit code $?"
cp -r "$WORKDIR"/. "$KEPT"
"""


def test_a_full_disk(command, undisturbed, note, tmp_path):
  expected = undisturbed()
  workdir, kept = tmp_path / "run", tmp_path / "kept"
  workdir.mkdir()
  kept.mkdir()
  words = ["unshare", "-rm", "sh", "-c", SCRIPT, "sh", sys.executable, "-m"]
  done = subprocess.run(
    [*words, "tests.faults.disturbed", *command],
    cwd=running.ROOT,
    env=running.environment(FAULTS="full:2", WORKDIR=workdir, KEPT=kept),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    timeout=280,
  )
  if done.returncode in (1, 77) and "exit code" not in done.stdout:
    pytest.skip("this machine lets nobody mount a disk; see bad_input_test.py")
  assert "exit code 3" in done.stdout, done.stdout
  assert "No space left on device" in done.stdout
  assert "continuing after step 10" in done.stdout
  assert done.stdout.strip().endswith("exit code 0"), done.stdout
  running.assert_same_state(
    running.saved(kept, 40), running.saved(expected, 40)
  )
  again = float(re.search(r"^again at (.*)", done.stdout, re.MULTILINE)[1])
  # It had been at step 20, which was not saved.
  (new,) = [row for row in running.metrics(kept) if row["step"] == 21]
  outcome = "ended; resumed from 10, exact"
  note("disk full while saving", outcome, 3, new["time/unix"] - again)


@pytest.mark.parametrize("damage", [flip, truncate])
def test_rows(command, recovered, note, tmp_path, damage):
  code, output = running.disturbed(command, KILL)
  assert code == -9, output
  folder = tmp_path / "run" / "data" / "time_rows" / "1.0.0"
  (path,) = folder.glob("*train.array_record*")
  shutil.copy(path, tmp_path / "sound")
  damage(path)
  code, output = running.run(command)
  assert code == 2, output
  line = output.strip().splitlines()[-1]
  assert "time_jax: error: " in line and "damaged: " in line
  shutil.copy(tmp_path / "sound", path)
  seconds, _ = recovered()
  fault = f"ArrayRecord: {damage.__name__}"
  note(fault, "told by name; mended, resumed exact", 2, seconds)


@pytest.mark.parametrize("damage", [flip, truncate])
@pytest.mark.parametrize("kind", ["gz", "jsonl"])
def test_text(tiny, undisturbed, note, tmp_path, kind, damage):
  expected = undisturbed()
  text = (tiny / "train.jsonl").read_bytes()
  sound = gzip.compress(text) if kind == "gz" else text
  path = tmp_path / ("a.jsonl.gz" if kind == "gz" else "a.jsonl")
  path.write_bytes(sound)
  if kind == "jsonl" and damage is flip:  # Of a letter nobody can tell.
    path.write_bytes(sound.replace(b'{"text"', b'{"tex\x01t"', 7))
  else:
    damage(path)
  flags = (f"--config.data.train=('{path}',)", *strict(undisturbed))
  command = running.command(tiny, tmp_path / "run", *flags)
  code, output = running.run(command)
  assert code == 2, output
  last = output.strip().splitlines()[-1]
  assert last.startswith(f"time_jax: error: {path}:")
  path.write_bytes(sound)
  code, output, seconds = running.recover(command, tmp_path / "run")
  assert code == 0, output
  running.assert_same_state(
    running.saved(tmp_path / "run", 40), running.saved(expected, 40)
  )
  note(f"{kind}: {damage.__name__}", "told by name; mended, exact", 2, seconds)


def strict(undisturbed):
  return ("--config.data.max_bad_records=0", *undisturbed.flags)


@pytest.mark.parametrize("damage", [flip, truncate])
def test_weights(tiny, undisturbed, note, tmp_path, damage):
  folder = tmp_path / "own"
  shutil.copytree(tiny, folder)
  weights = folder / "teacher" / "model.safetensors"
  flags = [f"--config.data.train=('{tiny}/train.jsonl',)", *undisturbed.flags]
  flags += [f"--config.data.validation=('{tiny}/validation.txt',)"]
  command = running.command(folder, tmp_path / "run", *flags)
  code, output = running.disturbed(command, KILL)
  assert code == -9, output
  sound = weights.read_bytes()
  damage(weights)
  code, output = running.run(command)
  assert code == 2, output
  words = {
    flip: "this workdir belongs to another run: teacher weights (SHA-256)",
    truncate: "model.safetensors is damaged or incomplete",
  }
  assert words[damage] in output.strip().splitlines()[-1]
  weights.write_bytes(sound)
  code, output, seconds = running.recover(command, tmp_path / "run")
  assert code == 0, output
  running.assert_same_state(
    running.saved(tmp_path / "run", 40), running.saved(undisturbed(), 40)
  )
  fault = f"safetensors: {damage.__name__}"
  note(fault, "told; mended, resumed exact", 2, seconds)


def test_steps_without_a_number(command, tiny, recovered, note, tmp_path):
  """They are skipped and counted, and a kill in between changes nothing."""
  nan = {"FAULTS": "nan:22,nan:23", "MODULE": "tests.faults.disturbed"}
  whole = tmp_path / "whole"
  words = [word.replace(str(tmp_path / "run"), str(whole)) for word in command]
  code, output = running.run(words, **nan)
  assert code == 0, output
  code, output = running.disturbed(command, f"{nan['FAULTS']},{KILL}")
  assert code == -9, output
  seconds, _ = recovered(like=whole, **nan)
  state = running.saved(whole, 40)
  assert state[("rest", "skipped")] == 2
  note("NaN in steps 22, 23; kill -9", "skipped, resumed exact", 137, seconds)


def test_spikes(tiny, note, tmp_path, undisturbed):
  """As above; the average of the weights comes through it, too."""
  run, whole = tmp_path / "run", tmp_path / "whole"
  flags = ["--config.train.spike=8", "--config.train.ema=0.9"]
  command = running.command(tiny, run, *undisturbed.flags, *flags)
  words = [word.replace(str(run), str(whole)) for word in command]
  faults = "spike:27,nan:29,spike:33"
  spoilt = {"FAULTS": faults, "MODULE": "tests.faults.disturbed"}
  code, output = running.run(words, **spoilt)
  assert code == 0, output
  code, output = running.disturbed(command, f"{faults},step:35:SIGKILL")
  assert code == -9, output
  code, output, seconds = running.recover(command, run, **spoilt)
  assert code == 0, output
  found, expected = (running.saved(f, 40, ("ema",)) for f in (run, whole))
  assert found[("rest", "skipped")] == 3
  assert found[("rest", "usual", "spikes")] == 2
  running.assert_same_state(found, expected)
  outcome = "skipped, resumed exact"
  note("spikes in steps 27, 33; kill -9", outcome, 137, seconds)


def test_rows_that_cannot_be_read(command, recovered, note):
  code, output = running.disturbed(command, "lost:25")
  assert code == 42, output
  last = output.strip().splitlines()[-1]
  assert "although they are what was written: [Errno 5]" in last
  seconds, _ = recovered()
  note("no row can be read", "tried again, ended, resumed exact", 42, seconds)
