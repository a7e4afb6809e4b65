"""The recipe of the paper (TiME, arXiv 2512.14645), with its random start.

  python -m time_jax distill --config=configs/paper.py:lang=da,size=m \
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

from typing import Any

from ml_collections import ConfigDict

from time_jax.catalog.teachers import Recommendation
from time_jax.config import STUDENT_SIZES
from time_jax.run import language_recipe


def get_config(arguments: str = "") -> ConfigDict:
  """Returns the recipe for `lang=..,size=..,teacher=..,corpus=..`."""
  return language_recipe.get_config(arguments, "configs/paper.py", fields)


def fields(size: str, teacher: Recommendation) -> dict[str, Any]:
  """Returns what a student of a size has of its own, by field."""
  return {
    "teacher.layer": teacher.layer,
    "relations.num_heads": teacher.relation_heads,
    **{f"student.{name}": n for name, n in STUDENT_SIZES[size].items()},
  }
