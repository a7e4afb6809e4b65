"""Command -> its flags, in the order that help shows."""

_FLAGS = """
prepare: config workdir verify
start: config workdir
distill: config workdir profile
status: workdir plot
choose: workdir by train dev
export: workdir step out class dtype license push revision private dry_run \
onnx drop_last
verify: folder against allow_pickle
import: model workdir allow_pickle
spacy: models lang out int8
finetune ud: config workdir
finetune ner: config workdir
finetune qa: config workdir
finetune split: config workdir
probe: models train dev teacher json allow_pickle
predict: folder engine int8 split
score: predicted gold task label lang metrics out
report: workdirs teacher lower out by
sweep: file workdir results
recipes:
recipe: name
languages: code
teachers:
inspect: model layer size allow_pickle
trim: teacher text out keep min_count coverage max_documents allow_pickle
doctor: workdir
bench data: config megabytes repeats json
bench relations: batch_size teacher_width student_width repeats seq_lens \
num_heads dtype torch json
bench step: config workdir steps warmup real_rows peak_tflops json
bench compare: size batch_size seq_len repeats steps compile cut dtype json
bench aot: config topology sweep batches meshes json
bench scaling: config devices mode processes steps repeats markdown plot json
bench inference: models text tokenizer engines batch_sizes scores spacy \
batches repeats out json
bench pipeline: models gold engines spacy tokenizer cores sentences \
batch_sizes batches repeats out json
bench raw: pipelines gold sentences cores repeats json
bench serving: folder inputs requests clients together int8 json
bench trim: teacher text held_out documents keep plot json
"""
FLAGS = {
  line.partition(":")[0]: line.partition(":")[2].split()
  for line in _FLAGS.strip().splitlines()
}
