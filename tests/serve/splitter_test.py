"""Raw text that is served is split as `predict` splits it."""

import pytest
import served

import time_jax
from time_jax.evals.split import raw_text
from time_jax.evals.split.passage import Passage, Token, to_conllu
from time_jax.evals.ud import conllu
from time_jax.serve import load


@pytest.fixture(scope="module")
def folder(mesh, tmp_path_factory):
  return served.export("split", tmp_path_factory.mktemp("export"), mesh)


@pytest.mark.parametrize("most", [1 << 16, 50])
def test_sentences_and_words_are_those_of_predict(folder, monkeypatch, most):
  """An empty line ends a sentence, and long paragraphs are read in parts."""
  monkeypatch.setattr(raw_text, "_TOGETHER", most)
  texts = served.ITEMS["split"]
  model = load(folder)
  calls, run = [], model._graph.run
  monkeypatch.setattr(
    model._graph, "run", lambda *args: calls.append(1) or run(*args)
  )
  for text, one in zip(texts, model(texts), strict=True):
    tokens = [[*map(token, own["tokens"])] for own in one["sentences"]]
    # The text is rebuilt if their places are right.
    found = to_conllu(Passage(text, (*map(tuple, tokens),)))
    expected = ""
    if text.strip():
      expected = time_jax.predict(folder, text, "onnxruntime")
    assert conllu.to_text(found) == expected
  assert len(calls) == 1 or most == 50


def token(found):
  return Token(found["start"], found["end"], (*found["words"],))
