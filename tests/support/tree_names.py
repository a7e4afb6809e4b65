"""Names in checkpoints are a format.

Workdirs of earlier versions go on, and theirs read ours.
"""

import re

import orbax.checkpoint as ocp

_BLOCK = {
  *(f"{n}_norm/{x}" for n in ("attention", "ffn") for x in ("bias", "scale")),
  *(
    f"{name}/{x}"
    for name in ("attention_out", "ffn_in", "ffn_out", "key", "query", "value")
    for x in ("bias", "kernel")
  ),
}
ENCODER = {
  *(f"{place}/{name}" for place in ("last", "layers") for name in _BLOCK),
  *(f"embeddings/{n}/embedding" for n in ("position", "token_type", "word")),
  *("embeddings/norm/bias", "embeddings/norm/scale"),
}
STUDENT = ENCODER | {"pooler/bias", "pooler/kernel"}
MODEL = {
  *(f"encoder/{name}" for name in ENCODER),
  *("heads/Dense_0/bias", "heads/Dense_0/kernel"),
}
_ADAM = "opt_state/inner_states/trained/inner_state/1"
OPTIMIZER = {f"{_ADAM}/{name}" for name in ("count", "mu", "nu")}


def saved_names(folder):
  """Item of a checkpoint -> the names in it."""
  reader, found = ocp.PyTreeCheckpointer(), {}
  for item in folder.iterdir():
    if (item / "_METADATA").exists():
      tree = dict(reader.metadata(item.absolute()).item_metadata.tree)
      names = map("/".join, ocp.tree.to_flat_dict(tree))
      # Moments have the names of parameters below.
      found[item.name] = {re.sub("/(mu|nu)/.*", r"/\1", n) for n in names}
  return found
