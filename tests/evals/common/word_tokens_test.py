"""Words to tokens: as token by token, for whatever stands in a word."""

import bisect

import numpy as np
import pytest
from words import TEXT

from time_jax.core import notes
from time_jax.data import tokenizing
from time_jax.data.tokenizing import forbidden_ids, load_backend
from time_jax.evals.common.word_tokens import WordTokenizer

ODD = [
  *("\u200b", "漢字かな", " 1 000 ", "[SEP]", "\u3000", "\u0301\u0302"),
  *("😀", "👩\u200d👩\u200d👧", "ﬁ", "a\u2028b", "\u00ad", "e\u0301", "\ufeff"),
  *("[MASK]x", "##a", "▁a", "Ġ", "x" * 120, "㍿", "\x01", "\ufffd", ""),
  *("İ", "ő\n"),
]


def one_by_one(spec, longest, sentences):
  """The same in the plainest way: (sentence, first word, ids, words)."""
  backend = load_backend(spec)
  forbidden = forbidden_ids(backend)
  before, after = map(backend.token_to_id, ("[CLS]", "[SEP]"))
  for number, words in enumerate(sentences):
    encoding = backend.encode(" ".join(words), add_special_tokens=False)
    ends, place = [], -1
    for word in words:
      place += len(word) + 1
      ends.append(place)
    ids = [[] for _ in words]
    for token, (_, end) in zip(encoding.ids, encoding.offsets, strict=True):
      if not forbidden[token]:
        ids[min(bisect.bisect_left(ends, end), len(words) - 1)].append(token)
    part, owners, first = [before], [0], 0
    for i, some in enumerate(ids):
      some = (some or [backend.token_to_id("[UNK]")])[: longest - 2]
      if len(part) + len(some) + 1 > longest:
        yield number, first, [*part, after], [*owners, 0]
        part, owners, first = [before], [0], i
      part += some
      owners += [i - first + 1] * len(some)
    yield number, first, [*part, after], [*owners, 0]


def random_sentences(count):
  random = np.random.default_rng(0)
  words = [*" ".join(TEXT).split(), *ODD, *ODD]
  return [
    [words[i] for i in random.integers(len(words), size=random.integers(1, 40))]
    for _ in range(count)
  ]


@pytest.mark.parametrize("longest", [3, 16, 512])
@pytest.mark.parametrize("characters", [1, 500, 1 << 20])
def test_all_at_once_is_as_token_by_token(
  spec, longest, characters, monkeypatch
):
  monkeypatch.setattr(tokenizing, "_BATCH_CHARACTERS", characters)
  sentences = random_sentences(60)
  chunks = WordTokenizer(spec, longest).chunks(sentences)
  found = [
    (c.sentence, c.start, c.tokens.tolist(), c.word_of_token.tolist())
    for c in chunks
  ]
  assert found == list(one_by_one(spec, longest, sentences))
  for chunk in chunks:
    assert chunk.num_words == max(chunk.word_of_token)
    assert chunk.tokens.dtype == chunk.word_of_token.dtype == np.int32


def test_a_word_of_100_kb_and_a_sentence_of_5000_words(spec, capsys):
  notes.note.cache_clear()
  sentences = [["ma" * 50_000], ["an", "trá"] * 2500]
  first, *others = WordTokenizer(spec, 32).chunks(sentences)
  assert first.num_words == 1 and len(first.tokens) <= 32
  assert sum(chunk.num_words for chunk in others) == 5000
  ends = [chunk.start + chunk.num_words for chunk in others]
  assert [chunk.start for chunk in others] == [0, *ends[:-1]]
  long, *cut = capsys.readouterr().err.splitlines()
  assert long == (
    "time_jax: note: sentences of more than the 32 tokens that the encoder "
    "takes are read in parts."
  )
  if len(first.tokens) == 32:  # WordPiece takes it for one unknown token.
    assert cut == [
      "time_jax: note: words of more than 30 tokens, the most that the encoder "
      "takes of one word, are cut off after these."
    ]


def test_a_long_input_is_noted_once_however_it_is_cut(spec, capsys):
  notes.note.cache_clear()
  tokenizer = WordTokenizer(spec, 32)
  for count in (1, 2, 3):
    tokenizer.chunks([["an", "trá"] * 30] * count)
  assert len(capsys.readouterr().err.splitlines()) == 1


def test_no_sentence(spec):
  assert WordTokenizer(spec, 32).chunks([]) == []
