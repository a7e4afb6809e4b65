"""SentencePiece models with fewer pieces.

Everything else in them stays as it is: the normalizer and its character map,
the scores, the pieces that are no text (control, unknown, bytes, user-defined).
"""

import importlib
from collections.abc import Container, Mapping
from typing import Any

from time_jax.core.errors import UserError
from time_jax.core.storage.paths import Path

_NORMAL = 1  # ModelProto.SentencePiece.Type


class SentencePieceFile:
  """A SentencePiece model and its pieces."""

  def __init__(self, model: Any) -> None:
    """Takes a `ModelProto`; see `read`."""
    self._model = model

  @classmethod
  def read(cls, path: Path) -> "SentencePieceFile | None":
    """Reads a file; returns None if it is no SentencePiece model."""
    try:
      proto = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
      message = importlib.import_module("google.protobuf.message")
    except ImportError as error:
      raise UserError(
        f"{path} is a SentencePiece model, which takes the package 'protobuf' "
        "to change; type: pip install protobuf."
      ) from error
    model = proto.ModelProto()
    try:
      model.ParseFromString(path.read_bytes())
    except message.DecodeError:
      return None
    return cls(model) if model.pieces else None

  def places(self) -> dict[str, int]:
    """Returns ordinary piece -> its id in this model."""
    return {
      piece.piece: i
      for i, piece in enumerate(self._model.pieces)
      if piece.type == _NORMAL
    }

  def others(self) -> set[str]:
    """Returns the pieces that are no ordinary text; they stay."""
    return {p.piece for p in self._model.pieces if p.type != _NORMAL}

  def fits(self, ids: Mapping[str, int]) -> bool:
    """Returns whether a tokenizer's ids are this model's plus a constant.

    Args:
      ids: the tokenizer's ids, by token.
    """
    places = self.places()
    distances = {ids[piece] - i for piece, i in places.items() if piece in ids}
    return len(distances) == 1 and places.keys() <= ids.keys()

  def cut(self, kept: Container[str]) -> bytes:
    """Returns the file without the ordinary pieces that are not kept."""
    model = type(self._model)()
    model.CopyFrom(self._model)
    del model.pieces[:]
    model.pieces.extend(
      piece
      for piece in self._model.pieces
      if piece.type != _NORMAL or piece.piece in kept
    )
    spec = model.trainer_spec
    spec.vocab_size = len(model.pieces)
    names = [piece.piece for piece in model.pieces]
    for key in ("unk_id", "bos_id", "eos_id", "pad_id"):
      old = getattr(spec, key)  # -1: there is none.
      if 0 <= old < len(self._model.pieces):
        name = self._model.pieces[old].piece
        setattr(spec, key, names.index(name) if name in names else -1)
    # Samples with their pieces, which need not be there any more.
    if "self_test_data" in model.DESCRIPTOR.fields_by_name:
      model.ClearField("self_test_data")
    return model.SerializeToString()
