"""Answers end at whole characters, in every script and normalizer."""

import functools
import unicodedata

import numpy as np
import pytest
import sentencepiece.sentencepiece_model_pb2 as sentencepiece_model
import tiny_multilingual
import tiny_tokenizers
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, processors

from time_jax.data.tokenizing import TokenizerSpec
from time_jax.evals.qa import token_spans as spans_of
from time_jax.evals.qa.squad import Answer, Question
from time_jax.evals.qa.windows import WindowCutter

# Hangul, also half of it and as single letters; Devanagari and Malayalam with
# joiners; Thai; Arabic with its vowels; accents in two orders; half-width kana;
# emoji with selectors, joiners and tags; ligatures and other cases.
WORDS = (
  *("한국어", "각", "ㄱㅏㅋ", "세계는", "हिन्दी", "क़लम", "क्ष", "അവന്\u200d"),
  *("ภาษาไทย", "น้ำ", "كِتَابٌ", "آب", "می\u200cخو", "café", "Zürich", "ạ̇", "ṩ"),
  *("ｶﾞｷﾞ", "❤️", "👍🏽", "👨\u200d💻", "🏴\U000e0067\U000e0062\U000e007f", "1️⃣"),
  *("ﬃx½", "İI", "ẛ̣", "日本語", "word", "longer-words"),
)
HAN = "\ud55c\uad6d"
FORMS = ("NFC", "NFD", "NFKC", "NFKD")
TEXTS = [
  " ".join(unicodedata.normalize(form, word) for word in words)
  for form in FORMS
  for words in (WORDS, WORDS[::-1], WORDS[::2])
]


def sentencepiece_normalizer():
  """The map of characters that the models of XLM-R and T5 come with."""
  model = sentencepiece_model.ModelProto()
  data = tiny_multilingual.train_sentencepiece(
    TEXTS, 300, hard_vocab_limit=False
  )
  model.ParseFromString(data)
  charsmap = model.normalizer_spec.precompiled_charsmap
  return normalizers.Precompiled(charsmap)


NORMALIZERS = {
  "none": lambda: None,
  "NFC": normalizers.NFC,
  "NFKC": normalizers.NFKC,
  "NFD": normalizers.NFD,
  "NFKD": normalizers.NFKD,
  "SentencePiece": sentencepiece_normalizer,
  "lower case without accents": lambda: normalizers.Sequence(
    [normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]
  ),
  "composed without accents": lambda: normalizers.Sequence(
    [normalizers.NFC(), normalizers.StripAccents()]
  ),
  "BERT": lambda: normalizers.BertNormalizer(lowercase=False),
  "uncased BERT": lambda: normalizers.BertNormalizer(lowercase=True),
}


@functools.cache
def cutter(kind, name):
  normalizer = NORMALIZERS[name]()
  normal = [normalizer.normalize_str(t) for t in TEXTS] if normalizer else TEXTS
  backend = tiny_tokenizers.KINDS[kind](normal, 400)
  backend.normalizer = normalizer or normalizers.Sequence([])
  backend.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
  )
  spec = TokenizerSpec(backend.to_str(), 0, backend.get_vocab_size())
  return WindowCutter(spec, 300, 20, 1)


written = st.tuples(st.sampled_from(WORDS), st.sampled_from(FORMS)).map(
  lambda drawn: unicodedata.normalize(drawn[1], drawn[0])
)


@pytest.mark.parametrize("kind", tiny_tokenizers.KINDS)
@pytest.mark.parametrize("name", NORMALIZERS)
@given(
  words=st.lists(written, min_size=1, max_size=8),
  start=st.integers(0, 7),
  count=st.integers(1, 8),
)
@settings(max_examples=20, deadline=None, derandomize=True, database=None)
def test_words_come_back_as_the_context_has_them(
  kind, name, words, start, count
):
  start = min(start, len(words) - 1)
  context = " ".join(words)
  text = " ".join(words[start : start + count])
  answer = Answer(text, len(" ".join([*words[:start], ""])))
  question = Question("q", "?", context, (answer,), "file")
  (window,) = cutter(kind, name).windows([question])
  place = window.place_of(answer)
  assert place is not None
  assert window.answer(context, *place, 1.0) == answer


@pytest.mark.parametrize("kind", tiny_tokenizers.KINDS)
def test_no_token_ends_within_a_character(kind):
  """Also where a token is a part of one, so of the bytes of a syllable."""
  text = unicodedata.normalize("NFD", "한국어 세계는 café 각 " * 3 + "한국어")
  starts, at = set(), 0
  for syllable in unicodedata.normalize("NFC", text):
    starts.add(at)
    at += len(unicodedata.normalize("NFD", syllable))
  question = Question("q", "?", text, (), "file")
  (window,) = cutter(kind, "NFC").windows([question])
  assert window.spans[-1, 1] == len(text)
  assert set(window.spans[:, 1].tolist()) <= {*starts, len(text)}


@pytest.mark.parametrize("normalizer", [normalizers.NFC(), None])
def test_a_token_of_bytes_that_reaches_into_the_next_syllable(normalizer):
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  # The third byte of the first syllable and the first of the second.
  pair = tuple(pre_tokenizers.ByteLevel(False).pre_tokenize_str(HAN)[0][0][2:4])
  words = [*alphabet, "".join(pair)]
  model = models.BPE({word: i for i, word in enumerate(words)}, [pair])
  backend = tokenizers.Tokenizer(model)
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(False)
  backend.normalizer = normalizer or normalizers.Sequence([])
  text = unicodedata.normalize("NFD", HAN)
  spans = np.array(backend.encode(text).offsets)
  found = spans_of.whole_characters(text, spans, backend.normalizer)
  if normalizer:
    assert spans[:, 1].tolist() == [1, 1, 4, 4, 4]
    assert found[:, 1].tolist() == [3, 3, 6, 6, 6]
  else:  # Every letter has tokens of its own.
    assert found.tolist() == spans.tolist()
