"""Reads and writes questions in the layout of SQuAD v1.1 (arXiv 1606.05250).

`{"data": [{"paragraphs": [{"context": ..., "qas": [{"id": ..., "question": ...,
"answers": [{"text": ..., "answer_start": ...}]}]}]}]}`; offsets count the
characters (code points) of the context. XQuAD and MLQA have the same layout.
Questions that SQuAD v2 marks as impossible are left out, with a note.

`predict` also reads JSON lines of `{"id", "question", "context"}`.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeGuard

from time_jax.core.errors import UserError
from time_jax.core.notes import note
from time_jax.core.storage import atomic_file
from time_jax.core.storage.text_encoding import check_start
from time_jax.evals.common.text_lines import read_bytes

_EXPECTED = "questions in the layout of SQuAD v1.1 (JSON)"
EXPECTED = f'{_EXPECTED}, or lines of {{"id", "question", "context"}}'

Row = dict[str, Any]  # an object of JSON


@dataclasses.dataclass(frozen=True)
class Answer:
  """A span of a context.

  Attributes:
    text: the characters of the context.
    start: place of the first character in the context, from 0.
    score: probability of a predicted answer in its best window.
  """

  text: str
  start: int
  score: float = 1.0

  @property
  def stop(self) -> int:
    """The place after the last character."""
    return self.start + len(self.text)


@dataclasses.dataclass(frozen=True)
class Question:
  """A question and the text that answers it.

  Attributes:
    id: its id in the file.
    text: the question.
    context: the text that holds the answer.
    answers: all right answers; or the predicted one.
    name: what messages call the file.
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

  def with_answer(self, answer: Answer) -> "Question":
    """Returns the question with a predicted answer."""
    return dataclasses.replace(self, answers=(answer,))


def read(path: pathlib.Path) -> list[Question]:
  """Reads an annotated file, plain or .gz.

  Raises:
    UserError: the file is missing or not of this layout; or a question has no
      answer, or an answer that does not stand at its offset. The message names
      the line and the question.
  """
  name, data = str(path), read_bytes(path, f"{_EXPECTED}, plain or .gz")
  questions = _questions(_load(data, name, _EXPECTED), name, data)
  seen: set[str] = set()
  for question in questions:
    problem = next(_misplaced(question), "")
    if question.id in seen:
      problem = "an earlier one has the same id."
    elif not question.answers:
      problem = (
        "no answer; expected at least one, to train on or to compare with."
      )
    if problem:
      line = _line_of(question.id, data)
      raise UserError(f"{name}:{line}: question {question.id}: {problem}")
    seen.add(question.id)
  return questions


def _misplaced(question: Question) -> Iterator[str]:
  """Yields a message for each answer that does not stand at its offset."""
  context = question.context
  for answer in question.answers:
    actual = context[max(answer.start, 0) : max(answer.stop, 0)]
    if answer.start < 0 or actual != answer.text:
      at = context.find(answer.text)
      hint = f"it first occurs at {at}" if at >= 0 else "it occurs nowhere"
      yield (
        f"the answer {answer.text!r:.80} is not at character {answer.start} of "
        f"its context, where {actual!r:.80} stands; {hint}."
      )


def parse(data: bytes, name: str) -> list[Question]:
  """Parses questions to be answered, all in one object of JSON.

  Questions marked as impossible are kept, and answers are ignored.

  Args:
    data: the whole input: the layout of SQuAD, or the object of one question.
    name: what messages call the input.

  Raises:
    UserError: the input is neither.
  """
  content = _load(data, name, EXPECTED)
  if "context" in content:
    return [_row_question(content, 1, f"{name}:1")]
  return _questions(content, name, data, answered=False)


def begins_lines(start: bytes) -> bool:
  """Returns whether an input has a question a line, not a layout over lines.

  Args:
    start: its first lines, one of them with more than spaces.
  """
  line = start.strip().splitlines()[0]
  try:
    row = _load(line, "", EXPECTED)
  except UserError:
    return False
  return "question" in row or "context" in row


class QuestionParser:
  """Parses questions to be answered, an object a line."""

  def __init__(self, name: str) -> None:
    """Starts before the first line.

    Args:
      name: what messages call the input.
    """
    self._name, self._lines, self._questions = name, 0, 0

  def feed(self, line: bytes) -> list[Question]:
    """Takes the next line and returns its question, if it has one.

    A question without an id gets its number.

    Raises:
      UserError: the line is neither empty nor a question.
    """
    self._lines += 1
    if not line.strip():
      return []
    self._questions += 1
    place = f"{self._name}:{self._lines}"
    row = _load(line, place, EXPECTED)
    return [_row_question(row, self._questions, place)]


def _row_question(row: Row, number: int, place: str) -> Question:
  """Returns the question of an object that stands alone."""
  return _question({"id": str(number), **row, "answers": None}, place, place)


def _load(data: bytes, place: str, expected: str) -> Row:
  """Parses an object of JSON."""
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
    raise UserError(
      f"{place}: no JSON: {error}; expected {expected}."
    ) from None
  if not isinstance(content, dict):
    raise UserError(
      f"{place}: JSON, but no object in braces; expected {expected}."
    )
  return content


def _line_of(identity: str, data: bytes) -> int:
  """Returns the line, from 1, with the last mention of a question's id."""
  forms = (json.dumps(identity, ensure_ascii=plain) for plain in (True, False))
  # Half a surrogate pair can only stand there escaped: no bytes mean it.
  texts = b"|".join(
    re.escape(form[1:-1].encode(errors="replace")) for form in forms
  )
  pattern = rb'"id"\s*:\s*"?(?:%b)["\s,}]' % texts
  places = [match.start() for match in re.finditer(pattern, data)]
  return data.count(b"\n", 0, places[-1] if places else 0) + 1


def _questions(
  content: Row, name: str, data: bytes, *, answered: bool = True
) -> list[Question]:
  """Returns the questions of a file.

  Args:
    content: the object of the file.
    name: what messages call the file.
    data: the bytes of the file, for line numbers in messages.
    answered: whether answers and marks of impossible questions count.
  """
  questions, skipped = [], 0
  for row, place in _question_rows(content, name):
    if not answered:
      row |= {"answers": None, "is_impossible": None}
    try:
      if _is_impossible(row, place):
        skipped += 1
      else:
        questions.append(_question(row, place, name))
    except UserError as error:
      if not isinstance(row.get("id"), str | int):
        raise
      line = _line_of(str(row["id"]), data)
      raise UserError(f"{name}:{line}{str(error)[len(name) :]}") from None
  if skipped:
    note(
      f"{name}: {skipped} questions that SQuAD v2 marks as impossible are left "
      "out; scores are those of SQuAD v1.1, on the others."
    )
  if not questions:
    raise UserError(f"{name}: no question in this file; expected {_EXPECTED}.")
  return questions


def _question_rows(content: Row, name: str) -> Iterator[tuple[Row, str]]:
  """Yields objects of questions, with their context, and their places."""
  for article, article_place in _rows(content, "data", name):
    for paragraph, place in _rows(article, "paragraphs", article_place):
      for row, row_place in _rows(paragraph, "qas", place):
        yield row | {"context": paragraph.get("context")}, row_place


def _rows(parent: Row, key: str, place: str) -> Iterator[tuple[Row, str]]:
  """Yields the objects of a list, each with FILE: data[0].paragraphs[1]."""
  rows = parent.get(key)
  place = f"{place}.{key}" if "[" in place else f"{place}: {key}"
  if not isinstance(rows, list):
    raise UserError(
      f"{place} is {'no list' if key in parent else 'missing'}; expected "
      f"{_EXPECTED}."
    )
  for i, row in enumerate(rows):
    if not isinstance(row, dict):
      raise UserError(f"{place}[{i}] is {row!r:.40}; expected an object.")
    yield row, f"{place}[{i}]"


def _question(row: Row, place: str, name: str) -> Question:
  """Returns the question of an object.

  Args:
    row: the object, with its context.
    place: place of the object, for messages.
    name: what messages call the file.
  """
  texts: Row = {key: row.get(key) for key in ("id", "question", "context")}
  if _is_whole(texts["id"]):
    texts["id"] = str(texts["id"])
  for key, text in texts.items():
    if not isinstance(text, str) or (key != "context" and not text.strip()):
      shown = "missing" if text in (None, "") else f"{text!r:.40}"
      raise UserError(f"{place}: {key} is {shown}; expected text.")
    try:
      text.encode()
    except UnicodeEncodeError as error:
      raise UserError(
        f"{place}: {key} has half a surrogate pair at character {error.start}, "
        "which is no text; expected Unicode."
      ) from None
  answers: list[Answer] = []
  rows = _rows(row, "answers", place) if row.get("answers") else ()
  for answer, answer_place in rows:
    text, start = answer.get("text"), answer.get("answer_start")
    if not isinstance(text, str) or not _is_whole(start) or not text:
      raise UserError(
        f"{answer_place}: text is {text!r:.40} and answer_start {start!r:.40}; "
        "expected text and the number of its first character in the context."
      )
    answers.append(Answer(text, int(start)))
  question, context = texts["question"], texts["context"]
  return Question(texts["id"], question, context, tuple(answers), name)


def _is_whole(value: Any) -> TypeGuard[int]:
  return isinstance(value, int) and not isinstance(value, bool)


def _is_impossible(row: Row, place: str) -> bool:
  """Returns whether SQuAD v2 marks a question as one without an answer."""
  mark = row.get("is_impossible")
  if mark not in (None, False, True):  # Any string would count as true.
    raise UserError(
      f"{place}: is_impossible is {mark!r:.40}; expected true or false, "
      "without quotation marks."
    )
  return bool(mark)


def to_predictions(questions: Iterable[Question]) -> str:
  """Returns predicted answers as SQuAD's evaluation takes them: {id: text}."""
  answers = {question.id: question.answers[0].text for question in questions}
  return atomic_file.as_json(answers, ensure_ascii=False, indent=1) + "\n"


def to_lines(questions: Sequence[Question]) -> str:
  """Returns predicted answers as JSON lines: id, answer, start and score."""
  lines = []
  for question in questions:
    (answer,) = question.answers
    row = {"id": question.id, "answer": answer.text, "start": answer.start}
    row |= {"score": round(answer.score, 6)}
    lines.append(atomic_file.as_json(row, ensure_ascii=False) + "\n")
  return "".join(lines)
