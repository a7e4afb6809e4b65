"""Commands that measure."""

from time_jax.bench.common import flags


class Data(flags.Data):
  """Speed of preparing text and of loading rows."""

  name = "bench data"
  example = "bench data --config=configs/quickstart.py"

  def run(self) -> int:
    """Measures `prepare` and the loader."""
    from time_jax.bench.common import data

    return data.bench_data(self)


class Relations(flags.Relations):
  """Time and memory of the relation loss's implementations."""

  name = "bench relations"
  example = "bench relations --seq_lens=512,1024 --torch"

  def run(self) -> int:
    """Measures each number of heads with each length."""
    from time_jax.bench.peers import relations

    return relations.bench_relations(self)


class Step(flags.Step):
  """Speed and memory of a recipe's training step."""

  name = "bench step"
  example = (
    "bench step --config=configs/xlmr_random.py:size=s "
    "--config.train.global_batch_size=4 --config.data.seq_len=128 --steps=5"
  )

  def run(self) -> int:
    """Measures the training step."""
    from time_jax.bench.common import step

    return step.bench_step(self)


class Compare(flags.Compare):
  """Our training step and PyTorch's, in turns."""

  name = "bench compare"
  example = "bench compare --size=s,xs --batch_size=4 --compile"

  def run(self) -> int:
    """Measures both in processes of their own."""
    from time_jax.bench.peers import compare

    return compare.bench_compare(self)


class Aot(flags.Aot):
  """Whether a run fits on TPUs that are not here, and what limits it."""

  name = "bench aot"
  example = (
    "bench aot --config=configs/xlmr_random.py:size=m --topology=v5e:4x4"
  )

  def run(self) -> int:
    """Compiles the training step for the topology."""
    from time_jax.bench.aot import aot

    return aot.bench_aot(self)


class Scaling(flags.Scaling):
  """Weak and strong scaling of the step over numbers of devices."""

  name = "bench scaling"
  example = (
    "bench scaling --config=configs/xlmr_random.py:size=s "
    "--config.train.global_batch_size=4 --config.data.seq_len=128 "
    "--devices=1,2,4"
  )

  def run(self) -> int:
    """Measures each number of devices in a process of its own."""
    from time_jax.bench.scaling import scaling

    return scaling.bench_scaling(self)


class Inference(flags.Inference):
  """Latency of encoders on real sentences: JAX, PyTorch and onnxruntime."""

  name = "bench inference"
  example = (
    "bench inference --models=s=runs/quickstart,xs=random:xs "
    "--text=held_out.txt --tokenizer=runs/quickstart/tokenizer"
  )

  def run(self) -> int:
    """Measures each model in each library."""
    from time_jax.bench.inference import inference

    return inference.bench_inference(self)


class Pipeline(flags.Pipeline):
  """Words per second and scores of finished models, beside spaCy's."""

  name = "bench pipeline"
  example = (
    "bench pipeline xs=runs/fr-xs-ud/seed-0/model random:xlmr-large "
    "--gold=TEST.conllu --spacy=fr_core_news_sm --out=runs/pipelines"
  )
  argument = "models"

  def run(self) -> int:
    """Measures each model on each number of cores."""
    from time_jax.bench.pipeline import pipeline

    return pipeline.bench_pipeline(self)


class Raw(flags.Raw):
  """Words per second of pipelines of spaCy, ours and others, from raw text."""

  name = "bench raw"
  example = (
    "bench raw runs/fr_time fr_core_news_sm --gold=TEST.conllu --json=raw.json"
  )
  argument = "pipelines"

  def run(self) -> int:
    """Measures each pipeline on each number of cores."""
    from time_jax.bench.raw import raw

    return raw.bench_raw(self)


class Trim(flags.Trim):
  """Share of held-out tokens that stay, against the tokens of `trim`."""

  name = "bench trim"
  example = (
    "bench trim --teacher=FacebookAI/xlm-roberta-large "
    "--text='da/*.jsonl.zst' --keep=20000,40000 --plot=frontier.png"
  )

  def run(self) -> int:
    """Compares tokenizers of each number of tokens."""
    from time_jax.bench.trim import frontier

    return frontier.bench_trim(self)


class Serving(flags.Serving):
  """A server without JAX under load: requests a second, latency, memory."""

  name = "bench serving"
  example = "bench serving runs/da-ner/export --inputs=sentences.txt"
  argument = "folder"

  def run(self) -> int:
    """Starts a server and sends requests to it."""
    from time_jax.bench.serving import serving

    return serving.bench_serving(self)
