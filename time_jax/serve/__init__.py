"""Models on the CPU without JAX: `load(FOLDER)`, and a server in `command`.

What is loaded is an export with ONNX files, of a fine-tuned model or of a
student. Of packages this needs NumPy, tokenizers, onnxruntime and jaxtyping.
"""

from time_jax.serve.items import InputError as InputError
from time_jax.serve.model import Model as Model
from time_jax.serve.model import load as load

__all__ = ["InputError", "Model", "load"]
