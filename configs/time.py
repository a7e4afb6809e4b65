"""TiME (arXiv 2512.14645): one small monolingual encoder from a large teacher.

  python -m time_jax distill --config=configs/time.py:lang=da,size=m \
    --workdir=runs/da-m

Arguments, all optional:
  lang     en; a code that `python -m time_jax languages` knows
  size     m (also s, xs): the paper's sizes. Several of one teacher: m+s+xs
  teacher  xlmr_large; a name that `python -m time_jax teachers` knows, such as
           hplt, the BERT of the language; its layer and R come with it. The
           checkpoints of HPLT are pickles: --config.teacher.allow_pickle.
           Or a folder or hub id: its layer is then the recommended one, of it
           or of the teacher that `trim` made it from, else the last
  corpus   culturax (gated); also fineweb2, hplt, wikipedia, oscar (gated), or
           own: the text that --config.data.train names, and no held-out text
           but what --config.data.validation names

Reproduces the recipe of the paper and its code: 200 000 steps of 256 x 512
tokens (26 G tokens), AdamW, peak learning rate 6e-4, bfloat16, a candidate
every 10 000 steps. Differences, on purpose: the teacher runs without dropout,
weights that the loss never reaches do not decay, special ids come from the
tokenizer, and short documents are packed (data.packing="none" truncates and
pads as the reference does). Teacher layer 19 is MiniLMv2's choice for
XLM-R-Large.

Text: files of the corpus are fetched one at a time, up to as many tokens as the
steps can read (data.max_tokens; German alone would be more than 1.5 TB). Held
out: WMT24++, or FLORES+ (gated) for a language that it lacks. Where both lack
the language, no checkpoint is chosen by loss, unless --config.data.validation
names text; --config.data.validation="()" does without.

Not run at full scale by us: time, cost and scores are not measured.
"""

from ml_collections import ConfigDict

from time_jax.catalog import corpora, languages, teachers
from time_jax.catalog.teachers import Recommendation
from time_jax.config import (
  STUDENT_SIZES,
  default_config,
  name_students,
  recipe_arguments,
)
from time_jax.core.errors import UserError
from time_jax.hf import own_teacher


def get_config(arguments: str = "") -> ConfigDict:
  """Returns the recipe for `lang=..,size=..,teacher=..,corpus=..`."""
  chosen = _parse(arguments)
  language = languages.find(chosen["lang"])
  sizes = recipe_arguments.several(
    chosen["size"], "size", "configs/time.py", STUDENT_SIZES
  )
  found = {size: _teacher(chosen["teacher"], language, size) for size in sizes}

  config = default_config()
  config.lang = language.tag
  config.teacher.path = found[sizes[0]].path
  students = {size: _fields(size, teacher) for size, teacher in found.items()}
  common = students[sizes[0]]
  config.update_from_flattened_dict(common)
  if len(sizes) > 1:
    name_students(
      config,
      {
        size: {
          field: value
          for field, value in own.items()
          if field.startswith("student.") or value != common[field]
        }
        for size, own in students.items()
      },
    )
  text = corpora.training_text(chosen["corpus"], language)
  held_out = corpora.held_out_text(language) if text else ""
  config.data.train = (text,) if text else ()
  config.data.validation = (held_out,) if held_out else ()
  train = config.train
  # A reference: it follows what is changed on the command line.
  config.data.max_tokens = (
    train.get_ref("num_steps")
    * train.get_ref("global_batch_size")
    * config.data.get_ref("seq_len")
  )
  return config


def _parse(arguments: str) -> dict[str, str]:
  chosen = {
    "lang": "en",
    "size": "m",
    "teacher": "xlmr_large",
    "corpus": "culturax",
  }
  chosen.update(recipe_arguments.parse(arguments, "configs/time.py", chosen))
  return chosen


def _teacher(
  name: str, language: languages.Language, size: str
) -> Recommendation:
  """Returns the teacher, with layer and R for a student of a size."""
  width = STUDENT_SIZES[size]["hidden_size"]
  teacher = (
    own_teacher.own_teacher(name, width)
    if own_teacher.is_place(name)
    else teachers.teacher(name, language)
  )
  if width % teacher.relation_heads:
    raise UserError(
      f"configs/time.py: the {teacher.relation_heads} relation heads of "
      f"{teacher.name} do not divide the hidden_size {width} of size {size}; "
      "expected one that they divide: choose another size or teacher."
    )
  return teacher


def _fields(size: str, teacher: Recommendation) -> dict[str, int]:
  """Returns what a student of a size has of its own, by field."""
  return {
    "teacher.layer": teacher.layer,
    "relations.num_heads": teacher.relation_heads,
    **{f"student.{name}": n for name, n in STUDENT_SIZES[size].items()},
  }
