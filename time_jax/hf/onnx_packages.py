"""Imports the packages of the extra `onnx`."""

import importlib
from typing import Any

from time_jax.core.errors import UserError, first_line


def require(*names: str) -> list[Any]:
  """Imports optional packages; raises UserError how to install them."""
  try:
    return [importlib.import_module(name) for name in names]
  except ModuleNotFoundError as error:
    raise UserError(
      f"{error.name} is not installed, and ONNX needs it: pip install -e "
      "'.[onnx]' in the repository."
    ) from error
  except ImportError as error:
    raise UserError(
      f"{' or '.join(names)} cannot be imported, and ONNX needs it: "
      f"{first_line(error)} Install it again: pip install --force-reinstall "
      "onnx onnxruntime."
    ) from error
