"""Lemmas as classes: a script that turns a form into its lemma.

As in UDPipe (Straka, "UDPipe 2.0 Prototype at CoNLL 2018 UD Shared Task",
K18-2020): one part says which letters of the lemma are capital, the other how
the small-letter form is changed at its ends, around the longest part that
form and lemma share. What they share stays out of the script, so that one
script serves many words:

  >>> script_of("Husene", "hus")
  '|*---'
  >>> script_of("gemacht", "machen")
  '|--*-+e+n'
  >>> script_of("PARISER", "Paris")
  'U0L1|*--'

A script reads CASING|RULE. CASING lists where capitals (U) and small letters
(L) begin, counted from the end if negative. RULE is PREFIX*SUFFIX, each a row
of edits: "=" keeps a letter, "-" drops one, "+x" writes x; or "!LEMMA".
"""

import functools
import re

_EDIT = re.compile(r"[=-]|\+.", re.DOTALL)
_CASING = re.compile(r"([UL])(-?\d+)")


@functools.lru_cache(1 << 17)
def script_of(form: str, lemma: str) -> str:
  """The script for a pair; `apply_script` undoes it exactly."""
  small, target = _lower(form), _lower(lemma)
  start, at, size = _longest_shared(small, target)
  if size:
    prefix = _edits(small[:start], target[:at])
    suffix = _edits(small[start + size :], target[at + size :])
    rule = f"{prefix}*{suffix}"
  else:
    rule = f"!{target}"
  script = f"{_casing(lemma)}|{rule}"
  # Letters without a partner in the other case, such as a lone title case.
  return script if apply_script(script, form) == lemma else f"|!!{lemma}"


def apply_script(script: str, form: str) -> str:
  """The lemma that a script makes of a form; the form if it does not fit."""
  casing, _, rule = script.partition("|")
  if rule.startswith("!!"):
    return rule[2:] or form
  if rule.startswith("!"):
    return _recase(rule[1:], casing) or form
  prefix, suffix = map(_EDIT.findall, _halves(rule))
  small = _lower(form)
  taken = [sum(e in "=-" for e in edits) for edits in (prefix, suffix)]
  if sum(taken) > len(form):
    return form
  end = len(form) - taken[1]
  lemma = (
    _apply(prefix, small[: taken[0]])
    + small[taken[0] : end]
    + _apply(suffix, small[end:])
  )
  return _recase(lemma, casing) or form


def _halves(rule: str) -> tuple[str, str]:
  """Splits at the star that is no written letter."""
  i = 0
  while rule[i] != "*":
    i += 2 if rule[i] == "+" else 1
  return rule[:i], rule[i + 1 :]


def _lower(text: str) -> str:
  """Small letters, one for one."""
  return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def _longest_shared(a: str, b: str) -> tuple[int, int, int]:
  """Start in a, start in b, and length of the longest common part."""
  best, row = (0, 0, 0), [0] * (len(b) + 1)
  for i, x in enumerate(a):
    new = [0] * (len(b) + 1)
    for j, y in enumerate(b):
      if x == y:
        new[j + 1] = size = row[j] + 1
        if size > best[2]:
          best = i + 1 - size, j + 1 - size, size
    row = new
  return best


def _edits(a: str, b: str) -> str:
  """The shortest row of edits from a to b; of equals the one that keeps."""
  # cost[i][j]: fewest edits that turn a[i:] into b[j:].
  cost = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
  for i in range(len(a), -1, -1):
    for j in range(len(b), -1, -1):
      if i == len(a) or j == len(b):
        cost[i][j] = len(a) - i + len(b) - j
        continue
      cost[i][j] = 1 + min(cost[i + 1][j], cost[i][j + 1])
      if a[i] == b[j]:
        cost[i][j] = min(cost[i][j], cost[i + 1][j + 1])
  edits, i, j = [], 0, 0
  while i < len(a) or j < len(b):
    both = i < len(a) and j < len(b)
    if both and a[i] == b[j] and cost[i][j] == cost[i + 1][j + 1]:
      edits.append("=")
      i, j = i + 1, j + 1
    elif i < len(a) and cost[i][j] == 1 + cost[i + 1][j]:
      edits.append("-")
      i += 1
    else:
      edits.append(f"+{b[j]}")
      j += 1
  return "".join(edits)


def _apply(edits: list[str], text: str) -> str:
  letters = iter(text)
  made = ""
  for edit in edits:
    if edit[0] == "+":
      made += edit[1]
    else:
      letter = next(letters)
      made += letter if edit == "=" else ""
  return made


def _casing(text: str) -> str:
  """Where capitals and small letters begin; empty where all are small."""
  runs, before = "", "L"
  for i, letter in enumerate(text):
    case = "U" if letter != _lower(letter) else "L"
    if case != before:
      place = i if i <= len(text) // 2 else i - len(text)
      runs += f"{case}{place}"
    before = case
  return runs


def _recase(text: str, casing: str) -> str:
  letters = list(text)
  for case, place in _CASING.findall(casing):
    start = int(place) if int(place) >= 0 else max(len(text) + int(place), 0)
    for i in range(start, len(text)):
      upper = text[i].upper()
      capital = case == "U" and len(upper) == 1
      letters[i] = upper if capital else text[i]
  return "".join(letters)
