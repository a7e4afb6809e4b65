"""IOB2 comes back as it was; what is wrong is said with its line."""

import gzip

import pytest
import tiny_ner

from time_jax.errors import UserError
from time_jax.evals import iob


@pytest.mark.parametrize("name", ["da-train", "da-dev"])
def test_what_is_read_is_written_byte_by_byte(name):
  path = tiny_ner.NER / f"{name}.iob2"
  assert iob.to_text(iob.read(path)).encode() == path.read_bytes()


def test_columns_comments_and_line_ends(tmp_path):
  text = (
    "# sent_id = 1\r\n\r\n# text = Ib # 1\r\nIb NN  B-PER\r\n# NN O\r\n1 NN O"
  )
  path = tmp_path / "a.gz"
  path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.encode()))
  (sentence,) = iob.read(path)
  assert sentence.words == ("Ib", "#", "1")
  assert sentence.tags == ("B-PER", "O", "O")
  assert sentence.place(1) == f"{path}:5"
  changed = iob.to_text([sentence.with_tags(["O", "B-X", "I-X"])])
  assert changed == (
    "# sent_id = 1\n# text = Ib # 1\nIb NN  O\n# NN B-X\n1 NN I-X\n\n"
  )


def test_a_token_of_a_hash_sign_and_tokens_with_spaces():
  lines = b"# \tO\n10 000\tO\n#\tO\n\n# a comment O\nx\tO\n"
  first, second = iob.parse(lines.splitlines(), "in")
  assert first.words == ("# ", "10 000", "#")
  assert second.words == ("x",) and second.comments == ("# a comment O",)


def test_the_language_in_wikianns_own_files(tmp_path, capsys):
  text = "da:Anna\tB-PER\nda::\tO\n\nda:da:x\tO\n\n"
  path = tmp_path / "da.iob2"
  path.write_text(text)
  sentences = iob.read(path)
  assert [s.words for s in sentences] == [("Anna", ":"), ("da:x",)]
  assert iob.to_text(sentences) == text
  assert "all tokens begin with 'da:'" in capsys.readouterr().err
  for other in ("Hans\tO\n", "da:\tO\n", "de:Hans\tO\n"):
    path.write_text(text + other)
    assert iob.read(path)[0].words == ("da:Anna", "da::")
  assert not capsys.readouterr().err


def test_tokens_without_tags():
  (sentence,) = iob.parse([b"Ib\tNN\n", b"1\n"], "in", tagged=False)
  assert sentence.words == ("Ib", "1") and not sentence.tags
  assert iob.to_text([sentence.with_tags(["O", "B-X"])]) == (
    "Ib\tNN\tO\n1\tB-X\n\n"
  )


@pytest.mark.parametrize(
  ("text", "line", "what"),
  [
    ("", 1, "no sentence"),
    ("# only a comment\n\n", 1, "no sentence"),
    ("a\tO\nb\n", 2, "no tag behind the token 'b'"),
    ("a\tO\nb\t\n", 2, "no tag behind the token 'b'"),
    ("\tO\n", 1, "does not start with a token"),
    (" O\n", 1, "does not start with a token"),
    ("a\tPER\n", 1, "the tag is 'PER', expected O, B-TYPE or I-TYPE"),
    ("a b B-\n", 1, "the tag is 'B-'"),
    ("a\to\n", 1, "the tag is 'o'"),
    ("a\tE-PER\n", 1, "the tag is 'E-PER'"),
    ("a\tI-PER\n", 1, "I-PER starts a sentence; expected B-PER here"),
    ("a\tB-PER\n\nb\tI-PER\n", 3, "I-PER starts a sentence"),
    ("a\tO\nb\tI-PER\n", 2, "I-PER follows O; expected B-PER here, or"),
    ("a\tB-X\nb\tI-X\nc\tI-Y\n", 3, "I-Y follows I-X; expected B-Y here"),
  ],
)
@pytest.mark.parametrize("end", [".iob2", ".iob2.gz"])
def test_bad_files(tmp_path, text, line, what, end):
  path = tmp_path / f"bad{end}"
  data = text.encode()
  path.write_bytes(gzip.compress(data) if end.endswith("gz") else data)
  with pytest.raises(UserError) as caught:
    iob.read(path)
  said = str(caught.value)
  assert said.startswith(f"{path}:{line}: ") and what in said, said
  assert "\n" not in said


def test_all_bad_lines_are_named():
  text = b"a\tI-X\nb\n\nc\tO\nd\tx\n"
  with pytest.raises(UserError) as caught:
    iob.parse(text.splitlines(keepends=True), "in")
  said = str(caught.value)
  assert said.startswith("in:1: the tag I-X starts a sentence; ")
  assert " in:2: no tag behind the token 'b'; " in said
  assert " in:5: the tag is 'x', expected O" in said
  assert said.count("in:") == 3


def test_bytes_that_are_no_text_and_files_that_are_not_there(tmp_path):
  path = tmp_path / "a.iob2"
  path.write_bytes(b"a\tO\nb\t\xff\n")
  with pytest.raises(UserError, match=r"a\.iob2:2: not UTF-8 at byte 3"):
    iob.read(path)
  with pytest.raises(UserError, match=r"no file at .*expected an IOB2 file"):
    iob.read(tmp_path / "b.iob2")
  (tmp_path / "c.gz").write_bytes(gzip.compress(b"x" * 999)[:20])
  with pytest.raises(UserError, match="cannot be read"):
    iob.read(tmp_path / "c.gz")
