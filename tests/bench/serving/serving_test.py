"""The load test of the server: what it counts, and what it says of failures."""

import json
import re

import pytest
import served

from time_jax.cli import main


@pytest.fixture(scope="module")
def export(mesh, tmp_path_factory):
  return served.export("qa", tmp_path_factory.mktemp("export"), mesh)


def bench(capsys, *flags, code=0):
  assert main.main(["bench", "serving", *map(str, flags)]) == code
  out, err = capsys.readouterr()
  return out if code == 0 else err


def test_a_table_and_its_numbers(export, tmp_path, capsys):
  inputs, out = tmp_path / "inputs.jsonl", tmp_path / "out.json"
  items = served.ITEMS["qa"][:2]
  inputs.write_text("".join(json.dumps(item) + "\n" for item in items))
  flags = "--requests=35", "--clients=3", "--together=2", f"--json={out}"
  output = bench(capsys, export, f"--inputs={inputs}", *flags)
  found = json.loads(out.read_text())
  # As many in each tenth of the run.
  assert found["request"]["n"] == 40 and len(found["memory"]) == 11
  assert "40, 2 inputs each" in output
  rate = float(re.search(r"\| requests/s +\| +([\d.]+)", output)[1])
  assert rate == pytest.approx(40 / found["wall"], abs=0.06)
  assert min(found["memory"]) > 10 << 20 and found["cpu"] > 0
  assert found["request"]["p50"] <= found["request"]["p99"] < found["ready"]


def test_what_is_refused_ends_it(export, tmp_path, capsys):
  inputs = tmp_path / "inputs.txt"
  inputs.write_text("no question\n")
  output = bench(capsys, export, f"--inputs={inputs}", code=3)
  assert "400: " in output and "expected a question" in output


def test_bad_input_gives_a_line(export, tmp_path, capsys):
  inputs = tmp_path / "inputs.txt"
  inputs.write_text("\n")
  output = bench(capsys, export, f"--inputs={inputs}", code=2)
  assert "is empty; expected an input a line" in output
  inputs.write_text('{"question": "a"}\n{\n')
  output = bench(capsys, export, f"--inputs={inputs}", code=2)
  assert "a line is not JSON" in output
  inputs.write_text("a\n")
  output = bench(capsys, tmp_path, f"--inputs={inputs}", code=2)
  assert "config.json is missing" in output
  output = bench(capsys, export, f"--inputs={tmp_path / 'no'}", code=2)
  assert "cannot be read" in output
