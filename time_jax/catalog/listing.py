"""What the commands `languages` and `teachers` print."""

from collections.abc import Iterable

from time_jax.catalog import corpora
from time_jax.catalog.languages import Language, find, languages, short_code
from time_jax.catalog.teachers import Recommendation, teachers, teachers_of
from time_jax.core.display import aligned_table

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
  """Prints all languages, or all that is known of one; returns exit code 0."""
  if code:
    print("\n".join(_page(find(code))))
    return 0
  table = [("code", "ISO", "name", *_COLUMNS.values())]
  for language in languages():
    # `text_of` knows English in FineWeb, which is not in FineWeb2.
    texts = corpora.text_of(language)
    marks = (
      "x" if getattr(language, column) or column in texts else ""
      for column in _COLUMNS
    )
    table.append((language.code, language.iso1, language.name, *marks))
  print(aligned_table(table, gap=" "))
  print(
    "\nx: it has the language. NER: WikiANN; WMT: WMT24++ as a target; FLORES: "
    "FLORES+;\nBERT: that of HPLT v2 (v1 has others). python -m time_jax "
    "languages CODE: all about one."
  )
  return 0


def teachers_command() -> int:
  """Prints the recommended checkpoints; returns exit code 0."""
  print(_teacher_table(teachers().values()))
  print(
    "\nlayer: the distilled one, from 1; R: relation heads; vocab: rows of the "
    f"token table.\nlanguages: * many, {{}} a checkpoint for each (python -m "
    f"time_jax languages CODE).\n{_PICKLES}.\n{_UNCHECKED}; no checkpoint was "
    "read for this table, loading goes by config.json."
  )
  return 0


def _page(language: Language) -> list[str]:
  """Returns the lines about one language."""
  direction = "right to left" if language.right_to_left else "left to right"
  iso1 = f"ISO 639-1 {language.iso1}, " if language.iso1 else ""
  held_out = corpora.held_out_text(language)
  known = teachers_of(language)
  texts = [
    (f"  {name}", source, "(gated)" if corpora.CORPORA[name].gated else "")
    for name, source in corpora.text_of(language).items()
  ]
  return [
    f"{language.name}: {language.code}, {iso1}ISO 639-3 {language.iso3}, "
    f"script {language.script}, {direction}",
    "",
    "text to train on (--config.data.train, or corpus= of configs/time.py)",
    aligned_table(texts, gap=" "),
    "",
    "text to choose by (--config.data.validation)",
    f"  {held_out or 'none known: give your own'}"
    f"{' (gated)' if 'flores_plus' in held_out else ''}",
    "",
    "gated: open its page https://huggingface.co/datasets/OWNER/NAME, accept",
    "its terms, then `hf auth login` or set HF_TOKEN",
    "",
    "to evaluate on",
    f"  treebank {f'UD_{language.ud}' if language.ud else 'none known'}",
    f"  entities WikiANN {language.wikiann or 'none known'}",
    "",
    "teachers (those for * many languages may not have seen this one)",
    *(f"  {x}" for x in _teacher_table(known.values()).splitlines()),
    *([f"  {_UNCHECKED}"] if any(x.unchecked for x in known.values()) else []),
    *([f"  {_PICKLES}"] if {"hplt", "hplt_v1"} & known.keys() else []),
    "",
    "a recipe",
    f"  python -m time_jax distill {recipe(language)} \\",
    f"    --workdir=runs/{short_code(language)}-s",
  ]


def recipe(language: Language) -> str:
  """Returns the --config to type: the paper's recipe on the first corpus."""
  corpus = next(iter(corpora.text_of(language)))
  arguments = f"lang={short_code(language)},size=s,teacher=xlmr_large"
  return f"--config=configs/paper.py:{arguments},corpus={corpus}"


def _teacher_table(rows: Iterable[Recommendation]) -> str:
  head = "name", "path", "family", "LxWxH", "vocab", "layer", "R", "languages"
  return aligned_table([head, *map(_teacher_row, rows)], gap=" ")


def _teacher_row(row: Recommendation) -> tuple[str, ...]:
  def marked(field: str, text: object) -> str:
    return f"{'~' if field in row.unchecked else ''}{text}"

  more = len(row.languages) - 2
  made_for = " ".join(row.languages[:2]) + (f" +{more}" if more > 0 else "")
  return (
    row.name,
    marked("path", row.path),
    row.family,
    f"{row.num_layers}x{row.width}x{row.num_heads}",
    marked("vocab_size", row.vocab_size),
    str(row.layer),
    str(row.relation_heads),
    marked("languages", made_for or ("{}" if "{}" in row.path else "*")),
  )
