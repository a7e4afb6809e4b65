"""What the recipes for one language share: its teacher and its text by name."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from time_jax.catalog import corpora, languages, teachers
from time_jax.catalog.teachers import Recommendation
from time_jax.config import (
  STUDENT_SIZES,
  default_config,
  name_students,
  recipe_arguments,
)
from time_jax.config.fields import flatten
from time_jax.core.errors import UserError
from time_jax.hf import own_teacher

Fields = Mapping[str, Any]  # values of a config by their full names


def get_config(
  arguments: str,
  file: str,
  fields: Callable[[str, Recommendation], Fields],
) -> ConfigDict:
  """Returns a recipe for `lang=..,size=..,teacher=..,corpus=..`.

  Args:
    arguments: these, all optional; see configs/paper.py.
    file: the recipe, for messages.
    fields: maps a size and a teacher to what a student of that size has of its
      own. Where several students have other fields, each keeps the defaults of
      those that it does not name.

  Raises:
    UserError: an argument, or what it names, is unknown.
  """
  chosen = {
    "lang": "en",
    "size": "m",
    "teacher": "xlmr_large",
    "corpus": "culturax",
  }
  chosen |= recipe_arguments.parse(arguments, file, chosen)
  language = languages.find(chosen["lang"])
  sizes = recipe_arguments.several(chosen["size"], "size", file, STUDENT_SIZES)
  found = {
    size: _teacher(chosen["teacher"], language, size, file) for size in sizes
  }

  config = default_config()
  config.lang = language.tag
  config.teacher.path = found[sizes[0]].path
  _set_students(config, {size: fields(size, found[size]) for size in sizes})
  _set_text(config, chosen["corpus"], language)
  return config


def _teacher(
  name: str, language: languages.Language, size: str, file: str
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
      f"{file}: the {teacher.relation_heads} relation heads of "
      f"{teacher.name} do not divide the hidden_size {width} of size {size}; "
      "expected one that they divide: choose another size or teacher."
    )
  return teacher


def _set_students(config: ConfigDict, students: Mapping[str, Fields]) -> None:
  """Sets the fields of one student, or names several with theirs."""
  defaults = dict(flatten(config.to_dict()))
  named = {name for own in students.values() for name in own}
  complete = {
    size: {name: own.get(name, defaults[name]) for name in sorted(named)}
    for size, own in students.items()
  }
  common, *others = complete.values()
  config.update_from_flattened_dict(common)
  if others:
    name_students(
      config,
      {
        size: {
          name: value
          for name, value in own.items()
          if name.startswith("student.") or value != common[name]
        }
        for size, own in complete.items()
      },
    )


def _set_text(
  config: ConfigDict, corpus: str, language: languages.Language
) -> None:
  """Sets the text of a language, as much of it as the steps can read."""
  text = corpora.training_text(corpus, language)
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
