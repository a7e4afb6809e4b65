"""`bench trim`: held-out tokens as before, against the tokens that are kept."""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from time_jax.bench.common import flags, report
from time_jax.data import sources
from time_jax.data.records import Tally
from time_jax.data.tokenizing import TokenizerSpec
from time_jax.hf import files, load, tokenizer
from time_jax.trim import counting, trim
from time_jax.trim.token_selection import Rule, Selection, choose
from time_jax.trim.vocabulary import Vocabulary

_OF_TEXT = "the last of the text"
Texts = Mapping[str, Sequence[str]]  # documents by what they are called


@dataclasses.dataclass(frozen=True)
class Point:
  """A number of tokens and what it comes to.

  Attributes:
    tokens: number of tokens that are kept.
    sources: how many of them are kept for which reason.
    shares: share of each held-out text's tokens that are as before.
  """

  tokens: int
  sources: Mapping[str, int]
  shares: Mapping[str, float]


def bench_trim(given: flags.Trim) -> int:
  """Chooses each number of tokens, compares, prints a table and draws it.

  Args:
    given: the command's flags.

  Returns:
    The exit code, 0.

  Raises:
    UserError: the teacher, a text or a number cannot be used.
  """
  report.check_writable(given.plot, "plot")
  report.check_writable(given.json)
  folder = files.resolve(given.teacher, allow_pickle=False)
  _, config = load.read_config(folder)
  spec = tokenizer.load_tokenizer(folder, config.vocab_size)
  vocabulary = Vocabulary(spec.backend, spec.name)
  documents, last = trim.split(given.text, 0)
  counts = counting.count(spec, documents)
  held_out = {_OF_TEXT: list(itertools.islice(last, given.documents))}
  for source in given.held_out:
    found = sources.documents([sources.Source.parse(source)], Tally())
    held_out[source] = list(itertools.islice(found, given.documents))
  named = trim.named(folder, config, vocabulary)
  points = []
  for keep in given.keep:
    chosen = choose(vocabulary, counts, named, Rule(keep=keep))
    points.append(_point(spec, vocabulary, chosen, held_out))
  seen = f"{counts.documents:,} documents, {counts.tokens.sum():,} tokens"
  print(f"{folder}: text of {seen}; held-out tokens as before")
  print(table(points))
  rows = [dataclasses.asdict(point) for point in points]
  content = {"teacher": given.teacher, "text": given.text, "points": rows}
  report.write(given.json, "time_jax.bench.trim/1", content)
  if given.plot:
    draw(points, given.plot)
  return 0


def _point(
  spec: TokenizerSpec, vocabulary: Vocabulary, chosen: Selection, texts: Texts
) -> Point:
  old_ids = sorted(chosen)
  backend = json.dumps(vocabulary.cut(old_ids))
  trimmed = TokenizerSpec(backend, 0, len(old_ids), "the trimmed tokenizer")
  shares = {
    name: counting.compare(
      spec, trimmed, old_ids, documents, vocabulary.unreadable
    ).share_of_tokens
    for name, documents in texts.items()
  }
  return Point(len(chosen), trim.count_sources(chosen)["sources"], shares)


def table(points: Sequence[Point]) -> str:
  """Returns a table in Markdown, with a row for each number of tokens.

  Args:
    points: what was measured, one at least.
  """
  first = points[0]
  heads = ["tokens", *first.sources, *first.shares]
  rows = [
    [f"{n:,}" for n in (p.tokens, *p.sources.values())]
    + [f"{share:.3%}" for share in p.shares.values()]
    for p in points
  ]
  lines = [heads, ["---"] * len(heads), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(points: Sequence[Point], path: pathlib.Path) -> None:
  """Draws the share of tokens that change against the tokens that are kept.

  Args:
    points: what was measured, one at least.
    path: PNG file to write.
  """
  # Imported here: matplotlib is slow to load and only the end needs it.
  from matplotlib.figure import Figure

  figure = Figure(figsize=(7, 5), dpi=120, layout="constrained")
  axes: Any = figure.subplots()
  points = sorted(points, key=lambda point: point.tokens)
  kept = [point.tokens for point in points]
  for name in points[0].shares:
    # What does not change at all has no place on the axis: that is no point.
    changed = [100 * (1 - p.shares[name]) or None for p in points]
    axes.plot(kept, changed, "o-", label=name)
  seen = max(p.sources["always"] + p.sources["seen"] for p in points)
  axes.axvline(seen, color="0.5", linestyle=":", label="all of the text's own")
  axes.set(xlabel="tokens that are kept", ylabel="held-out tokens changed, %")
  axes.set_xscale("log")
  axes.set_xticks(kept, [f"{n:,}" for n in kept])
  axes.minorticks_off()
  axes.set_yscale("log")
  axes.yaxis.set_major_formatter("{x:g}")
  axes.grid(alpha=0.3, which="both")
  axes.legend()
  figure.savefig(path, format="png")
