"""What each process of two does: saves three students, and reads each."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import jax
import numpy as np
from meshes import make_mesh
from saving import (
  MEMBERS,
  abstract,
  joint_scores,
  joint_values,
  open_joint,
  save_joint,
)

from time_jax.checkpoint.reader import CheckpointReader
from time_jax.parallel import host_collectives, processes


def main(workdir):
  processes.initialize()
  mesh = make_mesh(2, 1, 1)
  with open_joint(workdir) as checkpoints:
    save_joint(checkpoints, 10, {"m": 0.5}, mesh)
    save_joint(checkpoints, 20, None, mesh, wait=True)
  with open_joint(workdir) as checkpoints:
    checkpoints.add_scores(10, joint_scores({"m": 0.75, "xs": 0.25}))
  steps = {}
  for name in MEMBERS:
    with CheckpointReader(workdir / "students" / name) as checkpoints:
      steps[name] = checkpoints.steps()
      assert checkpoints.metadata(20) == {"run": f"{name} 20"}
      found = checkpoints.restore(20, abstract(mesh))
    wanted = joint_values(20)[name]
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
      for shard in leaf.addressable_shards:
        whole = wanted[path[0].key][path[1].key]
        np.testing.assert_array_equal(shard.data, whole[shard.index])
  host_collectives.barrier("read")
  print(", ".join(f"{name}: {found}" for name, found in steps.items()))


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
