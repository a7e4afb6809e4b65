"""Sentences out of blocks of bytes, however these are cut."""

import io
import os
import threading

import pytest

from time_jax.core.errors import UserError
from time_jax.evals.ner import iob
from time_jax.evals.predict import streams

TREES = "".join(
  f"# n = {n}\n1\tOne\t"
  + "\t".join("_" * 8)
  + "\n2\tü\t"
  + "\t".join("_" * 8)
  + end
  for n, end in enumerate(("\n\n", "\n\n\n", "\n"))
).encode()
TOKENS = "# a\nOne\tO\nü\tB-X\n\n\n# b\nTwo\tO\n\n# end\n".encode()
SPACED = b"-DOCSTART- -X- -X- O\n\nSID NNP B-NP B-ORG\ner VB O O\n\nJa UH O O\n"
WORDS = "One\nü\n\nTwo\n".encode()
DOCX = "-DOCSTART-x"
TEXT = "#One ü\n\r\n Two three\nFour".encode()


def words(found):
  return [
    list(s.words) if hasattr(s, "before") else s.column("FORM") for s in found
  ]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(
  ("data", "choose", "expected"),
  [
    (TREES, streams.ChooseConllu, [["One", "ü"]] * 3),
    (TOKENS, streams.ChooseTokens, [["One", "ü"], ["Two"]]),
    (WORDS, streams.ChooseTokens, [["One", "ü"], ["Two"]]),
    (TEXT, streams.ChooseConllu, [["#One", "ü"], ["Two", "three"], ["Four"]]),
    (TEXT, streams.ChooseTokens, [["#One", "ü"], ["Two", "three"], ["Four"]]),
    (b"# one", streams.ChooseConllu, [["#", "one"]]),
    (b"One\tO\n\n#x\tO\n\n", streams.ChooseTokens, [["One"], ["#x"]]),
    (
      b"An ox\tin\nTo be",
      streams.ChooseTokens,
      [["An", "ox", "in"], ["To", "be"]],
    ),
    (SPACED, streams.ChooseTokens, [["SID", "er"], ["Ja"]]),
    (
      b"dog O\nAnna B-PER\n\ncat O",
      streams.ChooseTokens,
      [["dog", "Anna"], ["cat"]],
    ),
    (b"da:A\tO\nda:\tO\n\nda:B\tO", streams.ChooseTokens, [["A", "_"], ["B"]]),
    (b"A\tI-X\nb\tO\n", streams.ChooseTokens, [["A", "b"]]),
    (
      b"In group O\nHe is",
      streams.ChooseTokens,
      [["In", "group", "O"], ["He", "is"]],
    ),
    (b"# a\nOne\n\nTwo\n", streams.ChooseTokens, [["One"], ["Two"]]),
    (
      b"Title\n\nOf a text\n",
      streams.ChooseTokens,
      [["Title"], ["Of", "a", "text"]],
    ),
    (b"-DOCSTART-\n\n", streams.ChooseTokens, []),
    (
      b"a B-PER\nb O\n\n# O\n",
      streams.ChooseTokens,
      [["a", "b"], ["#"]],
    ),
    (b"a\tO\n\n-DOCSTART-x\tO\n", streams.ChooseTokens, [["a"], [DOCX]]),
    (
      "10\u00a0000\nkr\u3000\n\nOslo\n".encode(),
      streams.ChooseTokens,
      [["10\u00a0000", "kr\u3000"], ["Oslo"]],
    ),
    (
      b"She lives near I-95\nIt is far away\n\nShe drives to work\n",
      streams.ChooseTokens,
      [
        ["She", "lives", "near", "I-95"],
        ["It", "is", "far", "away"],
        ["She", "drives", "to", "work"],
      ],
    ),
    (
      b"Vitamin B-12\n\nIt is good\n",
      streams.ChooseTokens,
      [["Vitamin", "B-12"], ["It", "is", "good"]],
    ),
    (
      b"He saw I-95\nYes\n\nNo\n",
      streams.ChooseTokens,
      [["He", "saw", "I-95"], ["Yes"], ["No"]],
    ),
    (b"SID B-ORG\n\n", streams.ChooseTokens, [["SID"]]),
    (b"\xef\xbb\xbf" + TREES, streams.ChooseConllu, [["One", "\u00fc"]] * 3),
    (b"", streams.ChooseTokens, []),
    (b"\n \n", streams.ChooseConllu, []),
  ],
)
def test_cuts_change_nothing(data, choose, expected, size):
  cut = [data[i : i + size] for i in range(0, len(data), size)]
  (whole, parts) = (
    [s for some in streams.sentences(blocks, choose) for s in some]
    for blocks in ([data], cut)
  )
  assert words(whole) == expected
  assert parts == whole  # line numbers and comments, too


def test_a_line_is_answered_before_the_next_is_read():
  asked = []

  def typed():
    for line in (b"One two\n", b"Three\n", b"Fo", b"ur\n"):
      asked.append(line)
      yield line

  counts = [
    (len(some), len(asked))
    for some in streams.sentences(typed(), streams.ChooseTokens)
  ]
  assert counts == [(1, 1), (1, 2), (1, 4)]


def test_a_sentence_is_answered_at_its_blank_line():
  asked = iter(TREES.splitlines(keepends=True))
  found = streams.sentences(asked, streams.ChooseConllu)
  assert words(next(found)) == [["One", "ü"]]
  assert next(asked) == b"# n = 1\n"


def test_bad_lines_are_numbered_from_the_start():
  data = [b"a\tO\n\n", b"b\tO\n\n", b"c\tX\n"]
  found = streams.sentences(data, streams.ChooseTokens)
  assert [words(next(found)), words(next(found))] == [[["a"]], [["b"]]]
  with pytest.raises(UserError, match="^input:5: the tag is 'X'"):
    next(found)


@pytest.mark.parametrize(
  ("data", "choose", "sound", "what"),
  [
    (b"a O\nb O\n\nc x O\n", streams.ChooseTokens, 1, "4: 3 columns with sp"),
    (b"a O\nb O\n\nc X\n", streams.ChooseTokens, 1, "4: the tag is 'X'"),
    (b"a O\nb O\nc X\n", streams.ChooseTokens, 0, "3: the tag is 'X'"),
    (b"a\tO\nb\tX\n", streams.ChooseTokens, 0, "2: the tag is 'X'"),
    (b"a O\nb X\nc O\n", streams.ChooseTokens, 0, "2: the tag is 'X'"),
    (b"a O\nb X\n", streams.ChooseTokens, 0, "1: this line may be a sente"),
    (b"a\n" * 99 + b"\n" + b"a\nb c\n", streams.ChooseTokens, 1, "102: sever"),
    (b"de:a\tO\n\n" * 100 + b"b\tO", streams.ChooseTokens, 100, "201: the to"),
    (b"1\ta\tO\n\n1\tb\tO\n2\tc\tO\n", streams.ChooseTokens, 0, "1: the fir"),
    (TREES, streams.ChooseTokens, 0, "2: the first column only counts"),
    (b"He is in O\n", streams.ChooseTokens, 0, "1: this line may be a sente"),
    (
      b"He is O\nIt is x\n",
      streams.ChooseTokens,
      0,
      "1: this line may be a s",
    ),
    (
      b"-DOCSTART- -X-\n\nEU NN\n",
      streams.ChooseTokens,
      0,
      "3: the tag is 'N",
    ),
    (
      b"To be\n" + b"a O\n" * 9,
      streams.ChooseTokens,
      3,
      "4: 'a O' looks like",
    ),
    (b"a b\n" + b"a\tO\n" * 9, streams.ChooseConllu, 3, "4: 'a\\tO' looks li"),
    (b"a b\n" + TREES, streams.ChooseConllu, 2, "3: '1\\tOne"),
    (b"a b\rc d\r", streams.ChooseConllu, 0, "1: a carriage return"),
  ],
)
@pytest.mark.parametrize("size", [1, 9, 4000])
def test_what_is_of_another_kind_is_told_behind_what_was_sound(
  data, choose, sound, what, size
):
  cut = [data[i : i + size] for i in range(0, len(data), size)]
  found = []
  with pytest.raises(UserError) as caught:
    for some in streams.sentences(cut, choose):
      found += some
  assert str(caught.value).startswith(f"input:{what}")
  assert len(found) == sound


def test_the_format_is_said_once(capsys):
  for data, choose, what in (
    (
      TOKENS,
      streams.ChooseTokens,
      "columns with tabs between them, the token",
    ),
    (
      SPACED,
      streams.ChooseTokens,
      "columns with spaces between them, the tok",
    ),
    (WORDS, streams.ChooseTokens, "a token a line."),
    (TEXT, streams.ChooseTokens, "running text, a sentence a line."),
    (TEXT, streams.ChooseConllu, "running text, a sentence a line."),
    (TREES, streams.ChooseConllu, "CoNLL-U."),
  ):
    assert list(streams.sentences([data], choose))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"time_jax: note: input: read as {what}")


def test_names_are_the_same_words_in_training_and_prediction(capsys):
  for text in (
    "da:Anna\tB-PER\nda:\tO\n\nda:ler\tO\n\n",
    "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nsays VB O O\n\n\nHi UH O O\n\n",
    "dog O\nAnna B-PER\n\n",
    "# a\nAnna\tx\tI-PER\n\n# b\nler\ty\tO\n\n",
    "10\u00a0000 O\nkroner O\n\nLagos B-LOC\nby\u3000\u2028x O\n\n",
  ):
    expected = iob.parse(text.encode().splitlines(), "file")
    first = (
      capsys.readouterr().err.partition(" (")[0].replace(" file:", " input:")
    )
    (found,) = streams.sentences([text.encode()], streams.ChooseTokens)
    assert words(found) == words(expected)
    assert iob.to_text(found).replace("I-", "B-") == iob.to_text(expected)
    assert capsys.readouterr().err.strip(".\n") == first


class Recorder:
  """Chooses itself at the tenth line, and answers each with its number."""

  def __init__(self):
    self.added, self.fed = [], []

  def add(self, number, text):
    self.added.append((number, text))
    return self if len(self.added) == 10 else None

  def feed(self, number, text):
    self.fed.append((number, text))
    return [number] if text else []


def test_each_line_is_seen_once_and_answered_when_its_block_is_full():
  recorder = Recorder()
  lines = [f"line {i} ü" for i in range(1, 1001)]
  data = "".join(f"{line}\n" for line in lines).encode()
  cut = [data[i : i + 999] for i in range(0, len(data), 999)]
  asked = 0

  def arriving():
    nonlocal asked
    for block in cut:
      asked += 1
      yield block

  found = []
  for some in streams.sentences(arriving(), lambda: recorder):
    found += some
    assert len(found) == b"".join(cut[:asked]).count(b"\n")
  numbered = list(enumerate(lines, 1))
  assert recorder.fed == [*numbered, (0, "")]
  assert recorder.added == numbered[:10]
  assert found == list(range(1, 1001))


def test_blocks_of_a_stream():
  assert b"".join(streams.blocks(io.BytesIO(TREES))) == TREES


def test_a_stream_that_does_not_wait_is_waited_for():
  reading, writing = os.pipe()
  os.set_blocking(reading, False)
  late = threading.Timer(
    0.2, lambda: (os.write(writing, b"x"), os.close(writing))
  )
  with open(reading, "rb") as source:
    late.start()
    assert list(streams.blocks(source)) == [b"x"]


def test_a_stream_that_cannot_be_read(tmp_path):
  writable = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
  with (
    open(writable, "rb") as source,
    pytest.raises(UserError, match="^the input cannot be read: .*; exp"),
  ):
    list(streams.blocks(source))
