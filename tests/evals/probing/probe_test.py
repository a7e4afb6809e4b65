"""The probe: what it finds where the answer is known, and by other means."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny_ud

from time_jax.cli import main
from time_jax.core.arrays import make_batch
from time_jax.core.errors import EXIT_BAD_INPUT, UserError
from time_jax.evals.common.encoders import open_encoder
from time_jax.evals.common.word_tokens import WordTokenizer
from time_jax.evals.probing import command, probe, targets, treebank
from time_jax.evals.probing.probe import score_states
from time_jax.evals.probing.teacher_share import (
  ranking_layer,
  teacher_layers,
  teacher_share,
)
from time_jax.evals.probing.word_states import DEV, FIT, PART, TUNE
from time_jax.evals.ud import conllu

TRAIN, DEV_FILE = (tiny_ud.UD / f"ga-{x}.conllu.gz" for x in ("train", "dev"))
RANDOM = np.random.default_rng(0)
CLASSES = {"UPOS": ["a", "b", "c"], "heads": ["x", "y"]}
PARTS = np.repeat([FIT, TUNE, DEV], [400, 100, 200])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tiny_ud.write_encoder(tmp_path_factory.mktemp("probed") / "model")


def labels_of_words():
  return {
    "UPOS": RANDOM.choice(3, size=len(PARTS), p=[0.6, 0.3, 0.1]),
    "heads": RANDOM.choice(2, size=len(PARTS), p=[0.3, 0.7]),
    PART: PARTS,
  }


def states_that_know(labels, name, noise=0.01):
  """States with the class of each word in them, somewhere in 8 numbers."""
  mixing = RANDOM.normal(size=(len(CLASSES[name]), 8))
  known = np.eye(len(CLASSES[name]))[labels[name]] @ mixing
  return (known + noise * RANDOM.normal(size=known.shape)).astype(np.float32)


def test_every_state_is_scored_by_what_it_holds():
  labels = labels_of_words()
  x = np.stack([states_that_know(labels, name) for name in CLASSES])
  found = score_states([(x, labels)], CLASSES)
  assert found.columns == ("UPOS", "heads")
  np.testing.assert_allclose(np.diag(found.accuracy), 100)
  np.testing.assert_allclose(np.diag(found.explained), 100, atol=0.5)
  # The class that is not there: no better than the most frequent one.
  majority = [
    100 * np.mean(labels[n][PARTS == DEV] == c)
    for n, c in (("UPOS", 0), ("heads", 1))
  ]
  np.testing.assert_allclose(
    [found.accuracy[1, 0], found.accuracy[0, 1]], majority, atol=3
  )
  assert abs(found.explained[1, 0]) < 3
  assert found.best == {"UPOS": 100, "heads": 100}
  assert found.mean == 100 and found.mean_explained > 99


def test_what_dev_says_is_not_fitted():
  """Words of dev are judged, never learnt from; those to tune are learnt."""
  labels = labels_of_words()
  x = states_that_know(labels, "UPOS", noise=1.0)[None]
  first = score_states([(x, labels)], CLASSES)
  other = {k: v.copy() for k, v in labels.items()}
  other["UPOS"][PARTS == DEV] = RANDOM.permutation(other["UPOS"][PARTS == DEV])
  assert score_states([(x, other)], CLASSES).accuracy[0, 0] < (
    first.accuracy[0, 0] - 10
  )
  # Without what is to tune, the rest is fitted to as much as with it.
  swapped = dict(labels) | {PART: np.where(PARTS == TUNE, FIT, PARTS)}
  whole = score_states([(x, swapped)], CLASSES)
  np.testing.assert_allclose(whole.accuracy, first.accuracy, atol=2)


def test_words_may_come_in_any_order_and_number():
  labels = labels_of_words()
  x = np.stack([states_that_know(labels, "UPOS", noise=0.5)] * 2)
  whole = score_states([(x, labels)], CLASSES)
  order = RANDOM.permutation(len(PARTS))
  pieces = [
    (x[:, some], {name: own[some] for name, own in labels.items()})
    for some in np.array_split(order, 9)
  ]
  again = score_states(pieces, CLASSES)
  np.testing.assert_allclose(again.accuracy, whole.accuracy)
  np.testing.assert_allclose(again.explained, whole.explained, rtol=1e-4)


def test_a_class_that_training_has_not_seen_is_wrong():
  labels = labels_of_words()
  x = states_that_know(labels, "UPOS")[None]
  unknown = {k: v.copy() for k, v in labels.items()}
  unknown["UPOS"][np.flatnonzero(PARTS == DEV)[:50]] = -1
  found = score_states([(x, unknown)], CLASSES)
  assert found.accuracy[0, 0] == pytest.approx(75)


def by_hand(opened, train, dev):
  """Every sentence in a row of its own, and NumPy's least squares."""
  classes = targets.learn(train)
  tokenizer = WordTokenizer(opened.tokenizer, opened.longest)
  compute = jax.jit(opened.hidden_states)
  states, labels = [], []
  for sentence in [*train, *dev]:
    rows = []
    for chunk in tokenizer.chunks([sentence.column("FORM")]):
      padded = np.zeros((2, 1, opened.longest), np.int32)
      padded[0, 0, : len(chunk.tokens)] = chunk.tokens
      padded[1, 0, : len(chunk.tokens)] = 1
      found = np.asarray(compute(opened.params, make_batch(*padded)))[:, 0]
      found = found[:, : len(chunk.tokens)]
      rows += [
        found[:, chunk.word_of_token == word].mean(axis=1)
        for word in range(1, chunk.num_words + 1)
      ]
    states.append(np.stack(rows, axis=1))
    labels.append(targets.targets(sentence, classes))
  stops = len(train) - len(train) // 5, len(train)
  fit, tune, scored = (
    np.concatenate(states[start:stop], axis=1)
    for start, stop in zip((0, *stops), (*stops, None), strict=True)
  )
  both = np.concatenate([fit, tune], axis=1)
  accuracy = []
  for layer in range(len(scored)):
    y = np.concatenate([one_hot(labels, *each) for each in classes.items()], 1)
    y_fit, y_tune = np.split(y[: both.shape[1]], [fit.shape[1]])
    errors = {
      strength: np.square(
        ridge(fit[layer], y_fit, strength)(tune[layer]) - y_tune
      ).sum()
      for strength in probe._STRENGTHS
    }
    best = min(errors, key=errors.get)
    outputs = ridge(both[layer], y[: both.shape[1]], best)(scored[layer])
    accuracy.append([])
    for name, own in classes.items():
      wanted = np.concatenate([one[name] for one in labels[len(train) :]])
      chosen, outputs = np.split(outputs, [len(own)], axis=1)
      accuracy[-1].append(100 * np.mean(chosen.argmax(1) == wanted))
  return np.array(accuracy)


def one_hot(labels, name, classes):
  numbers = np.concatenate([one[name] for one in labels])
  return np.eye(len(classes) + 1)[numbers][:, :-1]


def ridge(x, y, strength):
  x = x.astype(np.float64)
  means = x.mean(0), y.mean(0)
  a = x - means[0]
  penalty = strength * np.trace(a.T @ a) / a.shape[1]
  more = np.sqrt(penalty) * np.eye(a.shape[1])
  b = np.concatenate([y - means[1], np.zeros((a.shape[1], y.shape[1]))])
  kernel = np.linalg.lstsq(np.concatenate([a, more]), b)[0]
  return lambda other: (other - means[0]) @ kernel + means[1]


def test_an_encoder_is_scored_as_by_hand(folder, mesh):
  opened = open_encoder(str(folder), mesh=mesh, dtype="float32")
  train, dev = conllu.read(TRAIN)[:30], conllu.read(DEV_FILE)[:12]
  found = probe.probe(opened, train, dev, mesh)
  assert found.columns == targets.COLUMNS
  words = sum(len(sentence.words) for sentence in dev)
  # Rounding may tip a word whose two best answers are equally good.
  np.testing.assert_allclose(
    found.accuracy, by_hand(opened, train, dev), atol=200 / words
  )


def run(capsys, *words):
  code = main.main(["probe", *map(str, words)])
  captured = capsys.readouterr()
  return code, captured.out, captured.err


def test_models_are_printed_and_written_side_by_side(folder, capsys, tmp_path):
  other = shutil.copytree(folder, tmp_path / "other")
  files = f"--train={TRAIN}", f"--dev={DEV_FILE}"
  out = tmp_path / "probe.json"
  teacher = f"--teacher={folder}"
  code, text, _ = run(capsys, folder, other, *files, teacher, f"--json={out}")
  assert code == 0
  content = json.loads(out.read_text())
  first, second = content["models"]
  assert first["mean"] == second["mean"] > 0
  assert first["model"] == str(folder)
  assert len(first["accuracy"]) == len(first["explained"]) == 3
  best = np.max(first["accuracy"], axis=0)
  assert list(first["best"].values()) == best.tolist()
  assert first["mean"] == pytest.approx(best.mean())
  assert content["dev"]["words"] > 0 and len(content["dev"]["sha256"]) == 64
  rows = [line.split() for line in text.splitlines()]
  header = ["state", "UPOS", "FEATS", "DEPREL", "heads", "mean"]
  assert rows.count(header) == 2
  line = ["best", *(f"{x:.2f}" for x in [*best, first["mean"]])]
  assert rows.count(line) == 2
  explained = f"{first['mean_explained']:.2f}"
  share, layers = first["teacher_share"], first["teacher_layers"]
  place = layers.index(ranking_layer(2))
  assert share == first["teacher_shares"][-1][place]
  assert share == pytest.approx(100, abs=0.1)
  last = [explained, f"{share:.2f}"]
  assert [f"{tmp_path.name}/other", *line[1:], *last] in rows


@pytest.mark.parametrize(
  ("count", "words"),
  [
    (0, "no sentence in this file"),
    (1, "has 1 sentences; expected at least 5"),
  ],
)
def test_too_few_sentences(folder, capsys, tmp_path, count, words):
  path = tmp_path / "few.conllu"
  path.write_text(conllu.to_text(conllu.read(TRAIN)[:count]))
  code, _, error = run(capsys, folder, f"--train={path}", f"--dev={DEV_FILE}")
  assert code == EXIT_BAD_INPUT and words in error


def test_dev_may_be_one_word_and_lack_what_training_has(
  folder, capsys, tmp_path
):
  path = tmp_path / "one.conllu"
  path.write_text("1\tAgus\t_\t_\t_\t_\t0\troot\t_\t_\n\n")
  code, text, error = run(capsys, folder, f"--train={TRAIN}", f"--dev={path}")
  assert code == 0 and "dev: 1 sentences, 1 words" in text
  assert "no UPOS (1 words of this file)" in error
  assert "nan" not in text


def test_a_treebank_without_features(folder, capsys, tmp_path):
  path = tmp_path / "plain.conllu"
  plain = [
    s.with_columns({"FEATS": ["_"] * len(s.words)}) for s in conllu.read(TRAIN)
  ]
  path.write_text(conllu.to_text(plain))
  code, text, _ = run(capsys, folder, f"--train={path}", f"--dev={DEV_FILE}")
  assert code == 0
  assert ["state", "UPOS", "DEPREL", "heads", "mean"] in [
    line.split() for line in text.splitlines()
  ]


def test_words_and_sentences_longer_than_the_model_takes(
  folder, capsys, tmp_path
):
  path = tmp_path / "long.conllu"
  long = [
    s.with_columns({"FORM": [form * 40 for form in s.column("FORM")]})
    for s in conllu.read(DEV_FILE)[:5]
  ]
  path.write_text(conllu.to_text(long))
  code, text, error = run(capsys, folder, f"--train={TRAIN}", f"--dev={path}")
  assert code == 0 and "nan" not in text
  assert "words of more than 62 tokens" in error


def test_weights_that_are_not_finite(folder, capsys, tmp_path):
  bad = shutil.copytree(folder, tmp_path / "bad")
  file = bad / "model.safetensors"
  tensors = safetensors.numpy.load_file(file)
  name = next(name for name in tensors if "layer.1.output.dense.bias" in name)
  tensors[name][:] = np.nan
  safetensors.numpy.save_file(tensors, file, metadata={"format": "pt"})
  code, text, error = run(capsys, bad, f"--train={TRAIN}", f"--dev={DEV_FILE}")
  assert code == EXIT_BAD_INPUT and "state" not in text
  assert "hold NaN or infinity" in error and "bad" in error


def test_the_first_words_are_whole_sentences():
  sentences = conllu.read(DEV_FILE)
  counts = [len(sentence.words) for sentence in sentences]
  assert treebank.first_words(sentences, counts[0]) == sentences[:1]
  assert treebank.first_words(sentences, counts[0] + 1) == sentences[:2]
  assert treebank.first_words(sentences, 10**9) == sentences


def test_a_step_of_a_folder_that_has_none(folder, capsys):
  with_step = f"{folder}@3"
  code, _, error = run(
    capsys, with_step, f"--train={TRAIN}", f"--dev={DEV_FILE}"
  )
  assert code == EXIT_BAD_INPUT and "Traceback" not in error
  with pytest.raises(UserError):
    command.open_model(f"{folder}@x", None)


@pytest.fixture(scope="module")
def shares(folder, mesh, tmp_path_factory):
  """Of a teacher: itself, its first layer, and one with its words mixed up."""
  opened = open_encoder(str(folder), mesh=mesh, dtype="float32")
  students = [opened]
  for name in ("lower", "mixed"):
    copy = shutil.copytree(folder, tmp_path_factory.mktemp("of") / name)
    file = copy / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    if name == "lower":
      config = json.loads((copy / "config.json").read_text())
      config["num_hidden_layers"] = 1
      (copy / "config.json").write_text(json.dumps(config))
      tensors = {k: v for k, v in tensors.items() if "layer.1." not in k}
    else:
      (words,) = (k for k in tensors if "word_embeddings" in k)
      tensors[words] = RANDOM.permutation(tensors[words])
    safetensors.numpy.save_file(tensors, file, metadata={"format": "pt"})
    students.append(open_encoder(str(copy), mesh=mesh, dtype="float32"))
  data = conllu.read(TRAIN)[:30], conllu.read(DEV_FILE)[:10], mesh
  return [teacher_share(each, opened, *data) for each in students]


def test_a_student_explains_the_layers_that_it_shares(shares):
  own, lower, mixed = shares
  assert own.shape == mixed.shape == (3, 2) and lower.shape == (2, 2)
  np.testing.assert_allclose([own[1, 0], own[2, 1], lower[1, 0]], 100)
  # The same states explain the same, whatever lies above them. A random layer
  # is nearly linear, so those below it explain nearly all.
  np.testing.assert_allclose(lower, own[:2], rtol=1e-3)
  assert lower[1, 1] < own[2, 1]
  assert mixed.max() < 90


def test_the_layers_of_a_teacher_that_are_compared():
  assert teacher_layers(12) == [3, 6, 9, 12]
  assert teacher_layers(24) == [6, 12, 18, 24]
  assert teacher_layers(1) == [1]
  assert teacher_layers(6)[-1] == 6


def test_a_teacher_with_other_tokens_is_refused(folder, tiny, capsys):
  code, _, error = run(
    capsys,
    folder,
    f"--teacher={tiny / 'teacher'}",
    f"--train={TRAIN}",
    f"--dev={DEV_FILE}",
  )
  assert code == EXIT_BAD_INPUT and "have different vocabularies" in error
