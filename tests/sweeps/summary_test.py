"""What the table of a sweep says, from files alone."""

import json
from types import SimpleNamespace

import pytest
from saving import lay_out

from time_jax.sweeps import summary


@pytest.mark.parametrize(
  ("logged", "found"),
  [
    ({}, None),
    ({12: None}, None),  # which stands for NaN
    ({step: 128 for step in range(1, 13)}, 1536),  # of all steps
    ({4: 100, 8: 150, 12: 140}, 1560),  # 12 steps of their mean
    ({step: 128 for step in range(1, 9999)}, 659_224),  # over and over it
  ],
)
def test_tokens_are_of_the_text_that_was_read(
  monkeypatch, tmp_path, logged, found
):
  rows = [{"step": step, "data/tokens": n} for step, n in logged.items()]
  text = "".join(json.dumps(row) + "\n" for row in rows)
  (tmp_path / "metrics.jsonl").write_text(text + '{"step": 12, "lr": 1}\n')
  prepared = SimpleNamespace(splits={"train": SimpleNamespace(tokens=659_224)})
  monkeypatch.setattr(summary.manifest, "is_prepared", lambda _: True)
  monkeypatch.setattr(summary.manifest, "load_manifest", lambda _: prepared)
  data = SimpleNamespace(data=SimpleNamespace(folder=""))
  values = SimpleNamespace(workdir=tmp_path, config=data)
  stage = SimpleNamespace(name="distill", values=values)
  assert (
    summary.tokens(SimpleNamespace(stages=[stage], folder=tmp_path)) == found
  )


def test_tokens_of_a_student_are_of_the_text_of_its_run(monkeypatch, tmp_path):
  lay_out(tmp_path)
  workdir = tmp_path / "students" / "xs"
  (workdir / "metrics.jsonl").write_text('{"step": 1, "data/tokens": 128}\n')
  asked = []
  monkeypatch.setattr(summary.manifest, "is_prepared", asked.append)
  data = SimpleNamespace(data=SimpleNamespace(folder=""))
  values = SimpleNamespace(workdir=workdir, config=data)
  stage = SimpleNamespace(name="distill", values=values)
  assert (
    summary.tokens(SimpleNamespace(stages=[stage], folder=tmp_path)) is None
  )
  assert asked == [tmp_path / "data"]
