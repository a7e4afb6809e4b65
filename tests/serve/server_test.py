"""The server: what it answers, refuses and survives, over real sockets."""

import concurrent.futures
import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import served

from time_jax.serve import load
from time_jax.serve.command import main

RUN = "from time_jax.serve.command import run; run()"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def export(mesh, tmp_path_factory):
  return served.export("ner", tmp_path_factory.mktemp("export"), mesh)


# A server whose model waits while a file exists, at the input "hold".
HOLD = """
import os, time
from time_jax.serve import tagger
whole = tagger.Tagger.__call__
def held(self, items, beat=lambda: None):
  while items == ["hold"] and os.path.exists({path!r}):
    beat()
    time.sleep(0.01)
  if items == ["fail"]:
    raise ValueError("disk on fire")
  return whole(self, items, beat)
tagger.Tagger.__call__ = held
"""


@contextlib.contextmanager
def serving(export, *flags, change=""):
  """Yields the process of a server and its port.

  Args:
    export: the model's folder.
    *flags: of the server.
    change: a program that is run before it.
  """
  program = [sys.executable, "-c", change + RUN]
  words = [*program, str(export), "--port=0", *flags]
  with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
    try:
      line = process.stdout.readline()
      yield process, int(re.search(r"http://127\.0\.0\.1:(\d+)", line)[1])
    finally:
      process.kill()


@pytest.fixture(scope="module")
def port(export):
  flags = "--max_bytes=20000", "--timeout=3", "--max_inputs=100"
  with serving(export, *flags) as (_, port):
    yield port


def ask(port, body, method="POST", path="/predict", headers=JSON):
  """Returns the status and the content of an answer."""
  connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
  if not isinstance(body, bytes):
    body = json.dumps(body).encode()
  connection.request(method, path, body, headers)
  response = connection.getresponse()
  content = response.read()
  connection.close()
  is_json = response.getheader("Content-Type") == "application/json"
  return response.status, json.loads(content) if is_json else content.decode()


def test_the_answer_is_that_of_the_function(port, export):
  items = served.ITEMS["ner"]
  status, content = ask(port, {"inputs": items})
  assert status == 200 and [found["tags"] for found in content["outputs"]] == [
    found["tags"] for found in load(export)(items)
  ]
  assert ask(port, {"inputs": []}) == (200, {"outputs": []})


def test_it_says_what_it_is(port):
  status, content = ask(port, b"", "GET", "/health")
  assert (status, content["status"], content["task"]) == (200, "ok", "ner")
  assert ask(port, {"inputs": [content["example"]]})[0] == 200


REFUSED = [
  (b"", 400, "the body is not JSON"),
  (b"{", 400, "the body is not JSON"),
  (b"[" * 9000, 400, "the body is not JSON"),
  (b"\xff", 400, "the body is not JSON"),
  ([1], 400, 'the body is [1]; expected {"inputs": [...]}'),
  ({"inputs": "a"}, 400, 'expected {"inputs": [...]}'),
  ({"inputs": ["a", 3]}, 400, "inputs[1] is 3; expected a sentence"),
  ({"inputs": ["\ud800"]}, 400, "half of a surrogate pair"),
  (b"a" * 20001, 413, "has more than 20,000 bytes"),
  ({"inputs": ["a"] * 101}, 413, "101 inputs; expected at most 100 at once"),
]


@pytest.mark.parametrize(("body", "status", "message"), REFUSED)
def test_what_cannot_be_read_is_refused(port, body, status, message):
  got, content = ask(port, body)
  assert got == status
  assert message in content["error"]


def test_other_requests_are_refused(port):
  plain = {"Content-Type": "text/plain"}
  status, content = ask(port, b"{}", headers=plain)
  assert status == 415 and "-H 'Content-Type: application/json'" in str(content)
  for method, path, status in (("GET", "/predict", 405), ("GET", "/", 404)):
    got, content = ask(port, b"", method, path)
    assert got == status
    assert "expected POST /predict, GET /health or" in content["error"]


def test_a_body_without_a_length_is_counted(port):
  parts = iter([b'{"inputs": ["', b"a" * 15000, b"b" * 15000, b'"]}'])
  connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
  with contextlib.suppress(OSError):  # It answers before all was sent.
    connection.request("POST", "/predict", parts, JSON, encode_chunked=True)
  assert connection.getresponse().status == 413


def test_a_slow_client_is_not_waited_for(port):
  head = "POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n"
  head += "Content-Type: application/json\r\n\r\n{"
  with socket.create_connection(("127.0.0.1", port), timeout=30) as slow:
    slow.sendall(head.encode())
    # Others are answered meanwhile.
    assert ask(port, {"inputs": ["a"]})[0] == 200
    answer = b"".join(iter(lambda: slow.recv(1000), b"")).decode()
    assert answer.startswith("HTTP/1.1 408") and "after 3 s" in answer
  with socket.create_connection(("127.0.0.1", port), timeout=30) as gone:
    gone.sendall(head.encode())
  wait_for(port, 'time_jax_requests_total{status="499"} 1.0')
  wait_for(port, "time_jax_waiting 0.0")


def test_many_at_once_get_their_own_answers(export):
  items = [f"Anna{'x' * i} bor i Warszawa ." for i in range(40)]
  expected = [found["words"] for found in load(export)(items)]
  with (
    serving(export) as (_, port),
    concurrent.futures.ThreadPoolExecutor(8) as pool,
  ):
    answers = pool.map(lambda item: ask(port, {"inputs": [item]}), items)
    found = [content["outputs"][0]["words"] for _, content in answers]
    assert found == expected
    _, metrics = ask(port, b"", "GET", "/metrics")
  assert 'time_jax_requests_total{status="200"} 40.0' in metrics
  assert "time_jax_items_total 40.0" in metrics
  assert "time_jax_waiting 0.0" in metrics


def wait_for(port, line):
  """Waits until the metrics of a server have a line."""
  end = time.monotonic() + 30
  while line not in ask(port, b"", "GET", "/metrics")[1]:
    assert time.monotonic() < end, line
    time.sleep(0.01)


@pytest.fixture
def hold(tmp_path):
  """A file that holds the answer to "hold" back, and the change to a server."""
  path = tmp_path / "hold"
  path.touch()
  return path, HOLD.format(path=str(path))


def test_what_takes_too_long_is_given_up_and_too_many_are_refused(export, hold):
  _, change = hold
  flags = "--timeout=1", "--waiting=1"
  with serving(export, *flags, change=change) as (_, port):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      late = pool.submit(ask, port, {"inputs": ["hold"]})
      wait_for(port, "time_jax_waiting 1.0")
      status, content = ask(port, {"inputs": ["a"]})
      assert status == 503
      assert "1 requests are being answered" in content["error"]
      status, content = late.result()
    assert status == 503 and "no answer within 1 s" in content["error"]
    assert ask(port, {"inputs": ["a"]})[0] == 200


def test_told_to_stop_it_ends_what_it_has_begun(export, hold):
  path, change = hold
  with serving(export, change=change) as (process, port):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      answer = pool.submit(ask, port, {"inputs": ["hold"]})
      wait_for(port, "time_jax_waiting 1.0")
      process.send_signal(signal.SIGTERM)
      path.unlink()
      assert answer.result()[0] == 200
    output = process.stdout.read()
    assert process.wait(timeout=30) == 0
  assert "Stopped." in output
  with pytest.raises(OSError):
    ask(port, {"inputs": ["a"]})


def test_told_to_stop_as_soon_as_it_is_there(export):
  with serving(export) as (process, _):
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0


def test_a_failure_is_the_servers(export, hold):
  """The body is sound, the model is not: 500, and the server goes on."""
  _, change = hold
  with serving(export, change=change) as (_, port):
    status, content = ask(port, {"inputs": ["fail"]})
    assert status == 500 and "ValueError: disk on fire" in content["error"]
    assert ask(port, {"inputs": ["a"]})[0] == 200


def test_a_port_that_is_taken_is_told(export, capsys):
  with socket.create_server(("127.0.0.1", 0)) as taken:
    number = taken.getsockname()[1]
    assert main([str(export), f"--port={number}"]) == 2
  assert "expected an address of this machine and a port" in (
    capsys.readouterr().err
  )


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--host=nowhere.invalid"], "--host=nowhere.invalid"),
    (["--host=a..b"], "--host=a..b"),
    ([], "no folder at"),
  ],
)
def test_wrong_flags_give_a_line(capsys, tmp_path, flags, message):
  assert main([str(tmp_path / "none"), "--port=0", *flags]) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
  "flag", ["--timeout=0", "--max_bytes=a", "--port=99999", "--wait=3"]
)
def test_wrong_numbers_are_refused(capsys, tmp_path, flag):
  with pytest.raises(SystemExit, match="2"):
    main([str(tmp_path), flag])
  assert flag.partition("=")[0] in capsys.readouterr().err
