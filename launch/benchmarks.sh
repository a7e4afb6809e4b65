#!/bin/sh
# Every measurement of benchmarks.md, on this machine's accelerator or CPU.
#
#   launch/benchmarks.sh OUT
#
# Writes OUT/NAME.txt and OUT/NAME.json for each. On a GPU or TPU it is done in
# ten minutes: what is not by then, is cut off (LIMIT seconds each). On a CPU
# the steps of full-size teachers take longer: LIMIT=1800. Needs nothing but
# this package, and PyTorch for what is measured beside it. PYTHON says which
# interpreter is run (python3), TEACHER_BATCH how many rows of 512 a step has
# (256; on a CPU 4).
set -u

if [ $# -ne 1 ]; then
  sed -n '2,12s/^# \{0,1\}//p' "$0"
  exit 2
fi
out=$1
python=${PYTHON:-python3}
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2

platform=$("$python" -c 'import jax; print(jax.default_backend())') || exit 2
if [ "$platform" = cpu ]; then
  rows=${TEACHER_BATCH:-4} few=4 dtype=float32 limit=${LIMIT:-900}
else
  rows=${TEACHER_BATCH:-256} few=32 dtype=bfloat16 limit=${LIMIT:-150}
fi

failed=0
measure() {
  name=$1
  shift
  echo "== $name: time_jax $*"
  timeout "$limit" "$python" -m time_jax "$@" --json="$out/$name.json" \
    > "$out/$name.txt" 2>&1 || {
    echo "   ended with $?"
    failed=1
  }
  cat "$out/$name.txt"
}

measure relations bench relations --torch --dtype="$dtype" \
  --batch_size="$few" --seq_lens=512,1024 --repeats=7
measure step bench step --config=configs/xlmr_random.py:size=m --steps=10 \
  --config.teacher.dtype="$dtype" --config.train.dtype="$dtype" \
  --config.train.global_batch_size="$rows" \
  --config.eval.global_batch_size="$rows"
measure compare bench compare --size=m --compile --dtype="$dtype" \
  --batch_size="$few" --repeats=5
measure data bench data --config=configs/quickstart.py \
  --config.data.seq_len=512 --repeats=3
exit "$failed"
