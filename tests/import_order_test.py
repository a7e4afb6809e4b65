"""The layers of the package: imports go down only, and files stay small."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "time_jax"

# A file imports from the project only what stands in a line above its own.
LAYERS = """
errors notes
lease recipe_arguments text_encoding
folders warmup
appearing cluster history ledger seal tracking watchdog
meeting
outcome ranges
arrays distributed guard
memory optimizer spikes changes metrics languages profiling
config
damaged status
checkpoint command data.examples data.json_files evals.recipe
evals.optimization
evals.lines arguments
evals.edit_scripts evals.spans evals.trees
evals.conllu evals.layouts evals.squad
evals.iob
sharding relations.dense models.family models.encoder
models.dropout models.lookup
models.layers
evals.incoming
models.relative models.rotary models.attention models.unrolled corpora
teachers relations.sweep
data.manifest data.packing data.records data.hub catalogue
data.integrity data.text_files data.tokenizing relations.one_pass
relations.pallas_gpu relations.pallas_tpu models.bert models.deberta
models.ltg_bert models.t5 models.modernbert models.eurobert
data.sources data.shards relations.loss models.registry hf.files
descent data.workers data.pipeline distill hf.weights data.counting hf.merges
hf.sentencepiece_file hf.torch_encoder hf.onnx_graph evals.results
micro_batches
hf.vocabulary evals.models
evals.table
evals.plot
hf.rows hf.trimmed_files pieces evals.report evals.datasets
evals.parquet_tags
flops data.prepare hf.load hf.save hf.tokenizer train_step evaluate
hf.flax_teacher hf.tokenizer_class parallel machine identity
assembly imported own_teacher
corpus initial sweeps.grid sweeps.chain
sweeps.stages
sweeps.summary
sweeps.sweep
record
first_state
train
bench.worker bench.report bench.run bench.breakdown bench.torch_baseline
bench.program bench.topology bench.step bench.rivals
bench.collectives bench.traffic bench.torch_relations
bench.compare bench.data choose doctor bench.relations inspection
bench.fit bench.scaling_worker
bench.aot bench.scaling
restore probe push
evals.pieces evals.ud_labels evals.batches evals.qa_windows
evals.word_batches evals.qa_batches evals.word_vectors evals.encoders
evals.ud_model evals.tuning evals.saved evals.ud_scores evals.network
evals.qa_scores
evals.ud_annotator evals.ner_model evals.ner_scores evals.qa_model evals.task
evals.finetuning evals.ud_breakdown
evals.ud evals.ner evals.qa
evals.predict
provenance card onnx_files
checks
verify imports bench.subjects bench.energy bench.sentences
bench.spacy_pipeline
bench.engines bench.inference_report
bench.inference
export trim
bench.commands evals.commands
commands
cli
__main__
"""


def files():
  return sorted(PACKAGE.rglob("*.py"))


def module_name(path):
  parts = path.relative_to(PACKAGE).with_suffix("").parts
  return ".".join(p for p in parts if p != "__init__")


def imported(path):
  """Project modules that a file imports, at its top or inside functions."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
    elif isinstance(node, ast.Import):
      names = [a.name for a in node.names]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
      names = [node.value]  # importlib.import_module in commands
    else:
      continue
    found |= {n.removeprefix("time_jax.") for n in names if "time_jax." in n}
  return found & {module_name(p) for p in files()}


def rank_of():
  lines = LAYERS.strip().splitlines()
  return {name: i for i, line in enumerate(lines) for name in line.split()}


def test_every_file_has_a_layer_and_every_layer_a_file():
  names = {module_name(p) for p in files() if p.name != "__init__.py"}
  assert names == set(rank_of())


@pytest.mark.parametrize("path", files(), ids=module_name)
def test_imports_go_down(path):
  rank = rank_of()
  name = module_name(path)
  upward = {
    n for n in imported(path) if n in rank and rank[n] >= rank.get(name, 0)
  }
  assert not upward - {name}, (
    f"{name} imports {upward} from its own layer or above"
  )


@pytest.mark.parametrize(
  "path",
  sorted(
    [
      *files(),
      *(ROOT / "configs").glob("*.py"),
      *(ROOT / "tests").rglob("*.py"),
    ]
  ),
  ids=str,
)
def test_files_and_functions_stay_small(path):
  text = path.read_text()
  assert text.count("\n") < 400
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.FunctionDef):
      assert node.end_lineno - node.lineno < 80, node.name


@pytest.mark.parametrize("path", files(), ids=module_name)
def test_everything_public_has_a_docstring(path):
  tree = ast.parse(path.read_text())
  assert ast.get_docstring(tree), path
  todo = list(tree.body)
  while todo:
    node = todo.pop()
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
      continue
    if node.name.startswith("_") or node.name == "setup":
      continue
    assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name}"
    if isinstance(node, ast.ClassDef):
      todo += node.body


def test_no_utils_file():
  assert not [p for p in files() if p.stem in ("utils", "util", "helpers")]
