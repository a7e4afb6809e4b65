"""The tasks of `finetune` by name."""

from time_jax.evals.common.task import Task
from time_jax.evals.ner.task import Ner
from time_jax.evals.qa.task import Qa
from time_jax.evals.split.task import Split
from time_jax.evals.ud.task import Ud

TASKS: dict[str, type[Task]] = {"ud": Ud, "ner": Ner, "qa": Qa, "split": Split}
