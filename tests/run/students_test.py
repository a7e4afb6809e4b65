"""Several students in one checkpoint, and the names of a single one's trees."""

import re

import orbax.checkpoint as ocp
import pytest
import running
import tiny_ner

from time_jax.cli import main
from time_jax.run import students


@pytest.mark.parametrize(
  ("values", "joined"),
  [
    ({"student": {"params": 1, "rest": 2}}, {"params": 1, "rest": 2}),
    (
      {"a": {"params": 1}, "b": {"params": 2, "ema": 3}},
      {"a.params": 1, "b.params": 2, "b.ema": 3},
    ),
  ],
)
def test_join_and_split(values, joined):
  assert students.join(values) == joined
  assert students.split(joined, tuple(values)) == values


_BLOCK = {
  *(f"{n}_norm/{x}" for n in ("attention", "ffn") for x in ("bias", "scale")),
  *(
    f"{name}/{x}"
    for name in ("attention_out", "ffn_in", "ffn_out", "key", "query", "value")
    for x in ("bias", "kernel")
  ),
}
ENCODER = {
  *(f"{place}/{name}" for place in ("last", "layers") for name in _BLOCK),
  *(f"embeddings/{n}/embedding" for n in ("position", "token_type", "word")),
  *("embeddings/norm/bias", "embeddings/norm/scale"),
}
STUDENT = ENCODER | {"pooler/bias", "pooler/kernel"}
MODEL = {
  *(f"encoder/{name}" for name in ENCODER),
  *("heads/Dense_0/bias", "heads/Dense_0/kernel"),
}
_ADAM = "opt_state/inner_states/trained/inner_state/1"
OPTIMIZER = {f"{_ADAM}/{name}" for name in ("count", "mu", "nu")}


def saved_names(folder):
  """Item of a checkpoint -> the names in it."""
  reader, found = ocp.PyTreeCheckpointer(), {}
  for item in folder.iterdir():
    if (item / "_METADATA").exists():
      tree = dict(reader.metadata(item.absolute()).item_metadata.tree)
      names = map("/".join, ocp.tree.to_flat_dict(tree))
      # Moments have the names of parameters below.
      found[item.name] = {re.sub("/(mu|nu)/.*", r"/\1", n) for n in names}
  return found


@pytest.mark.usefixtures("one_process")
def test_names_in_checkpoints_are_a_format(tiny, tmp_path):
  """Workdirs of earlier versions go on, and theirs read ours."""
  flags = [
    f"--config.{field}"
    for field in (
      *("train.num_steps=2", "train.warmup_steps=1", "data.validation=()"),
      *("train.ema=0.5", "train.spike=6"),
    )
  ]
  assert main.main(running.command(tiny, tmp_path / "run", *flags)) == 0
  assert saved_names(tmp_path / "run" / "checkpoints" / "2") == {
    "params": STUDENT,
    "ema": STUDENT,
    "rest": OPTIMIZER
    | {"step", "skipped", "skipped_in_a_row"}
    | {f"usual/{name}" for name in ("count", "mean", "spikes", "variance")},
  }

  model = tiny_ner.write_encoder(tmp_path / "encoder")
  tuned = tmp_path / "tuned"
  flags = "--config.train.epochs=1", "--config.train.warmup_steps=1"
  command = tiny_ner.command(model, tuned, *flags)
  assert main.main(command) == 0
  (folder,) = (tuned / "seed-101" / "checkpoints").glob("[0-9]*")
  assert saved_names(folder) == {
    "params": MODEL,
    "averaged": MODEL,
    "rest": OPTIMIZER | {"step"},
  }
