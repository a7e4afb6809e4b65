"""What the commands `languages` and `teachers` print."""

from collections.abc import Iterable, Sequence

from time_jax.catalog import corpora
from time_jax.catalog.languages import Language, find, languages, short_code
from time_jax.catalog.teachers import Recommendation, teachers, teachers_of

_COLUMNS = {
  "culturax": "CulturaX",
  "fineweb2": "FineWeb",
  "hplt": "HPLT",
  "wikipedia": "Wiki",
  "oscar": "OSCAR",
  "ud": "UD",
  "wikiann": "NER",
  "wmt24pp": "WMT",
  "flores": "FLORES",
  "hplt_bert": "BERT",
}
_UNCHECKED = "~ from memory, not checked"


# As far as their repositories were seen, see `teachers`.
_PICKLES = "those of HPLT are pickles: add --config.teacher.allow_pickle"


def languages_command(code: str | None) -> int:
  """Prints all languages, or all about one; returns exit code 0."""
  if code:
    print("\n".join(_about(find(code))))
    return 0
  rows = [_row(language) for language in languages()]
  head = ("code", "ISO", "name", *_COLUMNS.values())
  print("\n".join(_aligned([head, *rows])))
  print(
    "\nx: it has the language. NER: WikiANN; WMT: WMT24++ as a target; FLORES: "
    "FLORES+;\nBERT: that of HPLT v2 (v1 has others). python -m time_jax "
    "languages CODE: all about one."
  )
  return 0


def teachers_command() -> int:
  """Prints the recommended checkpoints; returns exit code 0."""
  print("\n".join(_teacher_table(teachers().values())))
  print(
    "\nlayer: the distilled one, from 1; R: relation heads; vocab: rows of the "
    f"token table.\nlanguages: * many, {{}} a checkpoint for each (python -m "
    f"time_jax languages CODE).\n{_PICKLES}.\n{_UNCHECKED}; no checkpoint was "
    "read for this table, loading goes by config.json."
  )
  return 0


def _row(language: Language) -> tuple[str, ...]:
  # Of FineWeb, too: English is not in FineWeb2.
  texts = corpora.text_of(language)
  marks = (
    "x" if getattr(language, column) or column in texts else ""
    for column in _COLUMNS
  )
  return language.code, language.iso1, language.name, *marks


def _about(language: Language) -> list[str]:
  direction = "right to left" if language.right_to_left else "left to right"
  iso1 = f"ISO 639-1 {language.iso1}, " if language.iso1 else ""
  texts = corpora.text_of(language)
  held_out = corpora.held_out_text(language)
  found = teachers_of(language)
  pickles = any(name in found for name in ("hplt", "hplt_v1"))
  evaluation = [
    ("treebank", f"UD_{language.ud}" if language.ud else "none known"),
    ("entities", f"WikiANN {language.wikiann or 'none known'}"),
  ]
  return [
    f"{language.name}: {language.code}, {iso1}ISO 639-3 {language.iso3}, "
    f"script {language.script}, {direction}",
    "",
    "text to train on (--config.data.train, or corpus= of configs/time.py)",
    *_aligned([(f"  {x}", texts[x], _gated(x)) for x in texts]),
    "",
    "text to choose by (--config.data.validation)",
    f"  {held_out or 'none known: give your own'}"
    f"{' (gated)' if 'flores_plus' in held_out else ''}",
    "",
    "gated: open its page https://huggingface.co/datasets/OWNER/NAME, accept",
    "its terms, then `hf auth login` or set HF_TOKEN",
    "",
    "to evaluate on",
    *_aligned([(f"  {what}", name) for what, name in evaluation]),
    "",
    "teachers (those for * many languages may not have seen this one)",
    *(f"  {line}" for line in _teacher_table(found.values())),
    *([f"  {_UNCHECKED}"] if any(x.unchecked for x in found.values()) else []),
    *([f"  {_PICKLES}"] if pickles else []),
    "",
    "a recipe",
    f"  python -m time_jax distill {recipe(language)} \\",
    f"    --workdir=runs/{short_code(language)}-s",
  ]


def recipe(language: Language) -> str:
  """What to type for a language: the paper's teacher, the first corpus."""
  corpus = next(iter(corpora.text_of(language)))
  arguments = f"lang={short_code(language)},size=s,teacher=xlmr_large"
  return f"--config=configs/time.py:{arguments},corpus={corpus}"


def _gated(corpus: str) -> str:
  return "(gated)" if corpora.CORPORA[corpus].gated else ""


def _teacher_table(rows: Iterable[Recommendation]) -> list[str]:
  head = "name", "path", "family", "LxWxH", "vocab", "layer", "R", "languages"
  return _aligned([head, *map(_teacher_row, rows)])


def _teacher_row(row: Recommendation) -> tuple[str, ...]:
  def said(field: str, text: object) -> str:
    return f"{'~' if field in row.unchecked else ''}{text}"

  more = len(row.languages) - 2
  made_for = " ".join(row.languages[:2]) + (f" +{more}" if more > 0 else "")
  return (
    row.name,
    said("path", row.path),
    row.family,
    f"{row.num_layers}x{row.width}x{row.num_heads}",
    said("vocab_size", row.vocab_size),
    str(row.layer),
    str(row.relation_heads),
    said("languages", made_for or ("{}" if "{}" in row.path else "*")),
  )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
  """Lines of columns, each as wide as it must be."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [" ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
