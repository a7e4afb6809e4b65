"""Our recipe: the paper's, but students begin with their teacher's layers.

  python -m time_jax distill --config=configs/time.py:lang=da,size=m \
    --workdir=runs/da-m

Arguments, text and steps are those of configs/paper.py, and so is all else
unless the teacher is a BERT, RoBERTa, CamemBERT or XLM-R that is at least as
wide as the student and has more layers. Then a student begins with layers of
the teacher, evenly spaced up to two thirds of its depth, and its last layer is
trained, without dropout, towards the hidden states of the last of them;
relations are not learnt. For a narrower student the layers are made narrower:
it has fewer heads, each as wide as the teacher's (where no whole number of them
fits, this is the paper's recipe). Name the teacher as teacher=..: a
--config.teacher.path comes too late for the recipe to know it.

RESULTS.md has the figures that this rests on: of little text, and of one
teacher of 12 layers. With the paper's loss such a student lost what it began
with, and a random one of a narrower shape learnt far less. With the billions of
tokens of the paper, its recipe is the one whose results are known: what ours
makes of them is not measured.
"""

from typing import Any

from ml_collections import ConfigDict

from time_jax.catalog.teachers import Recommendation
from time_jax.config import STUDENT_SIZES
from time_jax.run import language_recipe

_DEPTH = 2 / 3  # of the teacher: where the layer is that is distilled


def get_config(arguments: str = "") -> ConfigDict:
  """Returns the recipe for `lang=..,size=..,teacher=..,corpus=..`."""
  return language_recipe.get_config(arguments, "configs/time.py", fields)


def fields(size: str, teacher: Recommendation) -> dict[str, Any]:
  """Returns what a student of a size has of its own, by field."""
  shape = STUDENT_SIZES[size]
  num_layers, width = shape["num_layers"], shape["hidden_size"]
  paper = {
    "teacher.layer": teacher.layer,
    "relations.num_heads": teacher.relation_heads,
    **{f"student.{name}": n for name, n in shape.items()},
  }
  num_heads, rest = divmod(width * teacher.num_heads, teacher.width)
  if (
    not teacher.copyable
    or teacher.num_layers <= num_layers
    or teacher.width < width
    or rest
  ):
    return paper
  return paper | {
    "student.init_from": "teacher:spaced",
    "student.num_heads": num_heads,  # each as wide as the teacher's
    "student.dropout": 0.0,
    "student.attention_dropout": 0.0,
    "teacher.layer": max(round(_DEPTH * teacher.num_layers), num_layers + 1),
    "hidden.weight": 1.0,
    "hidden.projection": "start",  # none, where widths are equal
    "train.peak_lr": 1e-3,
    **{f"relations.weights.{x}{x}": 0.0 for x in "qkv"},
  }
