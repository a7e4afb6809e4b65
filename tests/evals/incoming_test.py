"""Sentences out of blocks of bytes, however these are cut."""

import io

import pytest

from time_jax.errors import UserError
from time_jax.evals import incoming

TREES = "".join(
  f"# n = {n}\n1\tOne\t"
  + "\t".join("_" * 8)
  + "\n2\tü\t"
  + "\t".join("_" * 8)
  + end
  for n, end in enumerate(("\n\n", "\n\n\n", "\n"))
).encode()
TOKENS = "# a\nOne\tO\nü\tB-X\n\n\n# b\nTwo\tO\n\n# end\n".encode()
WORDS = "One\nü\n\nTwo\n".encode()
TEXT = "#One ü\n\r\n Two three\nFour".encode()


def words(found):
  return [
    list(s.words) if hasattr(s, "before") else s.column("FORM") for s in found
  ]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(
  ("data", "choose", "expected"),
  [
    (TREES, incoming.choose_conllu, [["One", "ü"]] * 3),
    (TOKENS, incoming.choose_tokens, [["One", "ü"], ["Two"]]),
    (WORDS, incoming.choose_tokens, [["One", "ü"], ["Two"]]),
    (TEXT, incoming.choose_conllu, [["#One", "ü"], ["Two", "three"], ["Four"]]),
    (TEXT, incoming.choose_tokens, [["#One", "ü"], ["Two", "three"], ["Four"]]),
    (b"# one", incoming.choose_conllu, [["#", "one"]]),
    (b"One\tO\n\n#x\tO\n\n", incoming.choose_tokens, [["One"], ["#x"]]),
    (
      b"An ox\tin\nTo be",
      incoming.choose_tokens,
      [["An", "ox", "in"], ["To", "be"]],
    ),
    (b"", incoming.choose_tokens, []),
    (b"\n \n", incoming.choose_conllu, []),
  ],
)
def test_cuts_change_nothing(data, choose, expected, size):
  cut = [data[i : i + size] for i in range(0, len(data), size)]
  (whole, parts) = (
    [s for some in incoming.sentences(blocks, choose) for s in some]
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
    for some in incoming.sentences(typed(), incoming.choose_tokens)
  ]
  assert counts == [(1, 1), (1, 2), (1, 4)]


def test_a_sentence_is_answered_at_its_blank_line():
  asked = iter(TREES.splitlines(keepends=True))
  found = incoming.sentences(asked, incoming.choose_conllu)
  assert words(next(found)) == [["One", "ü"]]
  assert next(asked) == b"# n = 1\n"


def test_bad_lines_are_numbered_from_the_start():
  data = [b"a\tO\n\n", b"b\tO\n\n", b"c\tX\n"]
  found = incoming.sentences(data, incoming.choose_tokens)
  assert [words(next(found)), words(next(found))] == [[["a"]], [["b"]]]
  with pytest.raises(UserError, match="^input:5: the tag is 'X'"):
    next(found)


def test_blocks_of_a_stream():
  assert b"".join(incoming.blocks(io.BytesIO(TREES))) == TREES
