"""UTF-16, UTF-32 and files that are no text: every reader of text refuses."""

import codecs
import gzip

import pytest
import zstandard

from time_jax.core.errors import UserError
from time_jax.data import text_files
from time_jax.data.records import Tally
from time_jax.evals.ner import iob
from time_jax.evals.predict import streams
from time_jax.evals.qa import squad
from time_jax.evals.ud import conllu

TEXT = "Der er en hund .\n\nOg en kat .\n"
LINES = '{"text": "Der er en hund ."}\n{"text": "Og en kat ."}\n'
TREE = "1\tHund\t_\tNOUN\t_\t_\t0\troot\t_\t_\n\n"
TAGS = "Hund\tO\n\n"
QUESTIONS = '{"context": "En hund .", "question": "Hvad?"}\n'
MARKED = {
  "UTF-16": [
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
  ],
  "UTF-32": [
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
  ],
}
BAD = [
  *((name, *how) for name, both in MARKED.items() for how in both),
  *(("a NUL", b"", code) for code in ("utf-16-le", "utf-16-be", "utf-32-le")),
]


def documents(path):
  found = text_files.find_files(str(path))
  return list(text_files.read_files(found, "text", Tally(10)))


def stream(choose):
  return lambda path: list(
    streams.sentences([path.read_bytes()[:1], path.read_bytes()[1:]], choose)
  )


READERS = {
  "a.txt": (TEXT, documents),
  "a.jsonl": (LINES, documents),
  "a.txt.gz": (TEXT, documents),
  "a.jsonl.zst": (LINES, documents),
  "a.conllu": (TREE, conllu.read),
  "a.conllu.gz": (TREE, conllu.read),
  "a.iob2": (TAGS, iob.read),
  "a.json": (
    '{"data": [{"paragraphs": [{"context": "En hund .", "qas": [{"id": "1", '
    '"question": "Hvad?", "answers": [{"text": "hund", "answer_start": 3}]}]}]'
    "}]}",
    squad.read,
  ),
  "input of ud": (TREE, stream(streams.ChooseConllu)),
  "input of ner": (TAGS, stream(streams.ChooseTokens)),
  "input of text": (TEXT, stream(streams.ChooseConllu)),
  "input of qa": (
    QUESTIONS,
    lambda path: [*streams.questions([path.read_bytes()])],
  ),
}


def write(path, data):
  if path.suffix == ".gz":
    data = gzip.compress(data)
  if path.suffix == ".zst":
    data = zstandard.compress(data)
  path.write_bytes(data)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad[0]}-{bad[2]}")
def test_other_encodings_are_refused(tmp_path, name, bad):
  text, read = READERS[name]
  what, mark, encoding = bad
  path = tmp_path / name
  write(path, mark + text.encode(encoding))
  with pytest.raises(UserError) as caught:
    read(path)
  message = str(caught.value)
  assert ("input" if "input" in name else str(path)) in message
  assert what in message and "expected UTF-8" in message


@pytest.mark.parametrize("name", READERS)
def test_the_mark_of_utf8_is_no_text(tmp_path, name):
  text, read = READERS[name]
  path = tmp_path / name
  write(path, text.encode())
  expected = read(path)
  write(path, codecs.BOM_UTF8 + text.encode())
  assert expected and read(path) == expected


def test_a_nul_far_inside_costs_its_line(tmp_path, caplog):
  """As any other damage of a big file."""
  path = tmp_path / "a.txt"
  path.write_bytes(TEXT.encode() * 1000 + b"no\0text\n\nmore\n")
  found = documents(path)
  assert found[-1] == "more" and not any("\0" in text for text in found)
  assert "a.txt:3001: a NUL, which no text has; skipped" in caplog.text


def test_standard_input_in_blocks():
  """A mark may come in pieces."""
  data = codecs.BOM_UTF16_LE + TREE.encode("utf-16-le")
  blocks = [data[i : i + 1] for i in range(len(data))]
  with pytest.raises(UserError, match="input is text in UTF-16"):
    list(streams.sentences(blocks, streams.ChooseConllu))
