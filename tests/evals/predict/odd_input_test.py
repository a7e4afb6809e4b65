"""Odd input of `predict`: a right answer or one clear line, never a hang."""

import re

import pytest

from time_jax.core.errors import UserError
from time_jax.evals.ner import layouts
from time_jax.evals.predict import streams

UD, NER = streams.ChooseConllu, streams.ChooseTokens
ROW = b"1\tx" + b"\t_" * 8 + b"\n"


def words(found):
  return [
    list(s.words) if hasattr(s, "before") else s.column("FORM") for s in found
  ]


def failing(blocks, choose):
  found = []
  with pytest.raises(UserError) as caught:
    for some in streams.sentences(blocks, choose):
      found += some
  return found, str(caught.value)


@pytest.mark.parametrize(
  ("data", "forms"),
  [
    ("😀", ["😀"]),
    ("👩\u200d👩\u200d👧 ok", ["👩\u200d👩\u200d👧", "ok"]),
    ("\u0301\u0302 \u0303", ["\u0301\u0302", "\u0303"]),
    ("\u200b \u200d\u2060", ["\u200b", "\u200d\u2060"]),
    ("a\u2028b c\x85d", ["a", "b", "c", "d"]),
    ("a \t b\t", ["a", "b"]),
    ("\ufeffa b", ["a", "b"]),
    ("a b\r\n", ["a", "b"]),
    ("x" * 100_000 + " y", ["x" * 100_000, "y"]),
    ("ab " * 5000, ["ab"] * 5000),
  ],
  ids=range(10),
)
@pytest.mark.parametrize("choose", [UD, NER])
def test_odd_text_is_read_as_its_words(data, forms, choose):
  block = data.encode()
  size = len(block) // 7 + 1
  cut = [block[i : i + size] for i in range(0, len(block), size)]
  (found,) = streams.sentences(cut, choose)
  assert words(found) == [forms]


@pytest.mark.parametrize(
  ("choose", "start", "sound", "more"),
  [
    *((choose, b"", 0, b"x") for choose in (UD, NER)),
    *((choose, b"", 0, "語 ".encode()) for choose in (UD, NER)),
    *((choose, b"", 0, b"\n") for choose in (UD, NER)),
    *((choose, b"", 0, b"# x\n") for choose in (UD, NER)),
    *((choose, b"a b\nc d\n", 2, b"x") for choose in (UD, NER)),
    *((choose, b"a b\nc d\n", 2, b"\n") for choose in (UD, NER)),
    (UD, ROW + b"\n", 1, b"# x\n"),
    (UD, ROW + b"\n", 1, b"2.1" + ROW[1:]),
    (NER, b"a\tO\n\n", 1, b"# x\n"),
    (NER, b"a\tO\n\n", 1, b"b\tO\n"),
    (NER, b"a\tO\n\n", 1, b"\n"),
    (NER, b"a\n" * 99 + b"\n", 1, b"b\n"),
  ],
)
def test_what_never_ends_is_refused_in_little_time_and_memory(
  choose, start, sound, more, monkeypatch
):
  monkeypatch.setattr(streams, "_LONGEST", 2000)
  taken = 0

  def endless():
    nonlocal taken
    yield start
    while taken < 10**5:
      taken += 10 * len(more)
      yield 10 * more

  found, error = failing(endless(), choose)
  assert re.fullmatch(r"input:\d+: no sentence .* 2,000 characters.*", error)
  assert taken <= 4 * 2000 + 10 * len(more)
  assert len(found) == sound


def test_an_end_is_found_wherever_blocks_are_cut(monkeypatch):
  monkeypatch.setattr(streams, "_LONGEST", 20)
  for text, sound in (
    ("語" * 19 + "\n" + "ü" * 19 + "\n", 2),
    ("語" * 19 + "\n" + "ü" * 20 + "\n", 1),
    ("語" * 20 + "\n", 0),
  ):
    data = f"a b\n{text}".encode()
    for size in range(1, len(data)):
      found = []
      cut = [data[i : i + size] for i in range(0, len(data), size)]
      try:
        for some in streams.sentences(cut, UD):
          found += some
      except UserError as error:
        assert str(error).startswith(f"input:{sound + 2}: no sentence ends")
      else:
        assert sound == 2
      assert len(found) == sound + 1


@pytest.mark.parametrize(
  ("bad", "what"),
  [
    ("é".encode()[:1], "not UTF-8 at byte 1 of the line"),
    (b"a\0b\n", "holds a NUL at byte 2"),
    (b"a\rb\n", r"a carriage return \(\\r\)"),
  ],
)
def test_a_line_that_is_no_text_says_how_many_are_not_answered(bad, what):
  for choose in (UD, NER):  # Nobody knows whether these are comments.
    _, error = failing([b"# one\n\n# two\n", bad], choose)
    assert re.match(f"input:4:? {what}", error)
    assert error.endswith(
      "Lines before it that are not answered, since they did not tell yet "
      "what the input is: 2."
    )
  for start in (b"", b"\n", b"One two\n"):
    for choose in (UD, NER):
      found, error = failing([start, bad], choose)
      assert words(found) == ([["One", "two"]] if start.strip() else [])
      assert re.match(f"input(:{2 if start else 1}:?)? {what}", error)
      assert "not answered" not in error


def test_a_format_is_not_sought_again_at_each_empty_line(monkeypatch):
  decided = []
  decide = layouts.LayoutGuess._decide

  def counted(self, **kwargs):
    decided.append(len(self._rows))
    return decide(self, **kwargs)

  monkeypatch.setattr(layouts.LayoutGuess, "_decide", counted)
  data = b"One\n" + b"\n" * 500 + b"two\n" + b"\n" * 500 + b"to be\n"
  (found,) = streams.sentences([data], NER)
  assert words(found) == [["One"], ["two"], ["to", "be"]]
  assert decided == [1, 2]
