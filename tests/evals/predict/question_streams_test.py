"""Questions out of blocks of bytes, however these are cut."""

import json

import pytest

from time_jax.core.errors import UserError
from time_jax.evals.predict import streams

ROW = {"question": "Wo?", "context": "Ein \U0001f600 steht vor Roma."}
ONE = json.dumps(ROW)
SEVEN = json.dumps(ROW | {"id": 7}, ensure_ascii=False)
SQUAD = {
  "data": [{"paragraphs": [{**ROW, "qas": [{"id": "q1", "question": "Wo?"}]}]}]
}


def cut(text, size):
  data = text.encode()
  return [data[i : i + size] for i in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 7, 30, 10_000])
@pytest.mark.parametrize(
  ("text", "ids"),
  [
    (ONE, ["1"]),
    (f"{ONE}\n\n{SEVEN}\r\n{ONE}\n", ["1", "7", "3"]),
    (f"\n \n{ONE}\n{SEVEN}", ["1", "7"]),
    (f"\ufeff{SEVEN}\n{ONE}", ["7", "2"]),
    (f"{SEVEN}\r{ONE}\r", ["7", "2"]),
    (json.dumps(ROW, indent=1), ["1"]),
    (json.dumps(SQUAD), ["q1"]),
    (f"\n{json.dumps(SQUAD)}\n\n", ["q1"]),
    (json.dumps(SQUAD, indent=1), ["q1"]),
    ("\n \n", []),
    ("", []),
  ],
)
def test_cuts_change_nothing(text, ids, size):
  found = [q for some in streams.questions(cut(text, size)) for q in some]
  assert [q.id for q in found] == ids
  assert {(q.text, q.context) for q in found} <= {tuple(ROW.values())}


def test_a_line_is_answered_before_the_next_is_read():
  asked = []

  def typed():
    for line in ("\n", f"{ONE}\n", f"{SEVEN}\n{ONE}\n", SEVEN[:9], SEVEN[9:]):
      asked.append(line)
      yield line.encode()

  found = streams.questions(typed())
  counts = [(len(some), len(asked)) for some in found]
  assert counts == [(1, 2), (2, 3), (1, 5)]


@pytest.mark.parametrize(
  ("text", "sound", "what"),
  [
    (f"{ONE}\nWo?\n", 1, ":2: no JSON: "),
    (f'{ONE}\n\n{SEVEN}\n{{"question": "a"}}\n', 2, ":4: context is missing"),
    (f"{ONE}\n{SEVEN}\n[1]\n{ONE}", 2, ":3: JSON, but no object"),
    (f"{ONE}\n{json.dumps(SQUAD)}", 1, ":2: question is missing"),
    (f'{ONE}\n{ONE[:-1]}, "id": true}}', 1, ":2: id is True; expected text"),
    (f"{ONE}\nnul\0\n", 1, ":2 holds a NUL at byte 4"),
    (f'{{"context": "a"}}\n{ONE}', 0, ":1: question is missing"),
    (f"Wo?\n{ONE}\n", 0, ": no JSON: "),
    ('{"rows": []}\n', 0, ": data is missing; expected questions in the"),
    (json.dumps(SQUAD, indent=1)[:-9], 0, ": no JSON: "),
  ],
)
@pytest.mark.parametrize("size", [1, 30, 10_000])
def test_what_is_wrong_is_told_behind_what_was_sound(text, sound, what, size):
  found = []
  with pytest.raises(UserError) as caught:
    for some in streams.questions(cut(text, size)):
      found += some
  assert str(caught.value).startswith(f"input{what}")
  assert len(found) == sound
