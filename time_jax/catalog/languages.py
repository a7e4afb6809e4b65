"""Languages, and what each corpus, treebank and checkpoint calls them.

The facts are in languages.tsv, which also says where each of them comes from.
One row is a language in a script, since corpora keep scripts apart.
"""

import dataclasses
import difflib
import functools

from time_jax.catalog.tables import read_table
from time_jax.core.errors import UserError

_RIGHT_TO_LEFT = ("Adlm", "Arab", "Hebr", "Nkoo", "Rohg", "Syrc", "Thaa")


@dataclasses.dataclass(frozen=True)
class Language:
  """A language in a script, and its names; "" where it has none.

  Attributes:
    code: ISO 639-3 and ISO 15924, such as dan_Latn.
    iso1: ISO 639-1.
    also: another ISO 639-3 code that means it: its macrolanguage, or its
      standard variety where `code` has the macrolanguage.
    name: in English.
    culturax: subset of CulturaX.
    fineweb2: subset of FineWeb2; English is in FineWeb instead.
    hplt: subset of the cleaned HPLT v2 texts.
    wikipedia: code of its Wikipedia.
    oscar: subset of OSCAR 23.01.
    ud: its usual treebank of Universal Dependencies.
    wikiann: subset of WikiANN.
    wmt24pp: configuration of WMT24++ whose target it is.
    flores: code in FLORES+.
    hplt_bert: ending of its HPLT v2 BERT, HPLT/hplt_bert_base_2_0_...
    hplt_bert_v1: ending of its HPLT v1 BERT, HPLT/hplt_bert_base_...
  """

  code: str
  iso1: str
  also: str
  name: str
  culturax: str
  fineweb2: str
  hplt: str
  wikipedia: str
  oscar: str
  ud: str
  wikiann: str
  wmt24pp: str
  flores: str
  hplt_bert: str
  hplt_bert_v1: str

  @property
  def iso3(self) -> str:
    """The code of ISO 639-3."""
    return self.code.partition("_")[0]

  @property
  def script(self) -> str:
    """The code of ISO 15924."""
    return self.code.partition("_")[2]

  @property
  def right_to_left(self) -> bool:
    """Whether the script is written from right to left."""
    return self.script in _RIGHT_TO_LEFT

  @property
  def tag(self) -> str:
    """The shortest ISO code, as model cards want it."""
    return self.iso1 or self.iso3


@functools.cache
def languages() -> tuple[Language, ...]:
  """Returns all languages, in order of their codes."""
  return tuple(Language(**row) for row in read_table("languages.tsv"))


def find(code: str) -> Language:
  """Returns the language that a code stands for.

  Args:
    code: such as dan_Latn; or ISO 639-1 or 639-3; or what a corpus calls it.
      Where a language has several scripts, the usual one is meant.

  Raises:
    UserError: no language has this code; the message names similar ones.
  """
  if language := _by_code().get(_normalized(code)):
    return language
  similar = ", ".join(_similar(code)) or "none"
  raise UserError(
    f"unknown language {code!r}; similar: {similar}; expected a code such as "
    "da, dan or dan_Latn: `python -m time_jax languages` lists them."
  )


def short_code(language: Language) -> str:
  """Returns the shortest code that `find` understands as this language."""
  return language.tag if find(language.tag) == language else language.code


def _normalized(code: str) -> str:
  return code.strip().lower().replace("-", "_")


@functools.cache
def _by_code() -> dict[str, Language]:
  table: dict[str, Language] = {}
  # From the surest meaning to the loosest, and the first row wins: `als` is
  # Albanian by ISO 639-3 although CulturaX means Alemannic.
  for fields in (
    ("code", "iso1"),
    ("iso3",),
    ("also",),
    ("culturax", "fineweb2", "wikipedia", "flores"),
  ):
    for language in languages():
      for field in fields:
        if code := getattr(language, field):
          table.setdefault(_normalized(code), language)
  return table


def _similar(code: str) -> list[str]:
  """Returns `da (Danish)` and the like, the most similar first."""
  known = {language.name.lower(): language for language in languages()}
  known |= _by_code()
  close = difflib.get_close_matches(_normalized(code), known, n=6, cutoff=0.5)
  names = (f"{short_code(known[c])} ({known[c].name})" for c in close)
  return list(dict.fromkeys(names))
