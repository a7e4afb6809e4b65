"""Windows hold every token of a document once, and no smuggled ones."""

import numpy as np
import pytest
from tokenizers import (
  AddedToken,
  Tokenizer,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

from time_jax.core import errors
from time_jax.data import tokenizing
from time_jax.data.tokenizing import TokenizerSpec, WindowEncoder

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["a", "b", "c", "d", "[", "]", "sep", "mask", "ø", "語"]
CLS, SEP = 2, 3


def word_piece() -> Tokenizer:
  vocabulary = {word: i for i, word in enumerate(SPECIAL + WORDS)}
  tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
  tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.add_special_tokens(SPECIAL)
  tokenizer.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
  )
  return tokenizer


def unigram() -> Tokenizer:
  """A vocabulary that lists its special tokens as pieces of text too."""
  pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
  pieces += [(piece, -2.0) for piece in ("▁", "a", "b", "<", "/", "s", ">")]
  tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
  tokenizer.normalizer = normalizers.NFKC()
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
  names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
  tokenizer.add_special_tokens([AddedToken(n, special=True) for n in names])
  tokenizer.post_processor = processors.TemplateProcessing(
    single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
  )
  return tokenizer


def spec(tokenizer: Tokenizer, **changes: int) -> TokenizerSpec:
  sizes = {"pad_id": 0, "vocab_size": tokenizer.get_vocab_size()} | changes
  return TokenizerSpec(tokenizer.to_str(), **sizes, name="tiny")


def windows(encoder: WindowEncoder, *documents: str) -> list[list[list[int]]]:
  return [[w.tolist() for w in ws] for ws in encoder.all_windows(documents)]


def test_long_documents_become_windows_with_special_tokens() -> None:
  encoder = WindowEncoder(spec(word_piece()), 5)
  assert windows(encoder, "a b c d a b d", "a") == [
    [[2, 5, 6, 7, 3], [2, 8, 5, 6, 3], [2, 8, 3]],
    [[2, 5, 3]],
  ]
  first = list(encoder.first_windows(["a b c d a b d", "a"]))
  assert [[w.tolist() for w in ws] for ws in first] == [
    [[2, 5, 6, 7, 3]],
    [[2, 5, 3]],
  ]


def test_every_token_appears_exactly_once() -> None:
  random = np.random.default_rng(0)
  words = ["a", "b", "語", "ø", "unknown", "d"]
  documents = [
    " ".join(random.choice(words, size=size))
    for size in random.integers(1, 300, size=200)
  ]
  encoder = WindowEncoder(spec(word_piece()), 32)
  for document, ours in zip(
    documents, encoder.all_windows(documents), strict=True
  ):
    assert all(len(window) <= 32 for window in ours)
    assert all(window.dtype == np.int32 for window in ours)
    content = [i for window in ours for i in window[1:-1].tolist()]
    assert content == word_piece().encode(document).ids[1:-1]


@pytest.mark.parametrize(
  ("template", "before", "after"),
  [("[CLS] $A [SEP]", [2], [3]), ("$A [SEP]", [], [3]), ("[SEP] $A", [3], [])],
)
def test_windows_are_what_the_tokenizers_own_truncation_gives(
  template: str, before: list[int], after: list[int]
) -> None:
  tokenizer = word_piece()
  tokenizer.post_processor = processors.TemplateProcessing(
    single=template, special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
  )
  document = "a b c d ø 語 a b c d a"
  encoder = WindowEncoder(spec(tokenizer), 5)
  tokenizer.enable_truncation(5)
  encoding = tokenizer.encode(document)
  expected = [encoding.ids, *(more.ids for more in encoding.overflowing)]
  assert windows(encoder, document) == [expected]
  assert expected[0][: len(before)] == before
  assert expected[0][len(expected[0]) - len(after) :] == after


def test_the_files_own_padding_and_truncation_are_ignored() -> None:
  tokenizer = word_piece()
  tokenizer.enable_padding(length=50)
  tokenizer.enable_truncation(3, stride=1)
  encoder = WindowEncoder(spec(tokenizer), 16)
  assert windows(encoder, "a b c d") == [[[2, 5, 6, 7, 8, 3]]]


def test_spelt_special_tokens_stay_text() -> None:
  encoder = WindowEncoder(spec(word_piece()), 16)
  # [ sep ] a [ mask ]
  want = [2, 9, 11, 10, 5, 9, 12, 10, 3]
  assert windows(encoder, "[SEP] a [MASK]") == [[want]]
  assert windows(encoder, "unknown") == [[[2, 1, 3]]]  # Unknown is allowed.


@pytest.mark.parametrize("spelt", ["</s>", "<s>", "<pad>", "\uff1c/s\uff1e"])
def test_pieces_that_are_special_tokens_are_dropped(spelt: str) -> None:
  assert {0, 1, 2} & set(unigram().encode(f"a {spelt} b").ids[1:-1])
  encoder = WindowEncoder(spec(unigram()), 16)
  [[ids]] = windows(encoder, f"a {spelt} b z")
  assert (ids[0], ids[-1]) == (0, 2)
  assert not {0, 1, 2} & set(ids[1:-1])
  assert 3 in ids  # z is unknown, and remains.
  assert windows(encoder, "<mask>")[0][0][-2] == unigram().token_to_id(">")


def test_documents_without_tokens_have_no_windows() -> None:
  encoder = WindowEncoder(spec(word_piece()), 8)
  assert windows(encoder, "\u200b\x00", "a", "") == [[], [[2, 5, 3]], []]
  assert list(encoder.first_windows(["\x00"])) == [[]]


def test_very_long_documents_are_cut_at_whitespace(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(tokenizing, "_LONGEST_PART", 100)
  encoder = WindowEncoder(spec(word_piece()), 1000)
  document = "unknown a " * 95
  parts = tokenizing.text_parts(document)
  assert len(parts) > 9
  assert all(len(part) <= 100 for part in parts)
  # No word was cut in two, and windows go on from one part to the next.
  assert windows(encoder, document, "b") == [
    [[2, *[1, 5] * 95, 3]],
    [[2, 6, 3]],
  ]
  assert sum(len(w) - 2 for w in windows(encoder, "語" * 950)[0]) == 950


def test_ids_beyond_the_table_are_refused() -> None:
  encoder = WindowEncoder(spec(word_piece(), vocab_size=14), 8)
  assert windows(encoder, "ø") == [[[2, 13, 3]]]
  message = r"tiny gives the id 14 \('語'\).* 14 rows"
  with pytest.raises(errors.UserError, match=message):
    windows(encoder, "a", "語")


@pytest.mark.parametrize("seq_len", [-1, 0, 1, 2])
def test_a_length_without_room_for_text_is_refused(seq_len: int) -> None:
  with pytest.raises(errors.UserError, match=f"seq_len={seq_len}.* at least 3"):
    WindowEncoder(spec(word_piece()), seq_len)
  assert windows(WindowEncoder(spec(word_piece()), 3), "a b") == [
    [[2, 5, 3], [2, 6, 3]]
  ]


def test_a_broken_tokenizer_is_refused() -> None:
  with pytest.raises(errors.UserError, match="tiny is not a tokenizer"):
    WindowEncoder(TokenizerSpec("{}", 0, 10, "tiny"), 8)
  with pytest.raises(errors.UserError, match="pads with the id 99"):
    WindowEncoder(spec(word_piece(), pad_id=99), 8)


def test_the_hash_is_that_of_the_json_text() -> None:
  first, second = spec(word_piece()), spec(unigram())
  assert first.sha256 == spec(word_piece(), pad_id=1).sha256
  assert first.sha256 != second.sha256
  assert len(first.sha256) == 64
