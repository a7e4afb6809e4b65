"""Text that arrives in any blocks is split alike, and can be rebuilt."""

import itertools
import random

import pytest
import tiny_split
from hypothesis import given, settings
from hypothesis import strategies as st

from time_jax.core.errors import UserError
from time_jax.evals.split import raw_text
from time_jax.evals.split.passage import Passage, Token
from time_jax.evals.split.reading import Reading

TEXT = "Ab c. D e f!\r\n \r\n\n G. H\nI. J\u00e9. 😀 K.\n\n\nL"


def split(passages):
  """Ends a sentence at each full stop; a token goes on with an emoji."""
  found = []
  for passage in passages:
    atoms = Reading(passage.text).atoms
    groups = [[]]
    for start, stop in atoms:
      if passage.text[start:stop] == "😀" and groups[-1]:
        start = groups[-1].pop().start
      form = " ".join(passage.text[start:stop].split())
      token = Token(start, stop, (form,))
      groups[-1].append(token)
      if token.words == (".",):
        groups.append([])
    sentences = tuple(tuple(group) for group in groups if group)
    found.append(Passage(passage.text, sentences))
  return found


def arrive(blocks, split=split):
  text = raw_text.decoded(blocks, "input")
  return raw_text.sentences(text, "input", split)


def read(blocks):
  return [*itertools.chain(*arrive(blocks))]


def failing(blocks):
  """What is found before an error, and the error."""
  found = []
  with pytest.raises(UserError) as caught:
    for some in arrive(blocks):
      found += some
  return [s.rows for s in found], str(caught.value)


@settings(deadline=None)
@given(
  st.text(st.sampled_from("aé😀. .\n\n\r\t"), max_size=60),
  st.randoms(use_true_random=False),
  st.sampled_from([1, 5, 1000]),
  st.sampled_from([b"", b"\0 a.\n\nB", b"\xff a.\n\nB", b"\xc3"]),
)
def test_blocks_do_not_matter(text, draw, most, error):
  data = text.encode() + error
  cuts = sorted(draw.choices(range(len(data) + 1), k=4))
  blocks = [data[a:b] for a, b in itertools.pairwise([0, *cuts, len(data)])]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(raw_text, "_TOGETHER", most)
    if error:
      found, message = failing(blocks)
      assert (found, message) == failing([data])
      # What stands before it is found as if the text ended there.
      assert found == [s.rows for s in read([text.encode()])]
      return
    found = read(blocks)
    assert [s.rows for s in found] == [s.rows for s in read([data])]
  if text.strip() and most > 1:
    whole = read([data])
    assert tiny_split.rebuild(whole) == text
    forms = [form for s in found for form in s.column("FORM")]
    assert "".join("".join(forms).split()) == "".join(text.split())


def test_paragraphs_arrive_as_they_end():
  blocks = [TEXT[:20].encode(), TEXT[20:].encode()]
  found = arrive(blocks)
  texts = [[s.rows[0][0] for s in some] for some in found]
  assert texts == [
    ["# text = Ab c.", "# text = D e f!"],
    [*(f"# text = {x}" for x in ("G.", "H I.", "J\u00e9.", "😀 K."))],
    ["# text = L"],
  ]
  assert tiny_split.rebuild(read([TEXT.encode()])) == TEXT


def test_a_long_paragraph_is_cut_between_sentences(monkeypatch):
  monkeypatch.setattr(raw_text, "_TOGETHER", 100)
  draw = random.Random(1)
  text = " ".join("ab " * draw.randint(1, 9) + "." for _ in range(200))
  found = read([text.encode()])
  (whole,) = split([Passage(text)])
  assert len(found) == len(whole.sentences) == 200
  assert tiny_split.rebuild(found) == text
  # A sentence that is longer is cut, too.
  monkeypatch.setattr(raw_text, "_TOGETHER", 8)
  assert tiny_split.rebuild(read([b"a" * 30])) == "a" * 30


@pytest.mark.parametrize(
  ("blocks", "message"),
  [
    (
      [b"abc", b"d\xc3", b"\xff"],
      "input:1: not UTF-8 at byte 5 of the text; expected text in UTF-8.",
    ),
    ([b"a\n\nbc\xc3"], "input:3: not UTF-8 at byte 6 of the text; expected"),
    ([b"\xef"], "input:1: not UTF-8 at byte 1 of the text"),
    (["\ufeffé\n".encode() + b"\xff"], "input:2: not UTF-8 at byte 7 of the"),
    (
      [b"ab", b"c\0"],
      "input:1 holds a NUL at byte 4 of the text, as UTF-16 does",
    ),
    (
      [b"a\n" * 4000, b"b\0\xff"],
      "input:4001 holds a NUL at byte 8,002 of the",
    ),
    ([b"\xff", "a b".encode("utf-16")[1:]], "input is text in UTF-16"),
  ],
)
def test_what_is_no_text(blocks, message):
  _, error = failing(blocks)
  assert error.startswith(message)


def test_what_cannot_be_read_comes_after_what_can():
  def blocks():
    yield b"A. B"
    raise UserError("a device that is gone")

  found, error = failing(blocks())
  assert [rows[0][0] for rows in found] == ["# text = A.", "# text = B"]
  assert error == "a device that is gone"


def test_an_error_of_the_model_is_not_one_of_the_text():
  calls = []

  def broken(passages):
    calls.append(passages)
    raise UserError("NaN")

  with pytest.raises(UserError, match="NaN"):
    [*arrive([b"A.\n\nB.\n\nC"], broken)]
  assert len(calls) == 1


def test_paragraphs_are_found_group_by_group(monkeypatch):
  """So that the first ones are there long before the last ones."""
  monkeypatch.setattr(raw_text, "_TOGETHER", 100)
  sizes = []

  def counted(passages):
    sizes.append(sum(len(passage.text) for passage in passages))
    return split(passages)

  text = "\n\n".join("ab " * (i % 20) + "c." for i in range(300))
  found = arrive([text.encode()], counted)
  next(found)
  assert len(sizes) == 1
  assert tiny_split.rebuild(itertools.chain(*found))
  assert max(sizes) <= 100 and sum(sizes) == len(text)
  assert len(sizes) < 2 * len(text) / 100 + 2


@pytest.mark.parametrize("most", [1, 8, 1000])
def test_paragraphs_are_passages(monkeypatch, most):
  monkeypatch.setattr(raw_text, "_TOGETHER", most)
  for text in (TEXT, TEXT + "\n\n ", "\n\n", "", "a" * 30 + "\n\nb", "a\n\nb"):
    first = raw_text.paragraphs(text)
    found = [*itertools.chain(*raw_text.passages([text], "x", split))]
    assert [p.text for p in found][: len(first)] == first
    assert len(first) == len(found) or most < 1000


def test_nothing_but_spaces():
  assert read([b" \n\n ", b"\n"]) == [] == read([])
  assert [s.rows[0][0] for s in read(["\ufeffA".encode()])] == ["# text = A"]
