"""Exports with ONNX files of tiny models, one for each task."""

import json
import pathlib

import alone
import tiny_ner
import tiny_qa
import tiny_split
import tiny_ud

from time_jax.core.storage.paths import Path
from time_jax.hf import load, onnx_encoder, onnx_int8, onnx_names
from time_jax.serve.folder import VECTORS
from time_jax.spacy_pipeline import pipeline

TINY = {"ner": tiny_ner, "qa": tiny_qa, "split": tiny_split, "ud": tiny_ud}
TASKS = (*TINY, VECTORS)
# What docs/using.md calls an export of each.
ON_PAGE = {"ENCODER": VECTORS, "NAMES": "ner", "ANSWERS": "qa", "TREES": "ud"}
ITEMS = {
  "ner": ["Marie Curie blev født .", ["Warszawa"], ["", "x"][1:], ""],
  "qa": [
    {"question": "Who was born?", "context": "Marie Curie was born in Warsaw."},
    {"question": "Where?", "context": "In Warsaw . " * 60},
    {"question": "", "context": ""},
  ],
  "split": [
    *("Il va  au lac. L'été\n", "", "😀", "a " * 400, " \n\n"),
    "\n Il va\n\nau lac\n \n\n  L'été mange .\n\n" + "du pain " * 20 + "\n\n",
  ],
  "ud": ["Tá an aimsir go maith .", ["Dia", "duit"], "", ["a"] * 90],
  VECTORS: ["Tá an aimsir go maith.", "", "a " * 200],
}


def export(task: str, home: pathlib.Path, mesh) -> pathlib.Path:
  """Returns the folder of a new export.

  Args:
    task: one of `TASKS`.
    home: an empty folder for it.
    mesh: where the model is made.
  """
  if task in TINY:
    model = TINY[task].write_model(home / "model", mesh)
    out = home / "export"
    alone.run("export", f"--workdir={model}", f"--out={out}", "--onnx")
    return out
  folder = tiny_ud.write_encoder(home / "encoder")
  encoder, params = load.load_encoder(folder, dtype="float32", mesh=mesh)
  (folder / onnx_names.FOLDER).mkdir()
  plain, int8 = (
    folder / onnx_names.FOLDER / name
    for name in (onnx_names.PLAIN, onnx_names.INT8)
  )
  onnx_encoder.save_onnx(plain, encoder.config, params)
  onnx_int8.write_int8(plain, int8, large=False)
  return folder


def of_page(home: pathlib.Path, mesh, names=tuple(ON_PAGE)):
  """Returns the folders of new exports by the names of docs/using.md.

  Args:
    home: an empty folder for them.
    mesh: see `export`.
    names: names of `ON_PAGE`.
  """
  folders = {}
  for name in names:
    (home / name).mkdir()
    folders[name] = export(ON_PAGE[name], home / name, mesh)
  return folders


def pipeline_of(folders, home: pathlib.Path) -> pathlib.Path:
  """Returns the folder of a new pipeline of spaCy.

  Args:
    folders: exports.
    home: an empty folder for it.
  """
  names = [str(folder) for folder in folders]
  out = home / "fr_time"
  pipeline.write(names, "fr", Path(str(out)), int8=False)
  return out


def edit(path: pathlib.Path, **changes) -> None:
  """Changes entries of a JSON file; None removes one."""
  content = json.loads(path.read_text()) | changes
  content = {name: x for name, x in content.items() if x is not None}
  path.write_text(json.dumps(content))
