"""Files as nobody should have written them, drawn by Hypothesis."""

import copy
import json

from hypothesis import strategies as st

_DIGITS = "more digits than Python reads"
_ODD = [
  *(None, True, -1, 0, 1, 2**31, 2**63, _DIGITS, 0.5, 1e308),
  *(float("nan"), float("inf"), "", "x", "\ud800", "\0", "../x", "9" * 5000),
  *([], {}, [[]], {"": {}}, [None], [1, 2]),
]
_BYTES = [b"\0", b"\xff", b"\n", b"\r", b"[", b"{", b'"', b"9", b"\xff" * 8]
_EDITS = ("flip", "cut", "drop", "insert", "repeat", "splice")


@st.composite
def edited(draw, samples):
  """One of the samples with a few of its bytes changed."""
  data = draw(st.sampled_from(samples))
  for edit in draw(st.lists(st.sampled_from(_EDITS), min_size=1, max_size=4)):
    start = draw(st.integers(0, len(data)))
    stop = min(start + draw(st.integers(1, 40)), len(data))
    if edit == "flip" and start < stop:
      other = data[start] ^ draw(st.integers(1, 255))
      data = data[:start] + bytes([other]) + data[start + 1 :]
    elif edit == "cut":
      data = data[:start]
    elif edit == "drop":
      data = data[:start] + data[stop:]
    elif edit == "insert":
      data = data[:start] + draw(st.sampled_from(_BYTES)) + data[start:]
    elif edit == "repeat":
      data = data[:stop] + data[start:stop] * draw(st.sampled_from([1, 9, 999]))
      data += draw(st.sampled_from(samples))[stop:]
    elif edit == "splice":
      data = data[:start] + draw(st.sampled_from(samples))[stop:]
  return data


@st.composite
def altered(draw, samples):
  """Sound JSON, or lines of it, but for some values, which are odd or gone."""
  sample = draw(st.sampled_from(samples))
  try:
    return _altered(draw, json.loads(sample))
  except ValueError:
    lines = sample.strip().split(b"\n")
    number = draw(st.integers(0, len(lines) - 1))
    lines[number] = _altered(draw, json.loads(lines[number]))
    return b"\n".join(lines)


def _altered(draw, content):
  for _ in range(draw(st.integers(1, 3))):
    content = _with_one_altered(draw, content)
  text = json.dumps(content, ensure_ascii=draw(st.booleans()))
  text = text.replace(json.dumps(_DIGITS), "9" * 5000)
  return text.encode("utf-8", "surrogatepass")


def _with_one_altered(draw, content):
  places = list(_places(content))
  *path, last = draw(st.sampled_from(places)) if places else [None]
  if last is None or draw(st.integers(0, 99)) == 0:
    return copy.deepcopy(draw(st.sampled_from(_ODD)))
  parent = content
  for key in path:
    parent = parent[key]
  if draw(st.booleans()):
    parent[last] = copy.deepcopy(draw(st.sampled_from(_ODD)))
  elif draw(st.booleans()):
    del parent[last]
  else:
    *_, other = draw(st.sampled_from(places))
    parent[last] = other
  return content


def _places(content, path=()):
  """The path of every value; of long lists their first ones."""
  if isinstance(content, dict | list):
    keys = content if isinstance(content, dict) else range(len(content))
    for key in list(keys)[:40]:
      yield (*path, key)
      yield from _places(content[key], (*path, key))
