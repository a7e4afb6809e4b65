"""Files come back as they were; what is wrong is said with its line."""

import gzip
import pathlib

import pytest

from time_jax.core.errors import UserError
from time_jax.evals.ud import conllu

UD = pathlib.Path(__file__).parent


def word(number, head, form="x", misc="_"):
  return f"{number}\t{form}\t_\t_\t_\t_\t{head}\tdep\t_\t{misc}\n"


@pytest.mark.parametrize("name", ["ga-train", "ga-dev", "en-dev"])
def test_what_is_read_is_written_byte_by_byte(name):
  path = UD / f"{name}.conllu.gz"
  assert conllu.to_text(conllu.read(path)).encode() == gzip.decompress(
    path.read_bytes()
  )


def test_words_are_neither_tokens_nor_empty_nodes():
  kinds = set()
  for sentence in conllu.read(UD / "en-dev.conllu.gz"):
    ids = [row[0] for row in sentence.rows if len(row) > 1]
    kinds |= {mark for mark in ".-" if any(mark in i for i in ids)}
    numbers = [str(i + 1) for i in range(len(sentence.words))]
    assert sentence.column("ID") == numbers
  assert kinds == {".", "-"}


def test_only_the_columns_of_words_are_replaced():
  for sentence in conllu.read(UD / "en-dev.conllu.gz"):
    count = len(sentence.words)
    changed = sentence.with_columns({"UPOS": ["NEW"] * count})
    assert changed.column("UPOS") == ["NEW"] * count
    for before, after in zip(sentence.rows, changed.rows, strict=True):
      if before[0].isdecimal():
        assert after == (*before[:3], "NEW", *before[4:])
      else:
        assert after == before


def test_other_line_ends_a_mark_and_no_last_line(tmp_path):
  text = "# text = x\r\n" + word(1, 0).replace("\n", "\r\n")
  (tmp_path / "a.conllu").write_bytes(b"\xef\xbb\xbf" + text.encode().rstrip())
  (sentence,) = conllu.read(tmp_path / "a.conllu")
  assert sentence.rows[0] == ("# text = x",)
  assert sentence.column("MISC") == ["_"]


def test_text_without_trees():
  (sentence,) = conllu.parse([word(1, "_").encode()], "in", trees=False)
  assert sentence.column("HEAD") == ["_"]
  made = conllu.make_sentence(["a", "b"], "in")
  assert made.numbers == (1, 2) and made.name == "in"
  nothing = "\t".join("_" * 8)
  assert conllu.to_text([made]) == f"1\ta\t{nothing}\n2\tb\t{nothing}\n\n"


@pytest.mark.parametrize(
  ("text", "line", "what"),
  [
    ("", 1, "no sentence"),
    ("\n\n", 1, "no sentence"),
    ("# only a comment\n", 1, "after 0 words"),
    (word(1, 0) + "2\tx\t_\n", 2, "3 columns, expected 10"),
    (word(1, 0) + word(3, 1), 2, "id '3', expected 2"),
    (word(1, 0) + word(1, 1), 2, "id '1', expected 2"),
    (word(1, 0) + word("two", 1), 2, "id 'two', expected 2"),
    (word(1, 0) + word("3.1", 1), 2, "id '3.1', expected 2"),
    (word(1, 0) + word("٢", 1), 2, "id '٢', expected 2"),
    (word(1, 0) + word("9" * 5000, 1), 2, "expected 2"),
    (word(f"1-{'9' * 5000}", "_") + word(1, 0), 1, "expected 1"),
    (word("1-2", "_") + word(1, 0), 2, "after 1 words, expected at least 2"),
    (word("2-3", "_") + word(1, 0), 1, "starts at 1"),
    (word(1, 0, form=" "), 1, "the word is empty"),
    (word(1, 0) + word(2, 3), 2, "HEAD is '3', expected a number from 0 to 2"),
    (word(1, 0) + word(2, "_"), 2, "HEAD is '_'"),
    (word(1, 0) + word(2, -1), 2, "HEAD is '-1'"),
    (word(1, 0) + word(2, "٢"), 2, "HEAD is '٢'"),
    (word(1, 0) + word(2, "1" * 5000), 2, "HEAD is '11"),
    (word(1, 0) + word(2, 0), 2, "2 roots"),
    (word(1, 2) + word(2, 1), 1, "0 roots"),
    ("# a\n" + word(1, 0) + word(2, 3) + word(3, 2), 3, "its own ancestor"),
    (word(1, 0) + word(2, 2), 2, "its own ancestor"),
    (word(1, 0) + "\n" + word(1, 0) + word(2, 9), 4, "HEAD is '9'"),
  ],
)
@pytest.mark.parametrize("end", [".conllu", ".conllu.gz"])
def test_bad_files(tmp_path, text, line, what, end):
  path = tmp_path / f"bad{end}"
  data = text.encode()
  path.write_bytes(gzip.compress(data) if end.endswith("gz") else data)
  with pytest.raises(UserError) as caught:
    conllu.read(path)
  said = str(caught.value)
  assert said.startswith(f"{path}:{line}: ") and what in said, said
  assert "\n" not in said


def test_all_bad_sentences_are_named_up_to_ten():
  bad = [word(1, 0), "2\tx\n", word(1, 5), "\n", word(1, 7), "\n", word(1, 0)]
  lines = "".join(bad).encode().splitlines(keepends=True)
  with pytest.raises(UserError) as caught:
    conllu.parse(lines, "in")
  # The third line is of a sentence whose words cannot be counted.
  assert str(caught.value) == (
    "in:2: 2 columns, expected 10 separated by tabs (CoNLL-U). in:5: HEAD is "
    "'7', expected a number from 0 to 1."
  )
  with pytest.raises(UserError) as caught:
    conllu.parse([b"x\n"] * 50, "in")
  said = str(caught.value)
  assert said.count("in:") == 10
  assert said.endswith("(CoNLL-U). These are the first 10.")


def test_bytes_that_are_no_text_and_files_that_are_not_there(tmp_path):
  path = tmp_path / "a.conllu"
  path.write_bytes(word(1, 0).encode() + b"2\t\xff\n")
  with pytest.raises(UserError, match=r"a\.conllu:2: not UTF-8 at byte 3"):
    conllu.read(path)
  with pytest.raises(UserError, match="no file at"):
    conllu.read(tmp_path / "b.conllu")
  for content in (b"plain", gzip.compress(b"x" * 999)[:20]):
    (tmp_path / "c.gz").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
      conllu.read(tmp_path / "c.gz")
