"""The card says what was recorded, and nothing else."""

import json

import pytest
import running
from exporting import command

from time_jax import card, distributed


@pytest.fixture(autouse=True)
def _this_process(monkeypatch):
  monkeypatch.setattr(distributed, "initialize", lambda: None)
  monkeypatch.setattr(distributed, "preempted", lambda step: False)
  path = str(running.ROOT / ".cache" / "xla")
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", path)


def test_the_card_says_what_the_run_recorded(capsys, tiny, tmp_path):
  run = tmp_path / "run"
  flags = "--config.train.num_steps=3", "--config.eval.every=2"
  command(capsys, *running.command(tiny, run, *flags))
  command(capsys, "choose", f"--workdir={run}")
  command(capsys, "export", f"--workdir={run}", "--license=cc-by-4.0")
  step = json.loads((run / "choice.json").read_text())["step"]
  text = (run / "export" / "README.md").read_text()
  rows = running.metrics(run)
  read = sum(r["data/tokens"] for r in rows if r["step"] <= step and len(r) > 5)
  losses = [
    (r["step"], r["train/loss"])
    for r in rows
    if "train/loss" in r and r["step"] <= step
  ]
  manifest = json.loads((run / "data" / "manifest.json").read_text())
  train = manifest["splits"]["train"]
  for name, value in {
    "teacher": "teacher",  # Not whose home it lies in.
    "distilled layer of the teacher": "2",
    "relation heads R": "4",
    "relations": "QQ, KK, VV",
    "training text": f"train.jsonl: {train['documents']} documents, "
    f"{train['tokens']:,} tokens, {train['rows']} rows, "
    f"{train['packing_efficiency']:.1%} full",
    "steps": str(step),
    "tokens read": f"{read:,.0f}",
    "relation loss in training": f"{losses[0][1]:.4f} (step 1), "
    f"{losses[-1][1]:.4f} (step {step})",
    "hardware of the session that saved it": "8 x cpu, 1 process(es)",
    "class": "BertModel",
  }.items():
    assert f"| {name} | {value} |" in text, name
  assert str(tiny) not in text
  assert "language: en" in text and "license: cc-by-4.0" in text
  assert "A small text encoder for English" in text
  command(capsys, "export", f"--workdir={run}")
  text = (run / "export" / "README.md").read_text()
  assert "license:" not in text and "of this model: not stated." in text


@pytest.mark.parametrize(
  ("text", "problem"),
  [
    ("# Title", "the front matter"),
    ("---\na: [\n---\n", "the front matter cannot be read"),
    ("---\ntags: [a]\n---\n", "the front matter lacks library_name"),
    ("---\ntags: [a]\n---\n$name", "places that were not filled"),
  ],
)
def test_what_a_card_lacks(text, problem):
  assert any(problem in found for found in card.problems(text))
