"""However long sentences are, a program is compiled for each bucket only."""

import dataclasses

import jax
import pytest
import tiny_ner
import tiny_ud

from time_jax.config import finetune
from time_jax.evals.common import encoders, optimization, tuning
from time_jax.evals.common.batches import Epochs, make_buckets, place
from time_jax.evals.ner import iob
from time_jax.evals.ner import task as ner_task


@pytest.fixture(scope="module")
def compiled():
  """Grows by one with every program that XLA makes, or finds in its cache."""
  found = []

  def listen(event, seconds, **more):
    if event == "/jax/core/compile/backend_compile_duration":
      found.append(seconds)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield found
  jax.monitoring.unregister_event_duration_listener(listen)


def sentences(lengths):
  words = [w for s in iob.read(tiny_ner.NER / "da-train.iob2") for w in s.words]
  return [iob.make_sentence(words[n : 2 * n]) for n in lengths]


def test_one_program_a_bucket(compiled, mesh, tmp_path):
  data = iob.read(tiny_ner.NER / "da-train.iob2")
  texts = [" ".join(sentence.words) for sentence in data]
  model = tiny_ud.write_bert(tmp_path / "model", texts, longest=32)
  opened = encoders.open_encoder(str(model), mesh=mesh, dtype="float32")
  config = finetune.ner_config()
  buckets = make_buckets((16,), 32, mesh)
  task = ner_task.Ner(config, {"train": data}, opened, buckets, mesh)
  assert len({*task.examples.sizes}) > len(buckets.lengths) == 2
  run = tuning.Tuning(
    task=task,
    recipe=optimization.recipe_of(config, seed=0),
    batches=Epochs(
      task.examples,
      dataclasses.replace(buckets, shared=16),
      batch_size=8,
      max_tokens=1024,
      epochs=3,
      seed=0,
    ),
    mesh=mesh,
    workdir=tmp_path,
    record={},
    encoder=opened.params,
    model=opened.identity,
  )
  states, marks = {"student": run.first_state()}, []
  for i in range(3 * run.batches.steps):
    if i % run.batches.steps == 0:
      marks.append(len(compiled))
    batch = place(run.batches.batch_at(i), mesh)
    states, _ = run.step(i, states, batch)
  assert run.gradients._cache_size() == 2 and run.update._cache_size() == 1
  assert marks[0] < marks[1] == marks[2] == len(compiled)
  (state,) = states.values()

  task.network.annotate(state.ema, sentences(range(1, 20)))
  assert task.network.compiled["outputs"]._cache_size() == 2
  before = len(compiled)
  task.network.annotate(state.ema, sentences([5, 17, 2, 40, 31]))
  assert len(compiled) == before
