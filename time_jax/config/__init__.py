"""Every field of a recipe, its range, and how the command line sets it.

A recipe imports from here: `from time_jax.config import default_config`.
"""

from time_jax.config.distill import STUDENT_SIZES, default_config
from time_jax.config.finetune import (
  ner_config,
  qa_config,
  split_config,
  ud_config,
  with_arguments,
)
from time_jax.config.students import name_students

__all__ = [
  "STUDENT_SIZES",
  "default_config",
  "name_students",
  "ner_config",
  "qa_config",
  "split_config",
  "ud_config",
  "with_arguments",
]
