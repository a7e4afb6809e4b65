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


def read(blocks):
  found = raw_text.sentences(blocks, "input", split)
  return [*itertools.chain(*found)]


@settings(deadline=None)
@given(
  st.text(st.sampled_from("aé😀. .\n\n\r\t"), max_size=60),
  st.randoms(use_true_random=False),
  st.sampled_from([1, 5, 1000]),
)
def test_blocks_do_not_matter(text, draw, most):
  data = text.encode()
  cuts = sorted(draw.choices(range(len(data) + 1), k=4))
  blocks = [data[a:b] for a, b in itertools.pairwise([0, *cuts, len(data)])]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(raw_text, "_TOGETHER", most)
    found = read(blocks)
    assert [s.rows for s in found] == [s.rows for s in read([data])]
  if text.strip() and most > 1:
    whole = read([data])
    assert tiny_split.rebuild(whole) == text
    forms = [form for s in found for form in s.column("FORM")]
    assert "".join("".join(forms).split()) == "".join(text.split())


def test_paragraphs_arrive_as_they_end():
  blocks = [TEXT[:20].encode(), TEXT[20:].encode()]
  found = raw_text.sentences(blocks, "input", split)
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
    ([b"abc", b"d\xc3", b"\xff"], "input: not UTF-8 at byte 5; expected text"),
    ([b"abc\xc3"], "input: not UTF-8 at byte 4"),
    ([b"ab", b"c\0"], "input, 2 bytes after its start, holds a NUL at byte 2"),
    (["a b".encode("utf-16")], "is text in UTF-16"),
  ],
)
def test_what_is_no_text(blocks, message):
  with pytest.raises(UserError, match=message):
    read(blocks)


def test_nothing_but_spaces():
  assert read([b" \n\n ", b"\n"]) == [] == read([])
  assert [s.rows[0][0] for s in read(["\ufeffA".encode()])] == ["# text = A"]
