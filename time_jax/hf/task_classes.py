"""transformers' classes of an encoder with one linear layer on top of it.

That is what `finetune ner` and `finetune qa` train (dropout apart, which only
training has), so that transformers opens their models by these classes. A
family is absent where its class has more on top (ModernBERT), reads the decoder
(T5 for questions), or does not exist in every version of transformers that is
supported (EuroBERT, LTG-BERT).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from time_jax.core.errors import UserError
from time_jax.core.storage.paths import Path
from time_jax.hf import files, read_params
from time_jax.hf.weights import Weights

_ENCODERS = {  # model_type -> (how names of classes begin, attribute)
  "bert": ("Bert", "bert"),
  "camembert": ("Camembert", "roberta"),
  "deberta-v2": ("DebertaV2", "deberta"),
  "electra": ("Electra", "electra"),
  "roberta": ("Roberta", "roberta"),
  "xlm-roberta": ("XLMRoberta", "roberta"),
}
_HEADS = {  # task -> (how names of classes end, attribute)
  "ner": ("ForTokenClassification", "classifier"),
  "qa": ("ForQuestionAnswering", "qa_outputs"),
}
# What a config.json says of other heads, of paths and use.
_OF_OTHERS = (
  *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task"),
  *("task_specific_params", "_name_or_path", "tokenizer_class"),
  *("return_dict", "torchscript", "output_attentions", "output_hidden_states"),
  "quantization_config",
)


class TaskClass(NamedTuple):
  """A class of an encoder with a linear layer on its last hidden state.

  Attributes:
    name: its name in transformers.
    encoder: attribute that holds the encoder.
    head: attribute that holds the linear layer.
    reads_pairs: whether its rows are pairs of texts.
  """

  name: str
  encoder: str
  head: str
  reads_pairs: bool


class Head(NamedTuple):
  """The linear layer: states @ kernel + bias are the logits."""

  kernel: Float[np.ndarray, "D C"]
  bias: Float[np.ndarray, " C"]

  def logits(self, states: Float[np.ndarray, "... D"]) -> np.ndarray:
    """Returns the logits of hidden states (..., C)."""
    return states @ self.kernel + self.bias


def find(task: str, model_type: str) -> TaskClass | None:
  """Returns the class for a model of a task.

  Args:
    task: such as "ner".
    model_type: the encoder's, as its config.json has it.

  Returns:
    The class; None where transformers has none that is the same network.
  """
  if task not in _HEADS or model_type not in _ENCODERS:
    return None
  start, encoder = _ENCODERS[model_type]
  end, head = _HEADS[task]
  return TaskClass(start + end, encoder, head, task == "qa")


def of_config(hf_config: Mapping[str, Any]) -> TaskClass | None:
  """Returns the class that a config.json names, if it is one of these."""
  model_type, named = (
    hf_config.get(k) for k in ("model_type", "architectures")
  )
  if not isinstance(model_type, str):
    return None
  kinds = (find(task, model_type) for task in _HEADS)
  return next((k for k in kinds if k and named == [k.name]), None)


def of_folder(folder: Path) -> TaskClass | None:
  """Returns the class that a model's folder is of; see `of_config`."""
  return of_config(files.model_config(folder))


def make_config(
  hf_config: Mapping[str, Any], kind: TaskClass, labels: Sequence[str]
) -> dict[str, Any]:
  """Returns the config.json of a model with a head, in float32.

  Args:
    hf_config: that of the encoder, whatever class or head it names.
    kind: the model's class.
    labels: names of the classes, by number; none for places in a text.
  """
  own: dict[str, Any] = {"architectures": [kind.name]}
  if labels:
    own["id2label"] = {str(i): label for i, label in enumerate(labels)}
    own["label2id"] = {label: i for i, label in enumerate(labels)}
  return make_encoder_config(hf_config) | own


def make_encoder_config(hf_config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the config.json of an encoder alone, in float32.

  Args:
    hf_config: that of the encoder, whatever class or head it names.
  """
  kept = {k: v for k, v in hf_config.items() if k not in _OF_OTHERS}
  model_type = hf_config.get("model_type")
  if isinstance(model_type, str) and model_type in _ENCODERS:
    kept["architectures"] = [f"{_ENCODERS[model_type][0]}Model"]
    kept.pop("auto_map", None)  # It names code, which this class does not need.
  # Its older name, too: transformers before 4.56 knows no other.
  return kept | {"dtype": "float32", "torch_dtype": "float32"}


def head_names(kind: TaskClass) -> tuple[str, str]:
  """Returns the names of the linear layer's tensors: weight and bias."""
  return f"{kind.head}.weight", f"{kind.head}.bias"


def to_tensors(
  kind: TaskClass, encoder: Mapping[str, np.ndarray], head: Head
) -> dict[str, np.ndarray]:
  """Returns the tensors of a model's file.

  Args:
    kind: the model's class.
    encoder: the encoder's tensors by the names that it has alone.
    head: the linear layer.
  """
  tensors = {f"{kind.encoder}.{name}": x for name, x in encoder.items()}
  weight, bias = head_names(kind)
  tensors[weight] = np.ascontiguousarray(head.kernel.T)
  tensors[bias] = np.ascontiguousarray(head.bias)
  return tensors


def require(hf_config: Mapping[str, Any], folder: Path) -> TaskClass:
  """Returns the class that a config.json names.

  Args:
    hf_config: content of the file.
    folder: where it is.

  Raises:
    UserError: it names none of these classes.
  """
  kind = of_config(hf_config)
  if kind is None:
    raise UserError(
      f"{folder}/config.json names {hf_config.get('architectures')!r} of "
      f"model_type {hf_config.get('model_type')!r}; expected a class with one "
      "linear layer, such as ['BertForTokenClassification'] of 'bert'."
    )
  return kind


def read_head(weights: Weights, hf_config: Mapping[str, Any]) -> Head:
  """Reads the linear layer of a model with one.

  Args:
    weights: the model's tensors.
    hf_config: its config.json.

  Raises:
    UserError: config.json names no such class, or the layer is not there.
  """
  kind = require(hf_config, weights.folder)
  names = head_names(kind)
  if missing := [name for name in names if name not in weights]:
    raise UserError(
      f"{weights.folder}: config.json names {kind.name}, whose "
      f"{' and '.join(missing)} no file holds; expected a fresh copy of the "
      "folder."
    )
  classes, width = weights.shape(names[1])[:1], hf_config["hidden_size"]
  read_params.check_tensors(
    weights, {names[0]: (*classes, width), names[1]: classes}
  )
  weight, bias = (weights.read(name).astype(np.float32) for name in names)
  return Head(np.ascontiguousarray(weight.T), bias)
