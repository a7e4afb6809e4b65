"""TiME (arXiv 2512.14645): one small monolingual encoder from a large teacher.

  python -m time_jax distill --config=configs/time.py:lang=da,size=m \
    --config.data.train="('texts/da/*.jsonl.zst',)" --workdir=runs/da-m

Arguments, all optional: `lang` (a code of LANGUAGES), `size` (m, s, xs),
`teacher` (a name of TEACHERS).

Reproduces the recipe of the paper and its code: 200 000 steps of 256 x 512
tokens (26 G tokens), AdamW, peak learning rate 6e-4, bfloat16, a candidate
every 10 000 steps. Differences, on purpose: the teacher runs without dropout,
what the loss never reaches is not decayed, special ids come from the tokenizer,
and short documents are packed (data.packing="none" truncates and pads as the
reference does). Teacher layer 19 is MiniLMv2's choice for XLM-R-Large.

Text: CulturaX, which is gated (accept its terms on its hub page and log in);
held-out: WMT24++, for Irish FLORES+. Give your own files instead with
--config.data.train and --config.data.validation.

Not run at full scale by us: time, cost and scores are not measured.
"""

from ml_collections import ConfigDict

from time_jax.config import STUDENT_SIZES, default_config
from time_jax.errors import UserError

# path, distilled layer, relation heads
TEACHERS = {
  "xlmr_large": ("FacebookAI/xlm-roberta-large", 19, 64),
  "xlmr_base": ("FacebookAI/xlm-roberta-base", 12, 48),
  "mbert": ("google-bert/bert-base-multilingual-cased", 12, 48),
}

# ISO 639-1 -> configuration of WMT24++ with this language as its target.
LANGUAGES = {
  "da": "en-da_DK",
  "de": "en-de_DE",
  "en": "en-de_DE",
  "fr": "en-fr_FR",
  "ga": "",
  "hu": "en-hu_HU",
  "ur": "en-ur_PK",
}


def get_config(arguments: str = "") -> ConfigDict:
  """The recipe for `lang=..,size=..,teacher=..`."""
  chosen = {"lang": "en", "size": "m", "teacher": "xlmr_large"}
  known = {"lang": LANGUAGES, "size": STUDENT_SIZES, "teacher": TEACHERS}
  for argument in filter(None, arguments.split(",")):
    name, _, value = argument.partition("=")
    if name not in chosen:
      raise UserError(
        f"configs/time.py has no argument {name!r}; known: {', '.join(known)}."
      )
    if value not in known[name]:
      raise UserError(
        f"configs/time.py: unknown {name} {value!r}; known: "
        f"{', '.join(known[name])}."
      )
    chosen[name] = value

  config = default_config()
  lang = config.lang = chosen["lang"]
  path, layer, num_heads = TEACHERS[chosen["teacher"]]
  config.teacher.path = path
  config.teacher.layer = layer
  config.relations.num_heads = num_heads
  config.student.update(STUDENT_SIZES[chosen["size"]])
  config.data.train = (f"hf:uonlp/CulturaX:{lang}:train#text",)
  field = "source" if lang == "en" else "target"
  config.data.validation = (
    f"hf:google/wmt24pp:{LANGUAGES[lang]}:train#{field}"
    if LANGUAGES[lang]
    else "hf:openlanguagedata/flores_plus:gle_Latn:devtest#text",
  )
  return config
