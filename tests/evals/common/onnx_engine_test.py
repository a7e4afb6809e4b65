"""onnxruntime predicts what JAX predicts, in packed rows and alone."""

import importlib.util
import io
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
import tiny_ner
import tiny_qa
import tiny_ud
from flax.linen import meta

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from time_jax import api
from time_jax.cli import main
from time_jax.config import finetune
from time_jax.core.errors import UserError
from time_jax.evals.common import encoders, folder_writer, onnx_engine
from time_jax.evals.common.batches import Buckets
from time_jax.evals.common.task import FIRST
from time_jax.evals.ner import iob
from time_jax.evals.ner.task import Ner
from time_jax.evals.predict import engines
from time_jax.evals.predict.pipeline import open_pipeline
from time_jax.evals.qa import squad
from time_jax.evals.qa.task import Qa
from time_jax.evals.ud import conllu
from time_jax.evals.ud.task import Ud
from time_jax.hf import onnx_graph

LINES = "Tá an lá go breá .\nNíl .\n"


def beat():
  pass


def make_task(kind, tiny, config, items, mesh, folder, **rows):
  opened = encoders.open_encoder(
    str(tiny.write_encoder(folder / "encoder")), mesh=mesh, dtype="float32"
  )
  return kind(config, {"train": items}, opened, Buckets(**rows), mesh)


def parameters(task):
  """Random ones; larger than those of the start, which tell no words apart."""
  fresh = meta.unbox(jax.jit(task.fresh)(jax.random.key(0)))
  heads = jax.tree.map(lambda leaf: 3 * leaf, fresh["heads"])
  return {"encoder": task.opened.params, "heads": heads}


@pytest.fixture(scope="module")
def ud(mesh, tmp_path_factory):
  config = finetune.ud_config()
  config.heads.update(hidden=16, arc=16, relation=8)
  return make_task(
    *(Ud, tiny_ud, config),
    conllu.read(tiny_ud.UD / "ga-train.conllu.gz"),
    *(mesh, tmp_path_factory.mktemp("ud")),
    lengths=(16, 32, 64),
    shared=64,
  )


@pytest.fixture(scope="module")
def folder(ud, tmp_path_factory):
  """The folder of a fine-tuned model."""
  out = tmp_path_factory.mktemp("model") / "model"
  params = parameters(ud)
  description = {"task": "ud", "buckets": ud.buckets.lengths, **ud.spec}
  folder_writer.write_folder(out, ud.opened, params, description)
  return out


def engine_of(network, params, *, int8=False):
  graphs = network.graphs(params)
  return onnx_engine.make_engine(graphs, params, int8=int8)


def assert_equal_where_real(expected, found, real):
  """Whole numbers are the same; others differ by 1e-5 of the largest."""
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for theirs, ours in zip(
    *map(jax.tree.leaves, (expected, found)), strict=True
  ):
    assert ours.shape == theirs.shape
    if ours.shape[1] == real.shape[1] + 1:  # The first is the root.
      ours, theirs = ours[:, 1:], theirs[:, 1:]
    ours, theirs = ours[real], theirs[real]
    if np.issubdtype(theirs.dtype, np.integer):
      np.testing.assert_array_equal(ours, theirs)
    else:
      # Heads that are not possible have the least there is.
      scores = theirs[theirs > -1e3]
      assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(scores).max()


def test_scores_of_ud(ud):
  network, params = ud.network, parameters(ud)
  ours, theirs = engine_of(network, params), network.engine(params)
  items = conllu.read(tiny_ud.UD / "ga-dev.conllu.gz")
  shapes = set()
  for some in (items, items[:1]):
    for _, host in network.prepare(some).batches:
      expected = jax.device_get(theirs.start(FIRST, host))
      real = host.segment_of_word > 0
      found = jax.device_get(ours.start(FIRST, host))
      assert_equal_where_real(expected, found, real)
      shapes.add(real.shape)
  assert len(shapes) > 1 and real.sum() < real.size


@pytest.mark.parametrize("together", [True, False])
def test_trees_and_labels_of_ud(ud, together):
  network, params = ud.network, parameters(ud)
  engine = engine_of(network, params)
  items = conllu.read(tiny_ud.UD / "ga-dev.conllu.gz")
  expected = network.annotate(params, items)
  assert len({*expected[0].column("DEPREL")}) > 1
  groups = [items] if together else [[item] for item in items]
  found = []
  for some in groups:
    found += network.finish(engine, network.prepare(some), beat)
  assert conllu.to_text(found) == conllu.to_text(expected)


def test_without_relations(mesh, tmp_path):
  items = [
    s.with_columns({"DEPREL": ["_"] * len(s.column("FORM"))})
    for s in conllu.read(tiny_ud.UD / "ga-train.conllu.gz")
  ]
  config = finetune.ud_config()
  config.heads.update(hidden=16, arc=16, relation=8)
  task = make_task(*(Ud, tiny_ud, config, items, mesh, tmp_path), lengths=(64,))
  params = parameters(task)
  assert engine_of(task.network, params).sessions.keys() == {FIRST}


def test_tags_of_ner(mesh, tmp_path):
  items = iob.read(tiny_ner.NER / "da-train.iob2")
  task = make_task(
    *(Ner, tiny_ner, finetune.ner_config(), items, mesh, tmp_path),
    lengths=(32, 64),
    shared=64,
  )
  network, params = task.network, parameters(task)
  engine = engine_of(network, params)
  dev = iob.read(tiny_ner.NER / "da-dev.iob2")
  expected = network.annotate(params, dev)
  assert len({tag for sentence in expected for tag in sentence.tags}) > 2
  found = network.finish(engine, network.prepare(dev), beat)
  assert iob.to_text(found) == iob.to_text(expected)
  alone = network.finish(engine, network.prepare(dev[:1]), beat)
  assert iob.to_text(alone) == iob.to_text(expected[:1])


def test_answers_of_qa(mesh, tmp_path):
  items = squad.read(tiny_qa.QA / "en-train.json")
  config = finetune.qa_config()
  config.data.overlap = 24
  task = make_task(*(Qa, tiny_qa, config, items, mesh, tmp_path), lengths=(96,))
  network, params = task.network, parameters(task)
  engine, theirs = engine_of(network, params), network.engine(params)
  dev = squad.read(tiny_qa.QA / "en-dev.json")
  for rows, host in network.prepare(dev).batches:
    expected = jax.device_get(theirs.start(FIRST, host))
    found = jax.device_get(engine.start(FIRST, host))
    for ours, expected_one in zip(found, expected, strict=True):
      some = slice(len(rows))
      np.testing.assert_allclose(ours[some], expected_one[some], rtol=1e-5)
  answers = network.finish(engine, network.prepare(dev), beat)
  expected = network.annotate(params, dev)
  texts = [[q.answers[0].text for q in some] for some in (answers, expected)]
  assert texts[0] == texts[1] and len({*texts[0]}) > 2


def test_weights_that_one_file_cannot_take(ud, monkeypatch):
  network, params = ud.network, parameters(ud)
  (_, host), *_ = network.prepare([ud.data["train"][0]]).batches
  plain = [engine_of(network, params, int8=i) for i in (False, True)]
  monkeypatch.setattr(onnx_graph, "_LARGEST", 2**20)
  beside = [engine_of(network, params, int8=i) for i in (False, True)]
  for ours, theirs in zip(beside, plain, strict=True):
    *_, arcs = ours.start(FIRST, host)
    *_, expected = theirs.start(FIRST, host)
    np.testing.assert_allclose(arcs, expected, atol=1e-4)


def test_int8(ud, folder):
  """It is near, and not the same."""
  network, params = ud.network, parameters(ud)
  (_, host), *_ = network.prepare(ud.data["train"]).batches
  real = host.segment_of_word > 0
  exact, rough = (
    np.asarray(
      engine_of(network, params, int8=int8).start(FIRST, host)[0].dependents
    )
    for int8 in (False, True)
  )
  error = np.linalg.norm((rough - exact)[real]) / np.linalg.norm(exact[real])
  assert 1e-4 < error < 0.2
  found = api.predict(folder, LINES, int8=True)
  assert len(found.split("\n\n")) == LINES.count("\n") + 1


def test_the_command(folder, capsys, monkeypatch):
  printed = []
  for flags, by in (
    (["--engine=jax"], "JAX on cpu"),
    (["--engine=onnxruntime"], "onnxruntime on cpu"),
    ([], "onnxruntime on cpu"),
    (["--int8"], "onnxruntime on cpu in int8"),
  ):
    source = types.SimpleNamespace(buffer=io.BytesIO(LINES.encode()))
    monkeypatch.setattr("sys.stdin", source)
    assert main.main(["predict", str(folder), *flags]) == 0
    output, notes = capsys.readouterr()
    assert notes.splitlines()[-1].endswith(f"; computed by {by}.")
    printed.append(output)
  assert printed[0] == printed[1] == printed[2] != ""
  assert printed[0] == api.predict(folder, LINES, "jax")


def test_auto_follows_its_rule(ud, monkeypatch):
  network = ud.network

  def chosen(**options):
    return engines.choose(network, "auto", **{"int8": False} | options)

  assert chosen() == "onnxruntime"
  with monkeypatch.context() as patch:
    patch.setattr(jax, "default_backend", lambda: "gpu")
    assert chosen() == "jax"
    assert chosen(int8=True) == "onnxruntime"
  with monkeypatch.context() as patch:
    patch.setattr(
      importlib.util, "find_spec", lambda name: name == "onnx" or None
    )
    assert chosen() == "jax"


def other_family():
  opened = types.SimpleNamespace(
    config=object(), hf_config={"model_type": "deberta-v2"}
  )
  return types.SimpleNamespace(opened=opened)


def test_another_family():
  network = other_family()
  assert engines.choose(network, "auto", int8=False) == "jax"
  for name, int8 in (("onnxruntime", False), ("auto", True)):
    with pytest.raises(UserError, match="'deberta-v2'; use --engine=jax"):
      engines.choose(network, name, int8=int8)


def test_what_is_refused(folder, monkeypatch):
  with pytest.raises(UserError, match="engine='torch' is not known; .* jax,"):
    open_pipeline(folder, "torch")
  with pytest.raises(UserError, match="by onnxruntime alone, and engine=jax"):
    open_pipeline(folder, "jax", int8=True)
  monkeypatch.setitem(sys.modules, "onnxruntime", None)
  with pytest.raises(UserError, match=r"onnxruntime is not .*: pip install"):
    open_pipeline(folder, "onnxruntime")


def test_what_opening_a_model_does_not_import(folder):
  """Each of these takes longer to import than the model takes to open."""
  script = (
    "import sys\n"
    "from time_jax.cli import main\n"
    "assert main.main(sys.argv[1:]) == 0\n"
    "print(*sys.modules, file=sys.stderr)\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", script, "predict", str(folder), "--int8"],
    input=LINES,
    capture_output=True,
    text=True,
    check=True,
  )
  imported = {*done.stderr.split()}
  assert {"onnx", "onnxruntime"} <= imported
  assert not imported & {
    *("orbax", "optax", "grain", "tensorflow_datasets", "transformers"),
    *("torch", "requests", "onnxruntime.quantization"),
    *("jax.experimental.pallas.tpu", "jax.experimental.pallas.triton"),
  }
