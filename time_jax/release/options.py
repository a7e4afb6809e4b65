"""What an export is to be."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Options:
  """What an export is to be.

  Attributes:
    model_class: a key of `save.CLASSES`; "": the class that an imported student
      had, else BertModel.
    dtype: dtype of the weights, one of `save.DTYPES`; "": likewise, else
      float32.
    licence: identifier for the card; "": the licence that an imported export
      had, else the card says that none is stated.
    name: how the card's code loads the model; "": by the folder's path.
    revision: branch of the hub that the export is for; None: the main one.
    onnx: whether ONNX files are written, too.
  """

  model_class: str = ""
  dtype: str = ""
  licence: str = ""
  name: str = ""
  revision: str | None = None
  onnx: bool = False
