"""Fine-tuned models as transformers opens them, exported and verified.

These tests run in transformers 4.57 and 5.
"""

import dataclasses
import itertools
import json
import re
import shutil

import alone
import flax
import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
import tiny_ner
import tiny_qa
import tiny_ud
import torch
import transformers
from exporting import command

from time_jax.config import finetune
from time_jax.core.errors import UserError
from time_jax.evals.common import encoders, model_folder
from time_jax.evals.ner import iob
from time_jax.evals.ner.tagger import TAG
from time_jax.evals.predict.pipeline import open_pipeline
from time_jax.evals.publish import export_task, onnx_parser
from time_jax.evals.qa import squad
from time_jax.evals.qa.windows import WindowCutter
from time_jax.evals.ud import conllu
from time_jax.evals.ud.task import Ud
from time_jax.hf import save
from time_jax.release import task_card
from time_jax.release.options import Options

TINY = {"ner": tiny_ner, "qa": tiny_qa}
CLASSES = {
  "ner": "BertForTokenClassification",
  "qa": "BertForQuestionAnswering",
}
SENTENCES = b"Marie Curie blev .\n\nWarszawa er en by .\n"
TASKS = pytest.mark.parametrize("task", TINY)


@pytest.fixture(scope="module")
def models(mesh, tmp_path_factory):
  """Task -> the folder of a model, as finetune leaves it; not to be changed."""
  home = tmp_path_factory.mktemp("models")
  all_of_them = {**TINY, "ud": tiny_ud}
  return {
    task: tiny.write_model(home / task, mesh)
    for task, tiny in all_of_them.items()
  }


@pytest.fixture
def model(models, tmp_path):
  """A copy of the model of names, to damage."""
  return shutil.copytree(models["ner"], tmp_path / "seed-0" / "model")


@TASKS
def test_it_is_exported_and_verified(models, task, tmp_path):
  out = tmp_path / "out"
  flags = f"--out={out}", "--license=cc-by-4.0"
  output = alone.run("export", f"--workdir={models[task]}", *flags)
  assert f"Exported {models[task]} to {out} ({CLASSES[task]})" in output
  assert f"Next: python -m time_jax verify {out}\n" in output
  marks = {line[8:30].strip(): line.split()[0] for line in table(output)}
  assert (
    marks["PyTorch, logits"] == marks["files"] == marks["model card"] == "ok"
  )
  assert "WRONG" not in output
  record = json.loads((out / "time_jax.json").read_text())
  assert record["task"] == task and record["class"] == CLASSES[task]
  assert {*record["files"]} == {
    *("config.json", "model.safetensors", "task.json", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json"),
  }
  card = (out / "README.md").read_text()
  assert "license: cc-by-4.0" in card and str(out) in card
  # Again, over the earlier one; and what was exported can be run.
  alone.run("export", f"--workdir={models[task]}", *flags)
  assert open_pipeline(out, engine="jax").task == task


def table(output):
  return [line for line in output.splitlines() if line.startswith("  ")]


@TASKS
def test_what_finetune_leaves_can_be_verified(models, task):
  output = alone.run("verify", models[task])
  assert "WRONG" not in output and "PyTorch, logits" in output
  card = (models[task] / "README.md").read_text()
  assert str(models[task]) in card and "Not measured." in card


def test_transformers_finds_the_tags_that_predict_finds(models):
  sentences = iob.read(tiny_ner.NER / "da-dev.iob2")[:20]
  pipeline = open_pipeline(models["ner"], engine="jax")
  tags = pipeline.network.tags
  tokenizer = transformers.AutoTokenizer.from_pretrained(models["ner"])
  model = transformers.AutoModelForTokenClassification.from_pretrained(
    models["ner"]
  )
  assert [*model.config.id2label.values()] == [*tags]
  chunks = pipeline.network.tokenizer.chunks([s.words for s in sentences])
  whole = [
    chunk
    for chunk in chunks  # Others are read in parts.
    if chunk.num_words == len(sentences[chunk.sentence].words)
  ]
  assert len(whole) > 5
  for chunk in whole:
    words = sentences[chunk.sentence].words
    inputs = tokenizer(" ".join(words), return_tensors="pt")
    np.testing.assert_array_equal(inputs.input_ids[0], chunk.tokens)
    with torch.no_grad():
      best = model(**inputs).logits[0].argmax(-1).numpy()
    _, first = np.unique(chunk.word_of_token, return_index=True)
    found = pipeline.annotate([sentences[chunk.sentence]])[0].tags
    raw = [tags[best[i]] for i in first[1:]]
    assert [*found] == [*iob.repair(raw)]
  assert TAG in json.loads((models["ner"] / "task.json").read_text())["classes"]


def test_transformers_reads_a_question_as_predict_does(models, mesh):
  opened = encoders.open_encoder(str(models["qa"]), mesh=mesh, dtype=np.float32)
  types = opened.config.num_token_types
  cutter = WindowCutter(opened.tokenizer, opened.longest, 24, types)
  tokenizer = transformers.AutoTokenizer.from_pretrained(models["qa"])
  questions = squad.read(tiny_qa.QA / "en-dev.json")
  for question in questions:
    # As much of the context as fits into one window.
    question = dataclasses.replace(question, context=question.context[:40])
    (window,) = cutter.windows([question])
    inputs = tokenizer(question.text.strip(), question.context)
    assert inputs["input_ids"] == window.tokens.tolist()
    assert inputs["token_type_ids"] == window.token_types.tolist()
    assert max(inputs["token_type_ids"]) == 1


def test_a_model_is_never_replaced_by_an_export(model, capsys):
  before = sorted(model.iterdir())
  flags = f"--workdir={model}", f"--out={model}"
  output = command(capsys, "export", *flags, code=2)
  assert "is no earlier export" in output
  assert sorted(model.iterdir()) == before
  command(capsys, "export", f"--workdir={model}")
  assert (model.parent / "export" / "time_jax.json").exists()


def test_what_has_no_meaning_here_is_refused(model, capsys):
  flags = "--drop_last", "--step=3", "--class=BertModel"
  output = command(capsys, "export", f"--workdir={model}", *flags, code=2)
  assert "--step, --class, --drop_last: " in output
  workdir = model.parents[1]
  output = command(capsys, "export", f"--workdir={workdir}", code=2)
  assert f"expected one of its models: {model}." in output


def test_damage_is_found(model, capsys):
  path = model / "config.json"
  content = json.loads(path.read_text())
  path.write_text(json.dumps(content | {"architectures": ["BertModel"]}))
  output = command(capsys, "export", f"--workdir={model}", code=2)
  assert "expected a class with one linear layer" in output
  assert not (model.parent / "export").exists()
  path.write_text(json.dumps(content))
  command(capsys, "export", f"--workdir={model}")
  weights = model.parent / "export" / "model.safetensors"
  data = bytearray(weights.read_bytes())
  data[-1] ^= 1
  weights.write_bytes(data)
  output = command(capsys, "verify", model.parent / "export", code=2)
  assert "model.safetensors was changed after" in output


@pytest.mark.parametrize("task", ["ner", "ud"])
def test_newer_formats_are_refused_and_older_ones_read(
  models, task, mesh, tmp_path
):
  model = shutil.copytree(models[task], tmp_path / "model")
  path = model / "task.json"
  content = json.loads(path.read_text())
  assert content["format"] == 2
  path.write_text(json.dumps(content | {"format": 3}))
  with pytest.raises(UserError, match="format 3, and this time_jax"):
    open_pipeline(model)
  path.write_text(json.dumps(content))
  items = open_pipeline(model).format.read([SENTENCES])
  items = [*itertools.chain.from_iterable(items)]
  expected = open_pipeline(model, engine="jax").annotate(items)
  # As it was before: the encoder in a folder, the head beside it.
  opened, params = model_folder.read_model(model, mesh)
  before = tmp_path / "before"
  (before / "encoder").mkdir(parents=True)
  assert opened.params is not None
  encoders.write_encoder(before / "encoder", opened, opened.params)
  # Then the encoder kept the class that it came with.
  edit(before / "encoder" / "config.json", architectures=[CLASSES["ner"]])
  heads = flax.traverse_util.flatten_dict(params["heads"], sep="/")
  save.write_safetensors(before / "heads.safetensors", heads)
  del content["format"]
  (before / "task.json").write_text(json.dumps(content))
  assert open_pipeline(before, engine="jax").annotate(items) == expected
  with pytest.raises(
    UserError, match="before was written by an earlier version, with"
  ):
    export_task.export_task(before, None, None, Options())


def test_a_treebank_model_is_exported_with_its_heads(models, tmp_path):
  out = tmp_path / "out"
  output = alone.run("export", f"--workdir={models['ud']}", f"--out={out}")
  assert "WRONG" not in output and "PyTorch, text" in output
  assert "PyTorch, logits" not in output
  card = (out / "README.md").read_text()
  assert f"time_jax predict {str(out)!r}" in card
  assert "library_name: time_jax" in card
  record = json.loads((out / "time_jax.json").read_text())
  assert "heads.safetensors" in record["files"]
  encoder = transformers.AutoModel.from_pretrained(out)
  assert encoder.config.architectures == ["BertModel"]
  assert open_pipeline(out, engine="jax").task == "ud"


@TASKS
def test_onnx_files_have_the_names_that_others_look_for(
  models, task, mesh, tmp_path
):
  out = tmp_path / "out"
  flags = f"--out={out}", "--onnx"
  output = alone.run("export", f"--workdir={models[task]}", *flags)
  assert re.search(r"ok +onnx/model\.onnx .*equals JAX", output)
  assert re.search(r"ok +onnx/model_quantized\.onnx .*logits differ", output)
  tokenizer = transformers.AutoTokenizer.from_pretrained(out)
  texts = {
    "ner": (["Marie Curie blev født .", "Warszawa"],),
    "qa": (["Who?", "Where was it"], ["Marie Curie .", "In Warszawa"]),
  }[task]
  inputs = tokenizer(*texts, return_tensors="np", padding=True)
  loader = getattr(transformers, CLASSES[task])
  tensors = {k: torch.tensor(x) for k, x in inputs.items()}
  with torch.no_grad():
    expected = loader.from_pretrained(out).eval()(**tensors)
  session = onnxruntime.InferenceSession(out / "onnx" / "model.onnx")
  found = session.run(None, dict(inputs))
  names = [each.name for each in session.get_outputs()]
  assert names == list(expected.keys())
  real = inputs["attention_mask"] > 0
  for name, array in zip(names, found, strict=True):
    np.testing.assert_allclose(
      array[real], expected[name].numpy()[real], atol=1e-5
    )
  rough = onnxruntime.InferenceSession(out / "onnx" / "model_quantized.onnx")
  for exact, array in zip(found, rough.run(None, dict(inputs)), strict=True):
    assert 0 < np.abs(array - exact)[real].max() < 0.5 * np.abs(exact).max()
  weights = onnx.load(out / "onnx" / "model_quantized.onnx").graph.initializer
  kinds = {weight.name: weight.data_type for weight in weights}
  assert kinds["head.kernel"] == onnx.TensorProto.FLOAT
  assert kinds["layer0.query.kernel.int8"] == onnx.TensorProto.INT8


def test_a_treebank_model_as_onnx_files(models, tmp_path):
  out = tmp_path / "out"
  flags = f"--out={out}", "--onnx"
  output = alone.run("export", f"--workdir={models['ud']}", *flags)
  words = r"ok +onnx/model\.onnx .*equals JAX within .*, (\d+) of (\d+) labels"
  equal, total = map(int, re.search(words, output).groups())
  assert total > 100 and equal >= total - 1
  rough, total = map(
    int, re.search(r"int8: (\d+) of (\d+) labels equal", output).groups()
  )
  assert total / 2 < rough  # Random weights: many scores are near each other.
  session = onnxruntime.InferenceSession(out / "onnx" / "model.onnx")
  assert [each.name for each in session.get_inputs()] == [
    *("input_ids", "attention_mask", "word_of_token")
  ]
  names = {path.name for path in (out / "onnx").iterdir()}
  assert names == {"model.onnx", "model_quantized.onnx", "relations.onnx"}
  record = json.loads((out / "time_jax.json").read_text())
  assert {f"onnx/{name}" for name in names} <= {*record["files"]}


def test_a_parser_that_differs_from_jax_is_not_exported(
  models, tmp_path, monkeypatch, capsys
):
  whole = onnx_parser._with_onnx

  def shifted(path, network, batch):
    found = whole(path, network, batch)
    wrong = {name: array + 1 for name, array in found.classes.items()}
    return found._replace(classes=wrong)

  monkeypatch.setattr(onnx_parser, "_with_onnx", shifted)
  flags = f"--workdir={models['ud']}", f"--out={tmp_path / 'out'}", "--onnx"
  output = command(capsys, "export", *flags, code=3)
  assert "labels otherwise than JAX; expected at most 5%" in output
  assert not (tmp_path / "out").exists()


def edit(path, **changes):
  content = json.loads(path.read_text()) | changes
  path.write_text(json.dumps(content))


@pytest.mark.parametrize(
  ("name", "changes", "message"),
  [
    ("task.json", {"task": "pos"}, "is of task 'pos'; expected one of ner, qa"),
    ("task.json", {"classes": 3}, "classes is 3; expected lists of names"),
    ("task.json", {"format": 3}, "of format 3, and this time_jax reads"),
    ("config.json", {"model_type": ["bert"]}, "of model_type ['bert']"),
  ],
)
def test_edited_files_give_a_line(model, capsys, name, changes, message):
  edit(model / name, **changes)
  output = command(capsys, "export", f"--workdir={model}", code=2)
  assert message in output and "Traceback" not in output
  assert not (model.parent / "export").exists()


def test_a_head_of_another_shape_is_found(model, capsys):
  path = model / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  tensors["classifier.weight"] = tensors["classifier.weight"].T.copy()
  save.write_safetensors(path, tensors)
  output = command(capsys, "verify", model, code=2)
  shapes = r"classifier\.weight has shape \(16, (\d+)\), expected \(\1, 16\)"
  assert re.search(shapes, output)


def test_a_branch_of_the_hub_is_in_the_card(model, capsys):
  flags = f"--workdir={model}", "--push=you/names", "--revision=v2", "--dry_run"
  command(capsys, "export", *flags)
  card = (model.parent / "export" / "README.md").read_text()
  assert "\"token-classification\", 'you/names', revision='v2'" in card


@pytest.mark.parametrize("language", ["tlh-x", "", None])
def test_a_language_that_is_not_known_fails_no_run(language):
  content = {"task": "ner", "lang": language, "classes": {"TAG": ["O"]}}
  kind = {"model_type": "bert", "architectures": [CLASSES["ner"]]}
  text = task_card.render(content, kind, Options(name="x"))
  title = "Tlh-x named entities" if language else "Named entities"
  assert f"\n# {title}\n" in text


def test_an_encoder_of_more_positions_than_a_row_has(mesh, tmp_path):
  encoder = tiny_ud.write_encoder(tmp_path / "encoder", longest=600)
  config = finetune.ud_config()
  config.heads.update(hidden=16, arc=16, relation=8)
  items = conllu.read(tiny_ud.UD / "ga-train.conllu.gz")
  model = tmp_path / "model"
  tiny_ud.write_random(model, Ud, config, items, encoder, mesh)
  output = alone.run("verify", model)
  assert "WRONG" not in output and "PyTorch, text" in output


def test_the_code_on_the_card_of_questions_works(models, capsys):
  card = (models["qa"] / "README.md").read_text()
  code = card.split("```python\n")[1].split("```")[0]
  exec(code, {})
  answer = capsys.readouterr().out.strip()
  assert answer and answer in "Marie Curie was born in Warsaw ."
