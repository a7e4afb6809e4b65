"""A child process that is none: its object works in the test's process."""


class Here:
  """Stands for `bench.common.child_process.ChildProcess`."""

  def __init__(self, make, *arguments, environment=None, cores=None):
    del environment, cores
    self._made = make(*arguments)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def close(self):
    pass

  def call(self, method, *arguments):
    return getattr(self._made, method)(*arguments)
