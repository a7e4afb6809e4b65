"""The JavaScript of docs/using.md finds what Python does, in node and pages."""

import functools
import http.server
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import threading

import numpy as np
import pytest
import served
from modules import ROOT

from time_jax.serve import load

PAGE = (ROOT / "docs" / "using.md").read_text()
BLOCKS = re.findall(r"^```js\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
HTML = re.findall(r"^```html\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
PACKAGES = ROOT / ".venv" / "node" / "node_modules"
NODE = shutil.which("node")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
SECONDS = 250
TEXTS = [
  "Ada Lovelace wrote the first program .",
  "Marie Curie blev født i Warszawa .",
  "Small is fast.",
  "It works.",
  "Zoë går à la crème café .",
  "Ada 😀 Lovelace 👍 smilede .",
  "x  y   z",
  " Å, Warszawa !",
  "1843",
  "😀",
  "Ünïcödé ist schön ( ja ) .",
]
QUESTIONS = [
  {"question": asked, "context": context}
  for asked, context in (
    ("Who wrote it?", "Ada Lovelace wrote it in 1843."),
    (" Who was born? ", "Marie Curie was born in Warsaw."),
    *(("Where?", text) for text in TEXTS),
    ("Who?", "She wrote it.\n\nHe read  it ."),
    ("Who?", ""),
  )
]

pytestmark = [
  pytest.mark.skipif(not NODE, reason="needs node: install Node.js 20"),
  pytest.mark.skipif(
    not (PACKAGES / "@huggingface" / "transformers").is_dir(),
    reason="needs transformers.js in .venv/node: run make .venv/node",
  ),
]


@pytest.fixture(scope="module")
def folder(mesh, tmp_path_factory):
  """Where the code of the page is run: exports, and packages beside them."""
  home = tmp_path_factory.mktemp("javascript")
  names = ("ENCODER", "NAMES", "ANSWERS")
  exports = served.of_page(tmp_path_factory.mktemp("exports"), mesh, names)
  for name, export in exports.items():
    (home / name).symlink_to(export)
  (home / "node_modules").symlink_to(PACKAGES)
  return home


def run(folder, name, expression, inputs):
  """Returns what node finds with a block, after what the block prints.

  Args:
    folder: see the fixture.
    name: the export that the block opens.
    expression: of a promise, for an input `x`.
    inputs: values that JSON has.
  """
  (block,) = (block for block in BLOCKS if f'"./{name}"' in block)
  script = folder / f"{name}.mjs"
  script.write_text(
    f"{block}\nconst found = [];\n"
    f"for (const x of {json.dumps(inputs)}) found.push(await {expression});\n"
    "console.log(JSON.stringify(found));\n"
  )
  command = [NODE, script.name]
  done = subprocess.run(
    command, cwd=folder, capture_output=True, text=True, timeout=SECONDS
  )
  assert done.returncode == 0, done.stderr
  *printed, last = done.stdout.strip().split("\n")
  assert printed
  return json.loads(last)


def units(text, place):
  """A place in a text as JavaScript counts it."""
  return len(text[:place].encode("utf-16-le")) // 2


def of_length_one(vectors):
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_vectors_are_those_of_python(folder):
  call = 'encode(x, { pooling: "mean", normalize: true })'
  found = run(folder, "ENCODER", f"({call}).then((y) => y.tolist())", [TEXTS])
  expected = of_length_one(np.array(load(folder / "ENCODER")(TEXTS)))
  np.testing.assert_allclose(found[0], expected, atol=1e-5)


def test_names_are_those_of_python(folder):
  found = run(folder, "NAMES", "findNames(tagger, x)", TEXTS)
  expected = [
    [
      {
        "type": entity["type"],
        "start": units(text, entity["start"]),
        "end": units(text, entity["end"]),
        "text": entity["text"],
      }
      for entity in one["entities"]
    ]
    for text, one in zip(TEXTS, load(folder / "NAMES")(TEXTS), strict=True)
  ]
  assert found == expected
  assert sum(map(len, found)) > len(TEXTS)


def test_answers_are_those_of_python(folder):
  call = "findAnswer(reader, x.question, x.context)"
  found = run(folder, "ANSWERS", call, QUESTIONS)
  expected = load(folder / "ANSWERS")(QUESTIONS)
  for item, one, other in zip(QUESTIONS, found, expected, strict=True):
    start = units(item["context"], other["start"])
    assert (one["answer"], one["start"]) == (other["answer"], start)
    assert one["score"] == pytest.approx(other["score"], abs=1e-5)


class Handler(http.server.SimpleHTTPRequestHandler):
  """Serves a folder, and takes what a page sends."""

  def __init__(self, *args, sent, **options):
    self._sent = sent
    super().__init__(*args, **options)

  def do_POST(self):
    self._sent.put(self.rfile.read(int(self.headers["Content-Length"])))
    self.send_response(204)
    self.end_headers()

  def log_message(self, *args):
    pass


@pytest.fixture
def site(folder):
  """(address of the folder, a queue of what is sent there)."""
  sent = queue.Queue()
  handler = functools.partial(Handler, directory=folder, sent=sent)
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  yield f"http://127.0.0.1:{server.server_port}/", sent
  server.shutdown()
  server.server_close()


@pytest.mark.skipif(not BROWSER, reason="needs a browser: install chromium")
def test_the_page_shows_what_python_finds(folder, site, tmp_path):
  (page,) = HTML
  address, sent = site
  # The page says what it shows, or what went wrong.
  send = "fetch('/', {{ method: 'POST', body: {} }})".format
  page = page.replace("</script>", f"  {send('shown.textContent')};\n</script>")
  listen = f"<script>onerror = (error) => {send('error')};</script>\n"
  page = page.replace("<script type", f"{listen}<script type")
  (folder / "index.html").write_text(page)
  flags = ("--headless", "--no-sandbox", f"--user-data-dir={tmp_path}")
  command = [BROWSER, *flags, "--remote-debugging-port=0", address]
  with (
    open(tmp_path / "log", "w") as log,
    subprocess.Popen(command, stderr=log, start_new_session=True) as browser,
  ):
    try:
      shown = sent.get(timeout=SECONDS).decode()
    finally:
      os.killpg(browser.pid, signal.SIGKILL)
  texts = ["Small is fast.", "It works."]
  assert all(f'"{text}"' in page for text in texts)
  a, b = of_length_one(np.array(load(folder / "ENCODER")(texts)))
  assert re.fullmatch(r"-?[\d.]+", shown), shown
  assert float(shown) == pytest.approx(a @ b, abs=1e-5)
