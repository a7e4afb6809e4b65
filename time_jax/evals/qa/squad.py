"""Files of questions in the layout of SQuAD v1.1 (arXiv 1606.05250).

`{"data": [{"paragraphs": [{"context": ..., "qas": [{"id": ..., "question": ...,
"answers": [{"text": ..., "answer_start": ...}]}]}]}]}`; offsets count the
characters (code points) of the context. XQuAD and MLQA have the same layout.
Questions that SQuAD v2 marks as impossible are left out, with a note.

To be answered may also be JSON lines of `{"id", "question", "context"}`.
"""

import dataclasses
import json
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.core.storage.text_encoding import check_start
from time_jax.evals.common.lines import read_bytes

_EXPECTED = "questions in the layout of SQuAD v1.1 (JSON)"
EXPECTED = f'{_EXPECTED}, or lines of {{"id", "question", "context"}}'


@dataclasses.dataclass(frozen=True)
class Answer:
  """A stretch of a context.

  Attributes:
    text: as the context has it.
    start: its first character in the context, from 0.
    score: of a predicted one, its probability in the best window.
  """

  text: str
  start: int
  score: float = 1.0

  @property
  def stop(self) -> int:
    """The character behind its last one."""
    return self.start + len(self.text)


@dataclasses.dataclass(frozen=True)
class Question:
  """A question and the text that answers it.

  Attributes:
    id: of the question, as the file has it.
    text: the question.
    context: the text.
    answers: all that are right; or the one that is predicted.
    name: of the file, for messages.
  """

  id: str
  text: str
  context: str
  answers: tuple[Answer, ...]
  name: str

  @property
  def place(self) -> str:
    """FILE: question ID."""
    return f"{self.name}: question {self.id}"

  def misplaced(self, answer: Answer) -> str:
    """Why an answer does not stand where it is said to; empty: it does."""
    there = self.context[max(answer.start, 0) : max(answer.stop, 0)]
    if answer.start >= 0 and there == answer.text:
      return ""
    at = self.context.find(answer.text)
    hint = f"it first occurs at {at}" if at >= 0 else "it occurs nowhere"
    return (
      f"the answer {answer.text!r:.80} is not at character {answer.start} of "
      f"its context, where {there!r:.80} stands; {hint}."
    )

  def with_answer(self, answer: Answer) -> "Question":
    """The question with a predicted answer."""
    return dataclasses.replace(self, answers=(answer,))


def read(path: pathlib.Path) -> list[Question]:
  """Reads an annotated file, plain or .gz.

  Raises:
    UserError: no such file, not this layout, a question without an answer, or
      an answer that is not at its place; names the line and the question.
  """
  data = read_bytes(path, f"{_EXPECTED}, plain or .gz")
  found, seen = _questions(_load(data, str(path)), str(path), data), set()
  for question in found:
    problem = next(filter(None, map(question.misplaced, question.answers)), "")
    if question.id in seen:
      problem = "an earlier one has the same id."
    elif not question.answers:
      problem = (
        "no answer; expected at least one, to train on or to compare with."
      )
    if problem:
      name = f"{path}:{_line_of(question.id, data)}"
      place = dataclasses.replace(question, name=name).place
      raise UserError(f"{place}: {problem}")
    seen.add(question.id)
  return found


def _line_of(identity: str, data: bytes) -> int:
  """The line in which the last question of this id has it, from 1."""
  forms = (json.dumps(identity, ensure_ascii=plain) for plain in (True, False))
  # Half a surrogate pair can only stand there escaped: no bytes mean it.
  texts = b"|".join(
    re.escape(form[1:-1].encode(errors="replace")) for form in forms
  )
  pattern = rb'"id"\s*:\s*"?(?:%b)["\s,}]' % texts
  places = [match.start() for match in re.finditer(pattern, data)]
  return data.count(b"\n", 0, places[-1] if places else 0) + 1


def parse(data: bytes, name: str) -> list[Question]:
  """Questions to be answered, in the layout of SQuAD or as JSON lines.

  All of them, also those that are marked as impossible; answers are ignored.

  Args:
    data: all bytes.
    name: what messages call the file.
  """
  try:
    content = _load(data, name, EXPECTED)
  except _NotJsonError as error:
    rows = _lines(data, name, error)
  else:
    if "context" not in content:
      return _questions(content, name, data, answered=False)
    rows = [(f"{name}:1", content)]
  return [
    _question({**row, "answers": None}, place, row.get("context"), str(number))
    for number, (place, row) in enumerate(rows, 1)
  ]


def _lines(
  data: bytes, name: str, otherwise: UserError
) -> list[tuple[str, dict[str, Any]]]:
  """The objects of JSON lines and their places, FILE:LINE.

  Args:
    data: all bytes.
    name: of the file.
    otherwise: raised where already the first line is none.
  """
  rows: list[tuple[str, dict[str, Any]]] = []
  for number, line in enumerate(data.splitlines(), 1):
    place = f"{name}:{number}"
    if line.strip():
      try:
        rows.append((place, _load(line, place, EXPECTED)))
      except _NotJsonError as error:
        raise (error if rows else otherwise) from None
  return rows


class _NotJsonError(UserError):
  """Something else than an object of JSON."""


def _load(data: bytes, place: str, expected: str = _EXPECTED) -> dict[str, Any]:
  if not data.strip():
    raise UserError(f"{place}: the file is empty; expected {expected}.")
  check_start(data, place)
  try:
    content = json.loads(data.decode("utf-8-sig"))
  except UnicodeDecodeError as error:
    raise UserError(
      f"{place}: not UTF-8 at byte {error.start + 1}; expected {expected}."
    ) from None
  except (ValueError, RecursionError) as error:
    raise _NotJsonError(
      f"{place}: no JSON: {error}; expected {expected}."
    ) from None
  if not isinstance(content, dict):
    raise _NotJsonError(
      f"{place}: JSON, but no object in braces; expected {expected}."
    )
  return content


def _questions(
  content: dict[str, Any], name: str, data: bytes, *, answered: bool = True
) -> list[Question]:
  """The questions of a file; its bytes tell the lines for messages."""
  found, skipped = [], 0
  for paragraph, place in _paragraphs(content, name):
    context = paragraph.get("context")
    for row, where in _rows(paragraph, "qas", place):
      if not answered:
        row = {**row, "answers": None, "is_impossible": None}
      try:
        if _is_impossible(row, where):
          skipped += 1
        else:
          found.append(_question(row, where, context, "", name))
      except UserError as error:
        if not isinstance(row.get("id"), str | int):
          raise
        inside = str(error).removeprefix(name)
        line = _line_of(str(row["id"]), data)
        raise UserError(f"{name}:{line}{inside}") from None
  if skipped:
    print(
      f"time_jax: note: {name}: {skipped} questions that SQuAD v2 marks as "
      "impossible are left out; scores are those of SQuAD v1.1, on the others.",
      file=sys.stderr,
    )
  if not found:
    raise UserError(f"{name}: no question in this file; expected {_EXPECTED}.")
  return found


def _paragraphs(
  content: dict[str, Any], name: str
) -> Iterator[tuple[dict[str, Any], str]]:
  for article, place in _rows(content, "data", name):
    yield from _rows(article, "paragraphs", place)


def _rows(
  parent: dict[str, Any], key: str, place: str
) -> Iterator[tuple[dict[str, Any], str]]:
  """The objects of a list, each with FILE: data[0].paragraphs[1]."""
  rows = parent.get(key)
  inside = f"{place}.{key}" if "[" in place else f"{place}: {key}"
  if not isinstance(rows, list):
    raise UserError(
      f"{inside} is {'no list' if key in parent else 'missing'}; expected "
      f"{_EXPECTED}."
    )
  for i, row in enumerate(rows):
    if not isinstance(row, dict):
      raise UserError(f"{inside}[{i}] is {row!r:.40}; expected an object.")
    yield row, f"{inside}[{i}]"


def _question(
  row: dict[str, Any], place: str, context: Any, otherwise: str, name: str = ""
) -> Question:
  """A question from its object.

  Args:
    row: the object.
    place: of it, for messages.
    context: of the question.
    otherwise: the id where there is none; empty: there must be one.
    name: of the file; by default `place`.
  """
  identity = row.get("id", otherwise)
  texts: dict[str, Any] = {
    "id": identity,
    "question": row.get("question"),
    "context": context,
  }
  if isinstance(identity, int) and not isinstance(identity, bool):
    texts["id"] = str(identity)
  for key, text in texts.items():
    if not isinstance(text, str) or (key != "context" and not text.strip()):
      shown = "missing" if text in (None, "") else f"{text!r:.40}"
      raise UserError(f"{place}: {key} is {shown}; expected text.")
    _check_text(text, f"{place}: {key}")
  answers = tuple(
    _answer(answer, where)
    for answer, where in (
      _rows(row, "answers", place) if row.get("answers") else ()
    )
  )
  return Question(
    texts["id"], texts["question"], texts["context"], answers, name or place
  )


def _is_impossible(row: dict[str, Any], place: str) -> bool:
  """Whether SQuAD v2 marks a question as one without an answer."""
  mark = row.get("is_impossible")
  if mark not in (None, False, True):  # A string would always count as true.
    raise UserError(
      f"{place}: is_impossible is {mark!r:.40}; expected true or false, "
      "without quotation marks."
    )
  return bool(mark)


def _check_text(text: str, place: str) -> None:
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise UserError(
      f"{place} has half a surrogate pair at character {error.start}, which is "
      "no text; expected Unicode."
    ) from None


def _answer(row: dict[str, Any], place: str) -> Answer:
  text, start = row.get("text"), row.get("answer_start")
  placed = isinstance(start, int) and not isinstance(start, bool)
  if not isinstance(text, str) or not placed or not text:
    raise UserError(
      f"{place}: text is {text!r:.40} and answer_start {start!r:.40}; expected "
      "text and the number of its first character in the context."
    )
  return Answer(text, start)


def to_predictions(questions: Iterable[Question]) -> str:
  """Predicted answers as SQuAD's evaluation takes them: {id: text}."""
  found = {question.id: question.answers[0].text for question in questions}
  return atomic_file.as_json(found, ensure_ascii=False, indent=1) + "\n"


def to_lines(questions: Sequence[Question]) -> str:
  """Predicted answers as JSON lines: id, answer, start and score."""
  rows = [
    {
      "id": question.id,
      "answer": question.answers[0].text,
      "start": question.answers[0].start,
      "score": round(question.answers[0].score, 6),
    }
    for question in questions
  ]
  lines = (atomic_file.as_json(row, ensure_ascii=False) for row in rows)
  return "".join(line + "\n" for line in lines)
