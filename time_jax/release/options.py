"""The options of `export`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Options:
  """The options of `export`.

  Attributes:
    model_class: class in config.json, a key of `save.CLASSES`; "": that of the
      imported model, or BertModel if the student was not imported.
    dtype: dtype of the weights, one of `save.DTYPES`; "": that of the imported
      model, or float32.
    licence: its identifier, for the card; "": that of the imported export; the
      card says so where there is none.
    name: name by which the card's code loads the model; "": the folder's path.
    revision: branch of the hub that the export is for; None: the main one.
    onnx: whether to write ONNX files, too.
    drop_last: whether the last layer is left out.
  """

  model_class: str = ""
  dtype: str = ""
  licence: str = ""
  name: str = ""
  revision: str | None = None
  onnx: bool = False
  drop_last: bool = False
