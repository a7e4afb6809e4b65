"""IOB2 comes back as it was; what is wrong is said with its line."""

import gzip
import io
import subprocess

import pytest
import tiny_ner

from time_jax.core.errors import UserError
from time_jax.evals.common.text_lines import parse_lines
from time_jax.evals.ner import iob
from time_jax.evals.ner.layouts import Layout


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
    "# sent_id = 1\n\n# text = Ib # 1\nIb NN  O\n# NN B-X\n1 NN I-X\n\n"
  )


def test_a_token_of_a_hash_sign_and_tokens_with_spaces():
  lines = b"# \tO\n10 000\tO\n#\tO\n\n# a comment O\nx\tO\n"
  first, second = iob.parse(lines.splitlines(), "in")
  assert first.words == ("# ", "10 000", "#")
  assert second.words == ("x",) and second.comments == ("# a comment O",)


def test_the_language_in_wikianns_own_files(tmp_path, capsys):
  text = "da:Anna\tB-PER\nda::\tO\n\nda:da:x\tO\nda:\tO\n\n"
  path = tmp_path / "da.iob2"
  path.write_text(text)
  sentences = iob.read(path)
  assert [s.words for s in sentences] == [("Anna", ":"), ("da:x", "_")]
  assert iob.to_text(sentences) == text
  assert "all tokens begin with 'da:'" in capsys.readouterr().err
  for other in ("Hans", "de:Hans", "d"):
    path.write_text(f"{text}{other}\tO\n")
    with pytest.raises(UserError, match=rf"iob2:7: the token '{other}' does n"):
      iob.read(path)
  many = "da:a\tO\n" * 200
  with pytest.raises(UserError, match="in:201: the token 'b' does not begin"):
    iob.parse(f"{many}b\tO".encode().splitlines(), "in")
  for few in (
    *("da:Anna\tO\nx\tO\ny\tO\n", "http:\tO\nhttp:b\tO\n"),
    "da:\tO\nda:\tO\n",  # Only the mark of a language is a word like others.
  ):
    (sentence,) = iob.parse(few.encode().splitlines(), "in")
    assert sentence.words[0] in ("da:Anna", "http:", "da:")


def test_marks_between_documents_and_all_empty_lines_are_kept():
  text = (
    "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nsays VB B-VP O\n\n\n"
    "-DOCSTART- -X- O O\n-DOCSTART- -X- O O\n\nHans NNP B-NP B-PER\n\n"
  )
  found = iob.parse(text.encode().splitlines(), "in")
  assert [s.words for s in found] == [("EU", "says"), ("Hans",)]
  assert [s.tags for s in found] == [("B-ORG", "O"), ("B-PER",)]
  assert iob.to_text(found) == text
  text = b"a\tB-X\n-DOCSTART-\tO\nb\tO\n-DOCSTART-x\tO\n"
  found = iob.parse(text.splitlines(), "in")
  assert [s.words for s in found] == [("a",), ("b", "-DOCSTART-x")]


def test_iob1_is_read_as_iob2(capsys):
  text = "a\tI-X\nb\tI-X\nc\tB-X\nd\tI-Y\n\ne\tO\nf\tI-X\n\n"
  first, second = iob.parse(text.encode().splitlines(), "in")
  assert first.tags == ("B-X", "I-X", "B-X", "B-Y")
  assert second.tags == ("O", "B-X")
  (line,) = capsys.readouterr().err.splitlines()
  assert line == (
    "time_jax: note: in: read as columns with tabs between them, the token "
    "first, the tag last (IOB1, in which entities begin with I-)."
  )


COUNTED = "1\tAnna\tB-PER\tO\n2\tler\tO\tO\n\n1\tJa\tO\tB-LOC\n"


@pytest.mark.parametrize(
  ("text", "line", "what"),
  [
    (COUNTED, 1, "the first column only counts the words"),
    (f"#\thttp://x [2009]\n{COUNTED}", 1, "the first column only counts"),
    (COUNTED.replace("1\t", "0\t").replace("2\t", "1\t"), 1, "only counts"),
    ("1\tJa\tO\tB-LOC\n", 1, "the first column only counts"),
    ("Alte\tB-ORG\tO\nUlm\tI-ORG\tB-ORG\n", 1, "the last two columns"),
    ("a\tO\rb\tO\r\r", 1, "a carriage return"),
    ("a\tO\nb\tO\rc\tO\n", 2, "a carriage return"),
    ("a O\nb NN O\nc O\n", 2, "3 columns with spaces between them, expected 2"),
    ("a\tO\nb O\n", 2, "no tag after the token 'b O'"),
  ],
)
def test_what_would_be_read_as_other_words_or_tags(text, line, what):
  with pytest.raises(UserError) as caught:
    iob.parse(io.BytesIO(text.encode()), "in")
  assert str(caught.value).startswith(f"in:{line}: ")
  assert what in str(caught.value)


@pytest.mark.parametrize(
  ("text", "words", "advice"),
  [
    (COUNTED, ["Anna", "ler", "Ja"], "cut -f2,3"),
    (
      f"#\thttp://x [2009-10-17]\n{COUNTED}",
      ["Anna", "ler", "Ja"],
      "grep -v $'^#\\t' | cut -f2,3",
    ),
    ("1 Anna NN B-PER\n2 ler VB O\n", ["Anna", "ler"], "cut -d' ' -f2,4"),
  ],
)
def test_the_advice_for_a_column_that_counts_helps(text, words, advice):
  with pytest.raises(UserError) as caught:
    iob.parse(text.encode().splitlines(), "in")
  command = str(caught.value).rpartition(" with `")[2].rpartition("`")[0]
  assert command == advice
  left = subprocess.run(
    ["bash", "-c", command],
    input=text.encode(),
    stdout=subprocess.PIPE,
    check=True,
  ).stdout
  found = iob.parse(left.splitlines(), "in")
  assert [word for s in found for word in s.words] == words


def test_a_column_of_numbers_and_one_of_chunks_are_none_of_these():
  for text in ("1\tO\n2\tO\n", "2\tCD\tO\n1\tCD\tO\n", "1 CD O\nx NN O\n"):
    (sentence,) = iob.parse(text.encode().splitlines(), "in")
    assert len(sentence.words) == 2
  text = b"EU\tB-NP\tB-ORG\nsays\tB-VP\tO\n"
  assert iob.parse(text.splitlines(), "in")[0].tags == ("B-ORG", "O")


def test_tokens_without_tags():
  numbered = [(1, "Ib\tNN"), (2, "1"), (3, "")]
  (sentence,) = parse_lines(iob.SentenceParser("in", Layout("\t")), numbered)
  assert sentence.words == ("Ib", "1") and not sentence.tags
  assert iob.to_text([sentence.with_tags(["O", "B-X"])]) == (
    "Ib\tNN\tO\n1\tB-X\n\n"
  )


@pytest.mark.parametrize(
  ("text", "line", "what"),
  [
    ("", 1, "no sentence"),
    ("# only a comment\n\n", 1, "no sentence"),
    ("a\tO\nb\n", 2, "no tag after the token 'b'"),
    ("a\tO\nb\t\n", 2, "no tag after the token 'b'"),
    ("\tO\n", 1, "does not start with a token"),
    (" O\n", 1, "does not start with a token"),
    ("a\tPER\n", 1, "the tag is 'PER', expected O, B-TYPE or I-TYPE"),
    ("a b B-\n", 1, "the tag is 'B-'"),
    ("a\to\n", 1, "the tag is 'o'"),
    ("a\tE-PER\n", 1, "the tag is 'E-PER'"),
    ("a\tI-Y\nb\tB-X\n", 1, "I-Y starts a sentence; expected B-Y here"),
    ("a\tB-PER\n\nb\tI-PER\n", 3, "I-PER starts a sentence"),
    ("a\tO\nb\tI-X\nc\tB-Y\n", 2, "I-X follows O; expected B-X here, or"),
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
  text = b"a\tI\nb\n\nc\tO\nd\tx\n"
  with pytest.raises(UserError) as caught:
    iob.parse(text.splitlines(keepends=True), "in")
  said = str(caught.value)
  assert said.startswith("in:1: the tag is 'I', expected O")
  assert " in:2: no tag after the token 'b'; " in said
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
