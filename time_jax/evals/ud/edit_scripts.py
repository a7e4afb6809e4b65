"""Edit scripts that turn forms into lemmas, so that lemmas are classes.

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
(L) begin, counted from the end if negative. RULE is PREFIX*SUFFIX, each a
series of edits: "=" keeps a letter, "-" drops one, "+x" writes x; or "!LEMMA".
"""

import difflib
import functools
import re

_EDIT = re.compile(r"[=-]|\+.", re.DOTALL)
_CASING = re.compile(r"([UL])(-?\d+)")
_SCRIPT = re.compile(
  r"(?:[UL]-?[0-9]{1,9})*\|(?:!.*|(?:[=-]|\+.)*\*(?:[=-]|\+.)*)", re.DOTALL
)
_LONGEST_KEPT = 100  # characters


@functools.lru_cache(1 << 17)
def script_of(form: str, lemma: str) -> str:
  """Returns the script for a pair; `apply_script` undoes it exactly."""
  source, target = _lower(form), _lower(lemma)
  matcher = difflib.SequenceMatcher(None, source, target, autojunk=False)
  start, at, size = matcher.find_longest_match()
  rule = f"!{target}"
  if size:
    prefix = _edits(source[:start], target[:at])
    suffix = _edits(source[start + size :], target[at + size :])
    rule = f"{prefix}*{suffix}"
  script = f"{_casing(lemma)}|{rule}"
  # Letters without a partner in the other case, such as a lone title case.
  return script if apply_script(script, form) == lemma else f"|!!{lemma}"


def is_script(text: str) -> bool:
  """Returns whether a text is a script, which `apply_script` takes."""
  return bool(_SCRIPT.fullmatch(text))


def apply_script(script: str, form: str) -> str:
  """Returns the lemma of a form, or the form if the script does not fit it."""
  # What is kept would grow without bounds by words that are no words.
  known = len(form) <= _LONGEST_KEPT
  return (_lemma if known else _lemma.__wrapped__)(script, form)


@functools.lru_cache(1 << 16)  # Few words are most of a text.
def _lemma(script: str, form: str) -> str:
  whole, casing, prefix, suffix = _parts(script)
  if whole is not None:
    return whole or form
  lemma = _lower(form)
  if prefix or suffix:
    start = sum(edit in "=-" for edit in prefix)
    stop = len(form) - sum(edit in "=-" for edit in suffix)
    if start > stop:
      return form
    first, last = _apply(prefix, lemma[:start]), _apply(suffix, lemma[stop:])
    lemma = first + lemma[start:stop] + last
  return _recase(lemma, casing) or form


@functools.lru_cache(1 << 15)  # A model has few scripts for all words.
def _parts(script: str) -> tuple[str | None, str, list[str], list[str]]:
  """Returns the lemma if no form is needed, the casing, and the edits."""
  casing, _, rule = script.partition("|")
  if rule.startswith("!!"):
    return rule[2:], "", [], []
  if rule.startswith("!"):
    return _recase(rule[1:], casing), "", [], []
  star = 0  # The first "*" that is not a written letter.
  while rule[star] != "*":
    star += 2 if rule[star] == "+" else 1
  prefix, suffix = _EDIT.findall(rule[:star]), _EDIT.findall(rule[star + 1 :])
  return None, casing, prefix, suffix


def _lower(text: str) -> str:
  """Returns small letters, one for one."""
  lower = text.lower()
  # A capital sigma alone becomes what its neighbours ask for.
  if len(lower) == len(text) and "\N{GREEK CAPITAL LETTER SIGMA}" not in text:
    return lower
  return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def _edits(source: str, target: str) -> str:
  """Returns the fewest edits; of equally many those that keep, then drop."""
  # best[j]: the edits from the rest of the source to target[j:]. As many
  # letters are dropped or kept in all, so shorter ones are fewer.
  best = ["".join(f"+{c}" for c in target[j:]) for j in range(len(target) + 1)]
  for letter in reversed(source):
    row = ["-" + best[-1]]
    for j in reversed(range(len(target))):
      other = min("-" + best[j], f"+{target[j]}" + row[-1], key=len)
      row.append("=" + best[j + 1] if letter == target[j] else other)
    best = row[::-1]
  return best[0]


def _apply(edits: list[str], text: str) -> str:
  if not edits:
    return ""
  letters = iter(text)
  return "".join(
    edit[1] if edit[0] == "+" else next(letters) * (edit == "=")
    for edit in edits
  )


def _casing(text: str) -> str:
  """Returns where capitals and small letters begin; empty if all are small."""
  runs, before = "", "L"
  for i, letter in enumerate(text):
    case = "U" if letter != _lower(letter) else "L"
    if case != before:
      runs += f"{case}{i if i <= len(text) // 2 else i - len(text)}"
    before = case
  return runs


def _recase(text: str, casing: str) -> str:
  if not casing:
    return text
  letters = list(text)
  for case, place in _CASING.findall(casing):
    start = int(place) if int(place) >= 0 else max(len(text) + int(place), 0)
    for i in range(start, len(text)):
      upper = text[i].upper()
      letters[i] = upper if case == "U" and len(upper) == 1 else text[i]
  return "".join(letters)
