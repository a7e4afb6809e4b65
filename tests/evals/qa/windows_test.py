"""Questions to windows to characters: answers come back as they were."""

import collections
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_qa
import tiny_tokenizers
import tokenizers

from time_jax.core.errors import UserError
from time_jax.evals.common.batches import Buckets, Epochs
from time_jax.evals.qa import reader, squad
from time_jax.evals.qa.reader import SpanBatch, SpanExamples
from time_jax.evals.qa.squad import Answer, Question
from time_jax.evals.qa.windows import WindowCutter
from time_jax.hf import tokenizer

QUESTIONS = squad.read(tiny_qa.QA / "en-train.json")
STRANGE = (
  "x \U0001f600\U0001f680 Cafe\u0301 [SEP] \u200b Zu\u0308rich "
  "\u0915\u093f\u0924\u093e\u092c\u0947\u0902"
)


def load(folder, kind, size=700):
  texts = [question.context for question in QUESTIONS]
  backend = tiny_tokenizers.KINDS[kind](texts, size)
  tiny_tokenizers.save(backend, folder)
  return tokenizer.load_tokenizer(folder, backend.get_vocab_size())


@pytest.fixture(scope="module", params=tiny_tokenizers.KINDS)
def spec(request, tmp_path_factory):
  return load(tmp_path_factory.mktemp("qa"), request.param)


def bert_pairs(spec):
  """The tokenizer with BERT's word on pairs."""
  backend = tokenizers.Tokenizer.from_str(spec.backend)
  backend.post_processor = tokenizers.processors.TemplateProcessing(
    single="[CLS] $A [SEP]",
    pair="[CLS] $A [SEP] $B:1 [SEP]:1",
    special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
  )
  return dataclasses.replace(spec, backend=backend.to_str())


def test_every_answer_is_whole_in_a_window_and_comes_back(spec):
  windows = WindowCutter(spec, 160, 48, 2).windows(QUESTIONS)
  assert max(len(window.tokens) for window in windows) <= 160
  by_question = collections.defaultdict(list)
  for window in windows:
    by_question[window.question].append(window)
  assert max(map(len, by_question.values())) > 1
  for number, question in enumerate(QUESTIONS):
    for answer in question.answers:
      places = [(w, w.place_of(answer)) for w in by_question[number]]
      found = {
        window.answer(question.context, *place, 1.0)
        for window, place in places
        if place
      }
      (back,) = found  # The same from every window that has it.
      # An answer may start or end within a token.
      assert back.start <= answer.start and answer.stop <= back.stop
      assert len(back.text) - len(answer.text) < 12
  windows = WindowCutter(spec, 512, 48, 2).windows(QUESTIONS)
  assert len(windows) == len(QUESTIONS)


def test_windows_overlap_and_hold_all_of_a_context(spec):
  (whole,) = WindowCutter(spec, 512, 8, 2).windows(QUESTIONS[:1])
  inside = whole.tokens[whole.first : whole.first + len(whole.spans)]
  parts = WindowCutter(spec, 80, 8, 2).windows(QUESTIONS[:1])
  sizes = {len(part.tokens) for part in parts}
  assert len(parts) > 2 and sizes == {80}
  at = 0
  for i, part in enumerate(parts):
    tokens = part.tokens[part.first : part.first + len(part.spans)]
    start = at if i < len(parts) - 1 else len(inside) - len(tokens)
    assert tokens.tolist() == inside[start : start + len(tokens)].tolist()
    assert part.tokens[: part.first].tolist() == (
      whole.tokens[: whole.first].tolist()
    )
    at += len(tokens) - 8
  assert at + 8 >= len(inside)


def test_strange_characters_keep_their_places(tmp_path):
  spec = load(tmp_path, "byte_bpe")  # Which loses no character.
  question = Question("q", "?", STRANGE, (), "file")
  (window,) = WindowCutter(spec, 200, 8, 1).windows([question])
  words = [(m, STRANGE.index(m)) for m in STRANGE.split()]
  for (a, start), (b, last) in itertools.combinations_with_replacement(
    words, 2
  ):
    text = STRANGE[start : last + len(b)]
    place = window.place_of(Answer(text, start))
    assert place, (a, b)
    assert window.answer(STRANGE, *place, 0.5) == Answer(text, start, 0.5)


def test_marks_that_a_tokenizer_drops_stay_in_the_answer(tmp_path):
  spec = load(tmp_path, "wordpiece")
  backend = tokenizers.Tokenizer.from_str(spec.backend)
  backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
  spec = dataclasses.replace(spec, backend=backend.to_str())
  text = "we saw a cafe\u0301 today, e\u0308"
  question = Question("q", "what?", text, (), "file")
  (window,) = WindowCutter(spec, 60, 8, 1).windows([question])
  for answer in (Answer("cafe\u0301", 9), Answer("e\u0308", 22)):
    place = window.place_of(answer)
    assert window.answer(text, *place, 1.0) == answer


def test_token_types_are_those_of_the_tokenizer(spec):
  (plain,) = WindowCutter(spec, 512, 8, 2).windows(QUESTIONS[:1])
  assert set(plain.token_types) == {0}
  # Without a word on pairs: the question, its end, the context, its end.
  ends = [plain.tokens[0], plain.tokens[plain.first - 1], plain.tokens[-1]]
  assert ends == [1, 2, 2]
  pairs = bert_pairs(spec)
  (window,) = WindowCutter(pairs, 512, 8, 2).windows(QUESTIONS[:1])
  assert window.tokens.tolist() == plain.tokens.tolist()
  expected = [0] * window.first + [1] * (len(window.spans) + 1)
  assert window.token_types.tolist() == expected
  (single,) = WindowCutter(pairs, 512, 8, 1).windows(QUESTIONS[:1])
  assert set(single.token_types) == {0}


def test_questions_that_leave_little_or_no_room(spec):
  cutter = WindowCutter(spec, 512, 8, 2)
  length = cutter.windows(QUESTIONS[:1])[0].first - 2
  narrow = WindowCutter(spec, length + 6, 20, 2).windows(QUESTIONS[:1])
  stops = [int(window.spans[-1, 1]) for window in narrow]
  assert stops == sorted(set(stops))
  with pytest.raises(UserError, match=f"question .* its {length} tokens leave"):
    WindowCutter(spec, length + 3, 20, 2).windows(QUESTIONS[:1])


def test_batches_hold_windows_types_and_targets(spec):
  windows = WindowCutter(bert_pairs(spec), 96, 24, 2).windows(QUESTIONS)
  targets = [
    window.place_of(QUESTIONS[window.question].answers[0]) or (0, 0)
    for window in windows
  ]
  assert (0, 0) in targets and len(set(targets)) > 10
  examples = SpanExamples(windows, spec.pad_id, targets)
  sizes = {"batch_size": 8, "max_tokens": 1024, "epochs": 2, "seed": 3}
  epochs = Epochs(examples, Buckets((64, 96)), **sizes)
  again = Epochs(examples, Buckets((64, 96)), **sizes)
  rows = 0
  for step in reversed(range(epochs.steps)):
    batch = epochs.batch_at(step)
    for a, b in zip(
      jax.tree.leaves(batch), jax.tree.leaves(again.batch_at(step)), strict=True
    ):
      np.testing.assert_array_equal(a, b)
    real = np.asarray(batch.batch.segment_ids)[:, 0] > 0
    rows += real.sum()
    assert (np.asarray(batch.targets)[~real] == -1).all()
    for row, (first, last) in enumerate(np.asarray(batch.targets)):
      if first > 0:
        assert np.asarray(batch.in_context)[row, first : last + 1].all()
        assert (np.asarray(batch.batch.token_types)[row, first:last] == 1).all()
  assert rows == len(windows)


def test_the_best_span_is_that_of_trying_all():
  random = np.random.default_rng(0)
  scores = jnp.asarray(random.normal(size=(4, 2, 12)) * 3, jnp.float32)
  known = np.zeros((4, 12), bool)
  known[:3, 4:10] = True
  known[1, 7] = False
  batch = SpanBatch(None, jnp.asarray(known), None)
  first, last, log_p = map(np.asarray, reader.best_spans(scores, batch, 3))
  for row in range(3):
    places = [0, *np.flatnonzero(known[row])]
    x = np.asarray(scores[row], np.float64)
    total = np.log(np.exp(x[:, places]).sum(axis=1)).sum()
    found = max(
      (x[0, i] + x[1, j] - total, i, j)
      for i in places[1:]
      for j in places[1:]
      if i <= j < i + 3
    )
    assert (first[row], last[row]) == found[1:]
    assert log_p[row] == pytest.approx(found[0], abs=1e-4)
  assert log_p[3] == -np.inf  # No context, no answer.
