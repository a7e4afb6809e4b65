"""Treebanks of raw text, a tiny encoder for it, and how to fine-tune it."""

import pathlib
import random
import re

import numpy as np
import tiny_ud

from time_jax.config import finetune
from time_jax.evals.split import boundaries, treebank
from time_jax.evals.split.boundaries import BOUNDARY, KINDS
from time_jax.evals.split.passage import Passage
from time_jax.evals.split.reading import GAPS, Reading
from time_jax.evals.split.task import Split
from time_jax.evals.ud import conllu

SAMPLE = """\
# newpar
# text = Il va  au bal.
1\tIl\til\tPRON\t_\t_\t2\tsubj\t_\t_
2\tva\taller\tVERB\t_\t_\t0\troot\t_\t_
3-4\tau\t_\t_\t_\t_\t_\t_\t_\t_
3\tà\tà\tADP\t_\t_\t5\tcase\t_\t_
4\tle\tle\tDET\t_\t_\t5\tdet\t_\t_
4.1\tbeau\t_\t_\t_\t_\t_\t_\t_\t_
5\tbal\tbal\tNOUN\t_\t_\t2\tobl\t_\tSpaceAfter=No
6\t.\t.\tPUNCT\t_\t_\t2\tpunct\t_\t_

1\t50 000\t50 000\tNUM\t_\t_\t0\troot\t_\t_

# newdoc id = 2
1\tNon\tnon\tINTJ\t_\t_\t0\troot\t_\t_

"""


def read(text):
  lines = [line.encode() for line in text.split("\n")]
  return treebank.passages(conllu.parse(lines, "sample", trees=False))


def row(number: str, form: str, misc: str = "_") -> str:
  """A line of a file without trees."""
  return "\t".join([number, form, *["_"] * 7, misc]) + "\n"


UNESCAPED = {"s": " ", "t": "\t", "n": "\n", "r": "\r", "p": "|", "\\": "\\"}


def oracle(passage: Passage) -> Passage:
  """The passage as it is assembled from the labels that it teaches."""
  classes = boundaries.learn([passage])
  reading = Reading(passage.text)
  targets = boundaries.targets(passage, reading, classes)
  found = boundaries.assemble(reading, by_gap(reading, targets), classes)
  return Passage(passage.text, found)


def by_gap(reading, targets):
  """What a network gives that is right for each atom's own gap."""
  own = targets[BOUNDARY] % len(KINDS)
  kinds = np.full((len(own), GAPS, len(KINDS)), -1.0)
  kinds[np.arange(len(own)), reading.gaps, own] = 1.0
  return targets | {BOUNDARY: kinds}


def rebuild(sentences):
  """The text, from FORM and MISC alone, as UDPipe has them."""
  parts = []
  for sentence in sentences:
    until = 0
    for line in sentence.rows[1:]:
      first, _, last = line[0].partition("-")
      if int(first) <= until and not last:
        continue
      until = int(last or 0)
      misc = dict(x.split("=", 1) for x in line[-1].split("|") if x != "_")
      after = "" if "SpaceAfter" in misc else misc.get("SpacesAfter", "\\s")
      form = misc.get("SpacesInToken", line[1].replace("\\", "\\\\"))
      written = misc.get("SpacesBefore", "") + form + after
      parts.append(re.sub(r"\\(.)", lambda found: UNESCAPED[found[1]], written))
  return "".join(parts)


# Sentences whose tokens stand between "|", with what is between them.
PATTERNS = (
  "Il| |va| |au|{à le}| |X|.",
  "L'|X| |mange| |du|{de le}| |Y|.",
  "Les| |X|-|Y| |vont| |à| |Y| |!",
  "X|,| |Y| |et| |X| |?",
)
NOUNS = ("bal", "chat", "Paris", "été", "pain", "12", "lac")
SIZES = (
  "--config.data.buckets=(64,)",
  "--config.data.longest=64",
  "--config.heads.hidden=16",
  "--config.train.batch_size=4",
  "--config.train.warmup_steps=5",
  "--config.log.every=1",
)


def write_treebank(
  path: pathlib.Path, seed: int, count: int = 60
) -> pathlib.Path:
  """A treebank of sentences that are drawn from the patterns."""
  draw = random.Random(seed)
  blocks = []
  for _ in range(count):
    pattern = draw.choice(PATTERNS)
    for name in "XY":
      pattern = pattern.replace(name, draw.choice(NOUNS))
    rows, number, last = [], 0, 0
    for part in pattern.split("|"):
      if part == " ":
        rows[last][-1] = "_"
      elif part.startswith("{"):
        rows[last][0] = f"{number}-{number + 1}"
        words = part[1:-1].split()
        rows += [_row(number + i, word, "_") for i, word in enumerate(words)]
        number += 1
      else:
        number, last = number + 1, len(rows)
        rows.append(_row(number, part, "SpaceAfter=No"))
    rows[last][-1] = "_"
    blocks.append("".join("\t".join(row) + "\n" for row in rows))
  path.write_text("\n".join(blocks) + "\n")
  return path


def _row(number: int, form: str, misc: str) -> list[str]:
  head = ("0", "root") if number == 1 else ("1", "dep")
  return [str(number), form, *["_"] * 4, *head, "_", misc]


def write_encoder(folder: pathlib.Path) -> pathlib.Path:
  """A random BERT of 2 layers with a tokenizer for the patterns."""
  return tiny_ud.write_bert(folder, [*PATTERNS, *NOUNS] * 3, tokens=120)


def write_model(folder: pathlib.Path, mesh) -> pathlib.Path:
  """The folder of a model of split with random weights."""
  folder.mkdir()
  encoder = write_encoder(folder / "encoder")
  items = treebank.read(write_treebank(folder / "train.conllu", 0))
  config = finetune.split_config()
  config.heads.hidden = 16
  model = folder / "model"
  return tiny_ud.write_random(model, Split, config, items, encoder, mesh)


def command(model, workdir, train, dev, *flags):
  recipe = f"--config={tiny_ud.ROOT}/configs/split.py:lang=fr,model={model}"
  return [
    *("finetune", "split", f"{recipe},train={train},dev={dev}"),
    *(f"--workdir={workdir}", *SIZES, *flags),
  ]
