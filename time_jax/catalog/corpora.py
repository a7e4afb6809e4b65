"""Text to train on and to choose by: where each corpus keeps a language.

The corpora are in corpora.tsv. They name files, not configurations: files are
fetched one at a time as reading needs them, so a limit of tokens is a limit of
downloads.

Confirmed by the addresses of single files in public code, for some languages
each: CulturaX (ru/ru_part_00000.parquet), FineWeb2 (data/aai_Latn/train/
000_00000.parquet), FineWeb (sample/10BT/000_00000.parquet), HPLT v2
(kor_Hang/train-00000-of-00464.parquet; English in folders eng_Latn_103 and the
like), Wikipedia (20231101.da/train-00000-of-00002.parquet), OSCAR (zh_meta/
zh_meta_part_1.jsonl.zst, br_meta/br_meta.jsonl.zst; field `content`), WMT24++
(en-es_MX.jsonl). Not confirmed: FineWeb's folder sample/100BT, and the endings
of FLORES+, for which the pattern takes any.
"""

import dataclasses

from time_jax.catalog.languages import Language, short_code
from time_jax.catalog.tables import read_table
from time_jax.core.errors import UserError

OWN = "own"  # In place of a corpus: the user names the text.

# Datasets with the text that checkpoints are chosen by.
HELD_OUT = _WMT24PP, _FLORES_PLUS = (
  "google/wmt24pp",
  "openlanguagedata/flores_plus",
)
_WMT = f"hf:{_WMT24PP}/{{}}.jsonl#{{}}"
_FLORES = f"hf:{_FLORES_PLUS}/devtest/{{}}.*#text"


@dataclasses.dataclass(frozen=True)
class Corpus:
  """A collection of text on the Hugging Face hub.

  Attributes:
    name: as `corpus=` of configs/time.py takes it, and the field of `Language`
      with what the corpus calls a language.
    title: as people write it.
    gated: "gated" where its terms must be accepted on its page, with a login;
      else "".
    source: its text, as `data.train` takes it; {} is the language's name.
    english: the English text, where that is another repository; else "".
  """

  name: str
  title: str
  gated: str
  source: str
  english: str


CORPORA = {row["name"]: Corpus(**row) for row in read_table("corpora.tsv")}


def text_of(language: Language) -> dict[str, str]:
  """Returns corpus -> source of its text, of the corpora with a language."""
  texts = {}
  for name, corpus in CORPORA.items():
    if corpus.english and language.iso3 == "eng":
      texts[name] = corpus.english
    elif subset := getattr(language, name):
      texts[name] = corpus.source.format(subset)
  return texts


def training_text(corpus: str, language: Language) -> str:
  """Returns the source of a language's text in a corpus; "" for the user's own.

  Args:
    corpus: a key of `CORPORA`, or `OWN`.
    language: the language.

  Raises:
    UserError: there is no such corpus, or it lacks the language; the message
      names the corpora that have it.
  """
  if corpus == OWN:
    return ""
  texts = text_of(language)
  if corpus in texts:
    return texts[corpus]
  there = f"{language.name} ({short_code(language)}) is in {', '.join(texts)}"
  if corpus not in CORPORA:
    known = ", ".join([*CORPORA, OWN])
    raise UserError(f"unknown corpus {corpus!r}; known: {known}; {there}.")
  title = CORPORA[corpus].title
  raise UserError(
    f"{title} has no {language.name} that we know of; {there}; or take "
    "corpus=own, and name your text with --config.data.train."
  )


def held_out_text(language: Language) -> str:
  """Returns the source of text to choose a checkpoint by; "" if none is known.

  It is WMT24++ where that has the language, else FLORES+, which is gated.
  WMT24++ translates one English text, so English is read from its source side.
  """
  if language.iso3 == "eng":
    return _WMT.format("en-de_DE", "source")
  if language.wmt24pp:
    return _WMT.format(language.wmt24pp, "target")
  return _FLORES.format(language.flores) if language.flores else ""
