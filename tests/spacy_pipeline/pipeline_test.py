"""A pipeline annotates as `predict` does, wherever it is carried."""

import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import served
import spacy
import tokenizers
from spacy.cli.evaluate import evaluate
from spacy.cli.package import package
from spacy.matcher import Matcher
from spacy.tokens import Doc, DocBin, Span
from spacy.training.converters import conllu_to_docs

import time_jax
from time_jax.core.errors import UserError
from time_jax.core.storage.paths import Path
from time_jax.serve import load
from time_jax.serve.folder import VECTORS
from time_jax.spacy_pipeline import pipeline
from time_jax.spacy_pipeline.names import Names
from time_jax.spacy_pipeline.vectors import Vectors

TEXT = (
  "Il va  au bal. L'été du chat !\n\n Marie Curie mange du pain à Paris. "
  "Les chat-bal vont à lac !\r\nbal, chat et pain ? "
) * 3
TEXTS = [TEXT, "", "\n", "😀", "Il va au lac.", " au "]


def shown(doc):
  tokens = [
    (
      *(t.text, t.whitespace_, t.pos_, t.tag_, str(t.morph), t.lemma_, t.dep_),
      *(t.head.i, t.is_sent_start, t.ent_type_, t.ent_iob_, t._.ud_words),
    )
    for t in doc
  ]
  return tokens, np.asarray(doc.tensor).round(4).tolist()


@pytest.fixture(scope="module")
def expected(nlp):
  return [shown(doc) for doc in nlp.pipe(TEXTS)]


def test_it_is_what_spacy_makes_of_the_output_of_predict(nlp, exports):
  """Its converter merges multiword tokens, by code of its own."""
  text = time_jax.predict(exports["ud"], TEXT, split=exports["split"])
  made = conllu_to_docs(text, n_sents=1, merge_subtokens=True, no_print=True)
  docs = [*made]
  sentences = [*nlp(TEXT).sents]
  assert len(docs) == len(sentences) > 9
  assert any(t._.ud_words for t in nlp(TEXT))
  for doc, sentence in zip(docs, sentences, strict=True):
    tokens = [t for t in sentence if not t.is_space]
    places = {t.i: place for place, t in enumerate(tokens)}
    assert [t.text for t in doc] == [" ".join(t.text.split()) for t in tokens]
    for right, token in zip(doc, tokens, strict=True):
      for name in ("pos_", "tag_", "morph", "lemma_", "dep_"):
        found = str(getattr(token, name))
        assert found == str(getattr(right, name)), (name, token.text)
      assert places[token.head.i] == right.head.i


def test_white_space_hangs_on_the_token_before(nlp):
  words = ["\n ", "a", "\n", "b"]
  doc = nlp.get_pipe("parser")(Doc(nlp.vocab, words=words))
  spaces = [t for t in doc if t.is_space]
  assert [t.head.i - t.i for t in spaces] == [1, -1]
  assert {(t.pos_, t.tag_, t.dep_) for t in spaces} == {("SPACE", "_SP", "dep")}
  (alone,) = nlp("\n")
  assert (alone.dep_, alone.head) == ("ROOT", alone)


def test_sentences_are_those_of_the_tokenizer(nlp):
  found = [s.start for s in nlp(TEXT).sents]
  assert found == [s.start for s in nlp.make_doc(TEXT).sents]


def test_one_by_one_and_together(nlp, expected):
  assert [shown(nlp(text)) for text in TEXTS] == expected


def test_two_processes(folder):
  """Which are forked, where that is usual, after the models were opened."""
  program = f"""
import spacy
nlp = spacy.load({str(folder)!r})
pairs = [(text, number) for number, text in enumerate({TEXTS!r})]
one, two = (
  [
    (str(doc.to_json()["tokens"]), doc.text, number, doc.tensor.sum())
    for doc, number in nlp.pipe(pairs, as_tuples=True, batch_size=2, **more)
  ]
  for more in ({{}}, {{"n_process": 2}})
)
assert [x[:-1] for x in one] == [x[:-1] for x in two]
assert all(abs(x[-1] - y[-1]) < 1e-3 for x, y in zip(one, two))
print("equal", len(two))
"""
  words = [sys.executable, "-c", program]
  done = subprocess.run(
    words, capture_output=True, text=True, check=False, timeout=120
  )
  assert done.stdout == f"equal {len(TEXTS)}\n", done.stderr


def test_it_can_be_carried(nlp, folder, expected, tmp_path):
  nlp.to_disk(tmp_path / "copy")
  shutil.copytree(tmp_path / "copy", tmp_path / "moved")
  shutil.rmtree(tmp_path / "copy")
  moved = spacy.load(tmp_path / "moved")
  moved.to_disk(tmp_path / "moved")  # where it was read
  blank = spacy.util.load_model_from_config(nlp.config, auto_fill=True)
  carried = [moved, blank.from_bytes(nlp.to_bytes())]
  for other in [*carried, pickle.loads(pickle.dumps(moved))]:
    assert [shown(doc) for doc in other.pipe(TEXTS)] == expected
  place = str(folder.parent)
  config = (tmp_path / "moved" / "config.cfg").read_text()
  assert place not in config + (tmp_path / "moved" / "meta.json").read_text()


def test_names_are_those_that_are_served(nlp, exports):
  doc = nlp(TEXT)
  model = load(exports["ner"])
  expected = []
  for sentence in doc.sents:
    words = [t.text for t in sentence if not t.is_space]
    (found,) = model([words])
    expected += [(e["type"], e["text"]) for e in found["entities"]]
  own = [
    (e.label_, " ".join(t.text for t in e if not t.is_space)) for e in doc.ents
  ]
  assert own == expected != []


def test_names_that_are_there_stay(nlp):
  doc = nlp.make_doc("Marie Curie va à Paris.")
  doc.ents = [Span(doc, 0, 1, label="X")]
  found = nlp.get_pipe("ner")(doc).ents
  assert (found[0].start, found[0].end, found[0].label_) == (0, 1, "X")
  assert len(found) > 1 and doc.has_annotation("ENT_IOB", require_complete=True)


def test_vectors_are_means_of_tokens(nlp, exports):
  doc = nlp("Il va au lac.\n\nParis !")
  run = onnxruntime.InferenceSession(exports[VECTORS] / "onnx" / "model.onnx")
  tokenizer = tokenizers.Tokenizer.from_file(
    str(exports[VECTORS] / "tokenizer.json")
  )
  for sentence in doc.sents:
    words = [t for t in sentence if not t.is_space]
    text = " ".join(t.text for t in words)
    encoded = tokenizer.encode(text)
    feeds = {
      "input_ids": np.array([encoded.ids]),
      "attention_mask": np.array([encoded.attention_mask]),
    }
    (states,) = run.run(["last_hidden_state"], feeds)
    start = 0
    for token in words:
      stop = start + len(token.text)
      inside = [
        i
        for i, (a, b) in enumerate(encoded.offsets)
        if b > a and start < b <= stop
      ]
      mean = states[0][inside].mean(axis=0)
      np.testing.assert_allclose(doc.tensor[token.i], mean, atol=2e-6)
      start = stop + 1
  assert not doc.tensor[[t.i for t in doc if t.is_space]].any()
  assert doc.has_vector and doc.similarity(doc) == pytest.approx(1)


def test_spacy_scores_and_packages_it(nlp, folder, tmp_path):
  # White space of a gold file counts as words that were missed.
  text = " ".join(TEXT.split())
  gold = DocBin(docs=[nlp(text)], store_user_data=True)
  gold.to_disk(tmp_path / "gold.spacy")
  scores = evaluate(str(folder), tmp_path / "gold.spacy", silent=True)
  names = ("token_acc", "tag_acc", "pos_acc", "morph_acc", "lemma_acc")
  more = ("dep_uas", "dep_las", "sents_f", "ents_f")
  assert {name: scores[name] for name in names + more} == dict.fromkeys(
    names + more, 1.0
  )
  (tmp_path / "out").mkdir()
  package(folder, tmp_path / "out", create_sdist=False, silent=True)
  (home,) = (tmp_path / "out").iterdir()
  assert home.name == "fr_time-0.0.0"
  meta = json.loads((home / "meta.json").read_text())
  assert f"time-jax-serve>={time_jax.__version__}" in meta["requirements"]
  assert [source["license"] for source in meta["sources"]] == 4 * ["not stated"]
  assert (home / "fr_time" / home.name / "parser" / "onnx").is_dir()


def write(models, out, lang="fr"):
  names = [str(model) for model in models]
  return pipeline.write(names, lang, Path(str(out)), int8=False)


def test_without_a_splitter(exports, tmp_path, capsys):
  write([exports["ud"]], tmp_path / "out")
  assert "words are those of spaCy's tokenizer" in capsys.readouterr().err
  nlp = spacy.load(tmp_path / "out")
  assert nlp.pipe_names == ["sentencizer", "parser"]
  doc = nlp("Il va au lac. Et puis ?")
  assert [s.text for s in doc.sents] == ["Il va au lac.", "Et puis ?"]
  # Without any sentences, all is one.
  alone = nlp.get_pipe("parser")(nlp.make_doc("Il va. Et ?"))
  assert len([*alone.sents]) == 1


def test_a_language_that_spacy_does_not_know(exports, tmp_path, capsys):
  write([exports["split"]], tmp_path / "out", lang="zza")
  assert "spaCy has no language 'zza'" in capsys.readouterr().err
  assert spacy.load(tmp_path / "out").lang == "xx"
  write([exports["split"]], tmp_path / "no", lang="no")
  assert spacy.load(tmp_path / "no").lang == "nb"


@pytest.mark.parametrize("lang", ["FR", "fr_CA", "fra-Latn"])
def test_how_a_language_may_be_written(exports, tmp_path, lang):
  write([exports["split"]], tmp_path / "out", lang)
  assert spacy.load(tmp_path / "out").lang in ("fr", "fra")
  with pytest.raises(UserError, match=r"--lang='\.\./x'; expected the code"):
    write([exports["split"]], tmp_path / "other", "../x")


def test_words_can_be_looked_for(nlp):
  matcher = Matcher(nlp.vocab)
  doc = nlp(TEXT)
  several = [t for t in doc if t._.ud_words]
  words = several[0]._.ud_words
  matcher.add("A", [[{"_": {"ud_words": words}}]])
  expected = [t.i for t in several if t._.ud_words == words]
  assert [start for _, start, _ in matcher(doc)] == expected


def test_documents_of_white_space_go_with_others(nlp):
  docs = [nlp(text) for text in TEXTS]
  assert {doc.vector.shape for doc in docs if len(doc)} == {(16,)}
  assert Doc.from_docs(docs).tensor.shape[1] == 16


def test_it_is_found_from_elsewhere(folder, expected, tmp_path, monkeypatch):
  shutil.copytree(folder, tmp_path / "fr")
  monkeypatch.chdir(tmp_path)
  nlp = spacy.load("fr")
  monkeypatch.chdir("/")
  assert [shown(doc) for doc in nlp.pipe(TEXTS)] == expected
  gone = spacy.load(tmp_path / "fr")
  shutil.rmtree(tmp_path / "fr")
  with pytest.raises(UserError, match="is not there any more; expected that"):
    gone("a")


def test_nothing_is_left_of_another_export(exports, tmp_path):
  names = Names("x").open(exports["ner"])
  names.to_disk(tmp_path / "x")
  Vectors("x").open(exports[VECTORS]).to_disk(tmp_path / "x")
  assert Vectors("x").from_disk(tmp_path / "x").folder.task == VECTORS


def test_half_a_surrogate_pair(nlp):
  with pytest.raises(
    UserError, match="the text: the character 2 of .* is half"
  ):
    nlp("ab\ud800")


def test_wrong_models_are_told(exports, folder, tmp_path):
  def refused(*models):
    with pytest.raises(UserError) as caught:
      write(models, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    return str(caught.value)

  ud = exports["ud"]
  assert "are both of task 'ud'; expected one of each" in refused(ud, ud)
  assert "task 'qa', which spaCy has no place for" in refused(exports["qa"])
  assert "no folder at" in refused(tmp_path / "nothing")
  assert "such as the folder export in or beside" in refused(ud.parent)
  half = shutil.copytree(ud, tmp_path / "half")
  (half / "onnx" / "model.onnx").unlink()
  assert "model.onnx is missing" in refused(half)
  with pytest.raises(UserError, match="holds something"):
    write([ud], folder)


def test_half_a_pipeline_is_told(folder, tmp_path):
  copy = shutil.copytree(folder, tmp_path / "copy")
  (copy / "parser" / "tokenizer.json").unlink()
  with pytest.raises(UserError, match=r"tokenizer.json is missing"):
    spacy.load(copy)
  served.edit(copy / "ner" / "task.json", task="qa")
  with pytest.raises(UserError, match="expected one of 'ner'"):
    spacy.load(copy, exclude=["parser"])


def test_an_error_goes_to_the_handler(nlp, monkeypatch):
  seen = []
  parser = nlp.get_pipe("parser")
  monkeypatch.setattr(parser, "_model", lambda items: 1 / 0)
  monkeypatch.setattr(parser, "_handler", parser.get_error_handler())
  parser.set_error_handler(
    lambda name, _, docs, error: seen.append((name, error))
  )
  docs = [nlp.make_doc("a"), nlp.make_doc("b")]
  assert [*parser.pipe(docs)] == []
  ((name, error),) = seen
  assert name == "parser" and isinstance(error, ZeroDivisionError)
