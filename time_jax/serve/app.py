"""The server as an ASGI application: requests in JSON, metrics for Prometheus.

  POST /predict   {"inputs": [item, ...]} -> {"outputs": [what is found, ...]}
  GET  /health    that the model is there, and what it is
  GET  /metrics   counts and times

What is wrong with a request is said as {"error": ...}: 400 inputs that cannot
be read, 408 a body that comes too slowly, 413 a body that is too large, 415
another type than JSON, 503 a server that is busy or takes too long.
"""

import asyncio
import concurrent.futures
import dataclasses
import functools
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import prometheus_client
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from time_jax.core.errors import without_secrets
from time_jax.serve.items import InputError
from time_jax.serve.model import Model

_JSON = "application/json"
_EXPECTED = '{"inputs": [...]}'
_KNOWN = "POST /predict, GET /health or GET /metrics"
# One thread computes while another one tokenises.
_THREADS = 2
_GONE = 499  # nginx's number for a client that did not wait


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a request may take.

  Attributes:
    max_bytes: bytes of its body.
    timeout: seconds that its body may take to come; and again, in which its
      answer must be there.
    waiting: requests that are being answered at once, waiting ones included.
    max_inputs: inputs of a request: their answers may be far larger than they.
  """

  max_bytes: int = 1_000_000
  timeout: float = 30.0
  waiting: int = 64
  max_inputs: int = 1024


class _TooLateError(Exception):
  """Nobody waits any more for what is computed."""


class Service:
  """Answers requests with a model."""

  def __init__(
    self, model: Model, about: dict[str, Any], limits: Limits
  ) -> None:
    """Prepares the service.

    Args:
      model: the model.
      about: what /health says of it.
      limits: what a request may take.
    """
    self._model, self._about, self._limits = model, about, limits
    self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS, "predict")
    self._waiting = 0
    self._registry = prometheus_client.CollectorRegistry()
    options: dict[str, Any] = {"registry": self._registry}
    self._requests = prometheus_client.Counter(
      "time_jax_requests", "Requests, by HTTP status.", ["status"], **options
    )
    self._items = prometheus_client.Counter(
      "time_jax_items", "Items that were answered.", **options
    )
    self._seconds = prometheus_client.Histogram(
      "time_jax_seconds",
      "Seconds from a request's head to its answer.",
      **options,
    )
    gauge = prometheus_client.Gauge(
      "time_jax_waiting", "Requests that are being answered.", **options
    )
    gauge.set_function(lambda: self._waiting)

  def app(self) -> Starlette:
    """Returns the application."""
    routes = [
      Route("/predict", self._counted(self.predict), methods=["POST"]),
      Route("/health", self.health),
      Route("/metrics", self.metrics),
    ]
    handlers: Any = {HTTPException: _refusal, Exception: _failure}
    return Starlette(
      routes=routes,
      exception_handlers=handlers,
    )

  async def health(self, request: Request) -> Response:
    """Says that the model is there."""
    del request
    return JSONResponse({"status": "ok", **self._about})

  async def metrics(self, request: Request) -> Response:
    """Returns the metrics as Prometheus reads them."""
    del request
    return Response(
      prometheus_client.generate_latest(self._registry),
      media_type=prometheus_client.CONTENT_TYPE_LATEST,
    )

  async def predict(self, request: Request) -> Response:
    """Returns what the model finds for the inputs of a request."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind.lower() != _JSON:
      raise HTTPException(
        415,
        f"the body is of type {kind!r:.60}; expected -H 'Content-Type: "
        f"{_JSON}'.",
      )
    items = _items(await self._body(request))
    if len(items) > self._limits.max_inputs:
      raise HTTPException(
        413,
        f"{len(items):,} inputs; expected at most {self._limits.max_inputs:,} "
        "at once.",
      )
    if self._waiting >= self._limits.waiting:
      raise HTTPException(
        503,
        f"{self._waiting} requests are being answered; try again.",
        headers={"Retry-After": "1"},
      )
    self._waiting += 1
    try:
      deadline = time.monotonic() + self._limits.timeout
      compute = functools.partial(self._compute, items, deadline)
      loop = asyncio.get_running_loop()
      content = await loop.run_in_executor(self._threads, compute)
    finally:
      self._waiting -= 1
    self._items.inc(len(items))
    return Response(content, media_type=_JSON)

  async def _body(self, request: Request) -> bytes:
    """Returns the body; raises HTTPException if it is large or slow."""
    limit = self._limits.max_bytes
    too_large = HTTPException(
      413,
      f"the body has more than {limit:,} bytes; send fewer inputs at once.",
      headers={"Connection": "close"},
    )
    if int(request.headers.get("content-length", 0)) > limit:
      raise too_large
    body = bytearray()
    try:
      async with asyncio.timeout(self._limits.timeout):
        async for part in request.stream():
          body += part
          if len(body) > limit:
            raise too_large
    except TimeoutError:
      raise HTTPException(
        408,
        f"the body was not there after {self._limits.timeout:g} s.",
        headers={"Connection": "close"},
      ) from None
    return bytes(body)

  def _compute(self, items: list[Any], deadline: float) -> bytes:
    """Returns the body of an answer; raises HTTPException if there is none."""

    def beat() -> None:
      if time.monotonic() > deadline:
        raise _TooLateError

    try:
      beat()
      outputs = self._model(items, beat)
      beat()
    except InputError as error:
      raise HTTPException(400, str(error)) from None
    except _TooLateError:
      raise HTTPException(
        503,
        f"no answer within {self._limits.timeout:g} s; send fewer inputs "
        "at once, or try again.",
        headers={"Retry-After": "1"},
      ) from None
    content = {"outputs": outputs}
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode()

  def _counted(
    self, answer: Callable[[Request], Awaitable[Response]]
  ) -> Callable[[Request], Awaitable[Response]]:
    """Returns a function that counts what a function answers, and times it."""

    async def counted(request: Request) -> Response:
      status = 500
      start = time.monotonic()
      try:
        response = await answer(request)
        status = response.status_code
      except HTTPException as error:
        status = error.status_code
        raise
      except ClientDisconnect:
        status = _GONE
        response = Response(status_code=status)  # Nobody reads it.
      finally:
        self._requests.labels(status).inc()
        self._seconds.observe(time.monotonic() - start)
      return response

    return counted


def _items(body: bytes) -> list[Any]:
  """Returns the inputs that a body holds.

  Raises:
    HTTPException: it holds none.
  """
  try:
    content = json.loads(body)
  except (ValueError, RecursionError) as error:
    raise HTTPException(
      400, f"the body is not JSON: {error}; expected {_EXPECTED}."
    ) from None
  items = content.get("inputs") if isinstance(content, dict) else None
  if not isinstance(items, list):
    shown = repr(content)[:60]
    raise HTTPException(400, f"the body is {shown}; expected {_EXPECTED}.")
  return items


async def _refusal(request: Request, error: HTTPException) -> Response:
  """Says what is wrong with a request."""
  del request
  detail = error.detail
  if error.status_code in (404, 405):
    detail += f"; expected {_KNOWN}."
  return JSONResponse(
    {"error": detail}, error.status_code, headers=error.headers
  )


async def _failure(request: Request, error: Exception) -> Response:
  """Answers where the server is at fault; the log has the traceback."""
  del request
  reason = without_secrets(f"{type(error).__name__}: {error}")
  return JSONResponse({"error": f"the server failed: {reason}"}, 500)
