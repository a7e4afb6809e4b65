"""The folder of a fine-tuned model, as others get it."""

from time_jax.core.storage import atomic_file
from time_jax.core.storage.paths import Path
from time_jax.hf import files, fine_tuned
from time_jax.release import task_card
from time_jax.release.options import Options


def write_card(folder: Path, options: Options) -> None:
  """Writes README.md, from task.json and config.json.

  Args:
    folder: the model's folder.
    options: see `task_card.render`.
  """
  text = task_card.render(
    fine_tuned.read_description(folder), files.model_config(folder), options
  )
  atomic_file.write_text(folder / "README.md", text)
