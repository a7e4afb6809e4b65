"""Files of questions: what is read, what is refused and how it is said."""

import copy
import gzip
import json

import pytest
import tiny_qa

from time_jax.core.errors import UserError
from time_jax.evals.qa import squad
from time_jax.evals.qa.squad import Answer

CONTEXT = "Ein \U0001f600 steht vor Cafe\u0301 Roma."


def content(**changes):
  """A file with one question, of which some fields are changed."""
  row = {
    "id": "q1",
    "question": "Wo?",
    "answers": [{"text": "vor Cafe\u0301", "answer_start": 12}],
  }
  row = {k: v for k, v in (row | changes).items() if v is not None}
  return {"data": [{"paragraphs": [{"context": CONTEXT, "qas": [row]}]}]}


def read(tmp_path, text, name="file.json"):
  path = tmp_path / name
  data = text if isinstance(text, str) else json.dumps(text)
  path.write_bytes(
    gzip.compress(data.encode()) if name.endswith("gz") else data.encode()
  )
  return squad.read(path)


def test_the_sample_plain_and_packed(tmp_path):
  questions = squad.read(tiny_qa.QA / "en-train.json")
  assert len(questions) == 31
  for question in questions:
    for answer in question.answers:
      assert question.context[answer.start : answer.stop] == answer.text
  text = (tiny_qa.QA / "en-train.json").read_text()
  packed = read(tmp_path, text, "file.json.gz")
  assert [q.id for q in packed] == [q.id for q in questions]


def test_offsets_are_code_points_however_json_writes_them(tmp_path):
  for ascii_only in (True, False):  # "\ud83d\ude00" is one character
    text = json.dumps(content(), ensure_ascii=ascii_only)
    (question,) = read(tmp_path, text)
    assert question.answers == (Answer("vor Cafe\u0301", 12),)
    assert question.context == CONTEXT


def moved(answer_start, text="vor Cafe\u0301"):
  return [{"text": text, "answer_start": answer_start}]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"answers": moved(13)}, "question q1: the answer 'vor Cafe\u0301' is not"),
    ({"answers": moved(13)}, "character 13 of .* first occurs at 12"),
    ({"answers": moved(-5)}, "character -5 of"),
    ({"answers": moved(0, "nie")}, "where 'Ein' stands; it occurs nowhere"),
    ({"answers": moved("12")}, r"answers\[0\]: .* answer_start '12'; expected"),
    ({"answers": []}, "question q1: no answer; expected at least one"),
    ({"answers": "x"}, r"qas\[0\].answers is no list"),
    ({"question": " "}, r"data\[0\].paragraphs\[0\].qas\[0\]: question is ' '"),
    ({"question": None}, "question is missing; expected text"),
    ({"id": None}, "id is missing"),
    ({"id": "\ud83d"}, "id has half a surrogate pair at character 0"),
    ({"question": "\ud83d"}, "question has half a surrogate pair at character"),
    ({"id": True}, "id is True; expected text"),
    ({"answers": moved(True)}, r"answers\[0\]: .* answer_start True; expected"),
    (
      {"is_impossible": "false"},
      r"0\]: is_impossible is .false.; expected",
    ),
    ({"is_impossible": "true"}, "is_impossible is 'true'; expected true or"),
    ({"is_impossible": True}, "no question in this file"),
  ],
)
def test_bad_questions_are_named(tmp_path, changes, message):
  with pytest.raises(UserError, match=message) as error:
    read(tmp_path, content(**changes))
  assert str(error.value).startswith(f"{tmp_path / 'file.json'}:")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("identity", ["q1", 7, 'é"x'])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_bad_answers_are_named_with_their_line(tmp_path, identity, ascii_only):
  wrong = content(id=identity, answers=moved(13))
  text = json.dumps(wrong, ensure_ascii=ascii_only, indent=1)
  (number,) = (
    i for i, line in enumerate(text.splitlines(), 1) if '"id"' in line
  )
  with pytest.raises(UserError) as error:
    read(tmp_path, text)
  place = f"{tmp_path / 'file.json'}:{number}: question {identity}: the answer"
  assert str(error.value).startswith(place) and number > 5


@pytest.mark.parametrize(
  "broken", [{"question": 3}, {"answers": [4]}, {"is_impossible": "false"}]
)
def test_bad_questions_are_named_with_their_line(tmp_path, broken):
  text = json.dumps(content(**broken), indent=1)
  number = text[: text.index('"id"')].count("\n") + 1
  with pytest.raises(UserError) as error:
    read(tmp_path, text)
  place = f"{tmp_path / 'file.json'}:{number}: data[0].paragraphs[0].qas[0]"
  assert str(error.value).startswith(place) and number > 5


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "the file is empty; expected questions in the layout of SQuAD"),
    ("{", "no JSON: .*line 1 column 2"),
    ("[1]", "no object in braces"),
    ({"rows": []}, ": data is missing; expected questions in the layout"),
    ({"data": []}, "no question in this file"),
    ({"data": [3]}, r"data\[0\] is 3; expected an object"),
    ({"data": [{}]}, r"data\[0\].paragraphs is missing"),
    ({"data": [{"paragraphs": [{}]}]}, r"paragraphs\[0\].qas is missing"),
  ],
)
def test_bad_files_are_named(tmp_path, text, message):
  with pytest.raises(UserError, match=message) as error:
    read(tmp_path, text)
  assert str(error.value).startswith(f"{tmp_path / 'file.json'}: ")
  assert "\n" not in str(error.value)


def test_ids_that_occur_twice(tmp_path):
  twice = content()
  rows = twice["data"][0]["paragraphs"][0]["qas"]
  rows.append(copy.deepcopy(rows[0]))
  with pytest.raises(UserError, match="question q1: an earlier one has the"):
    read(tmp_path, twice)


def test_impossible_questions_are_left_out_and_counted(tmp_path, capsys):
  some = content()
  rows = some["data"][0]["paragraphs"][0]["qas"]
  impossible = {"id": "q2", "question": "?", "answers": []}
  rows.append(impossible | {"is_impossible": True})
  assert [q.id for q in read(tmp_path, some)] == ["q1"]
  (line,) = capsys.readouterr().err.splitlines()
  assert "1 questions that SQuAD v2 marks as impossible are left out" in line


def test_what_is_to_be_answered():
  bare = json.dumps(content(answers=None)).encode()
  (question,) = squad.parse(bare, "input")
  assert (question.id, question.text, question.answers) == ("q1", "Wo?", ())
  some = content(answers={"text": ["x"]}, is_impossible="true")
  assert squad.parse(json.dumps(some).encode(), "input") == [question]
  row = {"question": "Wo?", "context": CONTEXT}
  one = json.dumps(row).encode()
  (question,) = squad.parse(one, "input")
  assert (question.id, question.context) == ("1", CONTEXT)
  cut_off = json.dumps(content(), indent=1).encode()[:-9]
  for text, place in ((b"Wo?\n", "line 1 column 1 "), (cut_off, "line 20 ")):
    with pytest.raises(UserError, match=f"input: no JSON: .* {place}") as error:
      squad.parse(text, "input")
    assert "layout of SQuAD v1.1 (JSON), or lines of" in str(error.value)


def test_predictions_as_two_formats():
  (question,) = squad.parse(json.dumps(content()).encode(), "input")
  found = question.with_answer(Answer("Ein \U0001f600", 0, 0.25))
  assert json.loads(squad.to_predictions([found])) == {"q1": "Ein \U0001f600"}
  (line,) = squad.to_lines([found]).splitlines()
  assert json.loads(line) == {
    "id": "q1",
    "answer": "Ein \U0001f600",
    "start": 0,
    "score": 0.25,
  }
