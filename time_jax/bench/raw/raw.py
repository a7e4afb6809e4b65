"""`bench raw`: from raw text to annotated documents, in turns."""

import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from time_jax.bench.common import report, rounds
from time_jax.bench.common.child_process import ChildProcess
from time_jax.bench.common.flags import Raw
from time_jax.bench.pipeline import cores
from time_jax.bench.raw.measured import Measured
from time_jax.core.display import aligned_table, with_header
from time_jax.evals.split import treebank
from time_jax.evals.split.passage import Passage
from time_jax.evals.ud import conllu
from time_jax.step import machine

SCHEMA = "time_jax.bench.raw/1"


def bench_raw(flags: Raw) -> int:
  """Measures all pipelines on each number of cores, and prints a table.

  Args:
    flags: flags of the command.

  Returns:
    The exit code, 0.

  Raises:
    UserError: there is no such pipeline or file, or there are fewer cores.
  """
  report.check_writable(flags.json)
  chosen = {count: cores.choose(count) for count in flags.cores}
  documents = make_documents(conllu.read(flags.gold), flags.sentences)
  words = sum(len(document.words) for document in documents)
  found: list[dict[str, Any]] = []
  for count, own in chosen.items():
    with ExitStack() as stack:
      running, start = {}, {}
      for name in flags.pipelines:
        begin = time.perf_counter()
        texts = [document.text for document in documents]
        process = ChildProcess(Measured, name, texts, cores=own, daemon=False)
        running[name] = stack.enter_context(process)
        running[name].call("first")
        start[name] = time.perf_counter() - begin
      found += [
        row | {"cores": count, "first_answer_s": start[row["pipeline"]]}
        for row in _measure(running, words, count, flags.repeats)
      ]
  print(table(found, len(documents), words))
  content = machine.environment({"data": 1}, "float32") | {
    "gold": {
      "path": str(flags.gold), "documents": len(documents), "words": words
    },
    "rows": found,
  }  # fmt: skip
  report.write(flags.json, SCHEMA, content)
  if flags.json:
    print(f"Written to {flags.json}.")
  return 0


def make_documents(
  sentences: Sequence[conllu.Sentence], together: int
) -> list[Passage]:
  """Returns the raw text of sentences, some of them to a document."""
  starts = range(0, len(sentences), together)
  groups = ([*sentences[i : i + together]] for i in starts)
  return [*itertools.chain(*map(treebank.passages, groups))]


def _measure(
  running: Mapping[str, ChildProcess], words: int, count: int, repeats: int
) -> list[dict[str, Any]]:
  """Returns a row for each pipeline, and one for it in several processes.

  Args:
    running: the pipelines by name.
    words: how many words the texts have.
    count: number of cores.
    repeats: rounds.
  """
  each = [(name, n) for name in running for n in dict.fromkeys((1, count))]
  for name, processes in each:  # to warm up
    running[name].call("together", processes)
  times = rounds.in_turns(
    each, repeats, lambda one: running[one[0]].call("together", one[1])
  )
  rows = []
  for name, processes in each:
    own = times[name, processes]
    alone = running[name].call("alone") if processes == 1 else None
    rows.append(
      {
        "pipeline": name,
        "processes": processes,
        "words_s": words / statistics.median(own),
        "seconds": report.spread(own),
        "alone_s": alone and report.spread(alone),
        "to_first": rounds.ratio(times[each[0]], own),
        "peak_bytes": running[name].call("peak") if processes == 1 else None,
      }
    )
  return rows


def table(rows: Sequence[Mapping[str, Any]], documents: int, words: int) -> str:
  """Returns the rows as text, with what the columns mean.

  Args:
    rows: rows of the JSON file.
    documents: number of documents.
    words: number of their words, as the treebank has them.
  """
  title = (
    f"{documents:,} documents, {words:,} words, from raw text in memory to "
    "documents of spaCy\n"
    "p50, p99: ms of one document alone; start: s to the first answer; x: "
    "times as fast as the first row of as many cores"
  )
  lines = []
  for row in rows:
    alone, peak = row["alone_s"], row["peak_bytes"]
    lines.append(
      {
        "pipeline": row["pipeline"],
        "cores": str(row["cores"]),
        "processes": str(row["processes"]),
        "words/s": f"{row['words_s']:,.0f}",
        "p50": f"{1e3 * alone['p50']:,.1f}" if alone else "",
        "p99": f"{1e3 * alone['p99']:,.1f}" if alone else "",
        "MB": f"{peak / 1e6:,.0f}" if peak else "",
        "start": f"{row['first_answer_s']:.1f}",
        "x": f"{row['to_first']:.3g}",
      }
    )
  return "\n".join([title, aligned_table(with_header(lines), "<>")])
