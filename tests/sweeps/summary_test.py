"""What the table of a sweep says, from files alone."""

import itertools
import json
from types import SimpleNamespace

import pytest
from saving import lay_out

from time_jax.sweeps import summary
from time_jax.sweeps.grid import Sweep
from time_jax.sweeps.points import Point


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


@pytest.mark.parametrize(
  ("tokens", "named"),
  [
    ((0, 400_000, 100_000, 400_000), False),
    ((0, 400_000, 400_000, None), False),  # of the last it is not known
    ((0, 400_000, 400_000, 400_000), True),  # they do not tell two apart
    ((400_000, 0, 100_000, 400_000), True),  # nor, here, which has more
  ],
)
@pytest.mark.parametrize("words", [False, True])
def test_tokens_are_an_axis_from_0_on(
  monkeypatch, tmp_path, tokens, named, words
):
  """Names say again what the axis says only where it does not."""
  drawn = []
  monkeypatch.setattr(
    summary.plot, "figure", lambda *args, **more: drawn.append((args, more))
  )
  monkeypatch.setattr(summary, "state", lambda *_: summary.DONE)
  texts = ("few", "more") if words else (9, 10)
  axes = {"size": ("s", "xs"), "steps": texts}
  points = [
    Point(f"{size}-{steps}", {"size": size, "steps": steps}, folder, ())
    for (size, steps), folder in zip(
      itertools.product(*axes.values()),
      [tmp_path / str(i) for i in range(4)],
      strict=True,
    )
  ]
  for point, number in zip(points, tokens, strict=True):
    point.folder.mkdir()
    if number is not None:
      text = json.dumps({"tokens": number})
      (point.folder / "tokens.json").write_text(text)
  sweep = Sweep(axes, lambda folder: [], x="tokens", y="LAS")
  summary.write(sweep, points, tmp_path)
  ((rows, xs, label), more), *_ = drawn
  assert label == "million tokens of text seen"
  assert xs == [n if n is None else n / 1e6 for n in tokens]
  assert more["logarithmic"] and not more["costs"]
  assert more["groups"] == ["size=s", "size=s", "size=xs", "size=xs"]
  names = [f"steps={text}" for text in texts] * 2
  assert [r.label for r in rows] == (names if named or words else [""] * 4)
  lines = (tmp_path / "sweep.md").read_text().splitlines()[2:6]
  cells = [line.split(" | ")[-2] for line in lines]
  assert cells == ["-" if n is None else f"{n:,}" for n in tokens]
  lines = (tmp_path / "sweep.csv").read_text().splitlines()[1:]
  cells = [line.split(",")[-2] for line in lines]
  assert cells == ["" if n is None else str(n) for n in tokens]
