"""Workdirs of `finetune`, written with any scores."""

import json
import statistics

UD = {"UPOS": 90.0, "UFeats": 80.0, "Lemmas": 80.0, "UAS": 80.0, "LAS": 70.0}


def finetuned(folder, task, label, scores, *, by=None, **changes):
  """A workdir of `finetune`; scores: metric -> values of the seeds."""
  metrics = {
    name: {
      "mean": statistics.fmean(values),
      "std": statistics.stdev(values) if len(values) > 1 else 0.0,
      "values": values,
    }
    for name, values in scores.items()
  }
  count = max(map(len, scores.values()))
  content = {
    "schema": "time_jax.finetune/1",
    "task": task,
    "lang": "ga",
    "label": label,
    "fingerprint": label * 2,
    "parameters": {"all": 2_000_000, "without_embeddings": 1},
    "hardware": {"kind": "abacus", "n_devices": 1},
    "seeds": list(range(count)),
    "scores": {"test": metrics},
    **changes,
  }
  folder.mkdir()
  (folder / "scores.json").write_text(json.dumps(content))
  for seed in range(count):
    (folder / f"seed-{seed}").mkdir()
    text = json.dumps({"by": {"test": by or {}}})
    (folder / f"seed-{seed}" / "scores.json").write_text(text)
  return folder


def ud(folder, label, values, **changes):
  upos, lemmas, las = values
  own = (upos, lemmas, lemmas, lemmas, las)
  scores = dict(zip(UD, ([v] for v in own), strict=True))
  return finetuned(folder, "ud", label, scores, **changes)
