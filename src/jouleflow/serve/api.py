"""The protocol's addresses over HTTP, and what each does. Model control is on its own listener."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from time import monotonic
from typing import Any

import orjson

from jouleflow.errors import InputError
from jouleflow.policy.job import End, Result
from jouleflow.serve import describe
from jouleflow.serve.access import Access, Gate
from jouleflow.serve.control import check_load, check_unload, ready_only
from jouleflow.serve.history import History
from jouleflow.serve.metrics import CONTENT_TYPE, exposition
from jouleflow.serve.oip import LARGE_JSON_BYTES, Header, encode_answer
from jouleflow.serve.openapi import document
from jouleflow.serve.page import PAGE, PAGE_HEADERS, page_file
from jouleflow.serve.request import JSON_HEADERS, Headers, Request, answer_head
from jouleflow.serve.request_error import RequestError
from jouleflow.serve.server import Server
from jouleflow.serve.shared_memory_http import REGIONS, carry_out, is_read

MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(infer|ready|stats|config))?")
CONTROL = re.compile(r"/v2/repository/models/([^/]+)/(load|unload)")
OTHERS = ("/v2/health/live", "/v2/health/ready", "/metrics")
LENGTH = b"inference-header-content-length"
MAX_KNOWN, MAX_ANSWERS, MAX_REFUSALS, MAX_DIGITS = 64, 8, 256, 10
RETRY_AFTER: Headers = ((b"retry-after", b"1"),)


class WrongMethod(RequestError):
    """The address is there, for other methods."""

    def __init__(self, method: bytes, allowed: bytes) -> None:
        super().__init__(405, f"{method.decode('latin-1')[:20]} is not answered here: use {allowed.decode()}")
        self.allowed = allowed


class Api:
    """Answers requests. admin: whether this listener may load and unload models."""

    def __init__(self, server: Server, access: Access, history: History, admin: bool = False) -> None:
        self.server, self.gate, self.history, self.admin = server, Gate(access), history, admin
        self._tasks: set[asyncio.Task[None]] = set()
        self._targets: dict[bytes, tuple[str, str | None]] = {}  # of requests to infer
        self._refusals: dict[tuple[int, str, int], bytes] = {}  # answers by status, message and when to ask again

    def __call__(self, request: Request) -> None:
        refused = self.gate.refusal(request.headers)
        if refused is not None:
            answer_error(request, *refused, ((b"www-authenticate", b"Bearer"),) if refused[0] == 401 else ())
            return
        try:
            self._route(request)
        except (RequestError, InputError, KeyError) as error:
            answer_problem(request, error)
        except Exception:
            logging.exception("a request could not be answered")
            if request.answer is None:
                answer_error(request, 500, "the server failed at this request")

    def _route(self, request: Request) -> None:
        named = self._targets.get(request.target)
        if named is not None and request.method == b"POST":
            self._infer(request, *named)
            return
        path, post = request.path, request.method == b"POST"
        found = MODEL.fullmatch(path)
        if found and found[3] == "infer":
            _require(post, request, b"POST")
            if len(self._targets) < MAX_KNOWN:
                self._targets[request.target] = found[1], found[2]
            self._infer(request, found[1], found[2])
        elif path == "/v2/repository/index":
            _require(post, request, b"POST")
            self._only_admin()
            _json(request, describe.index(self.server, ready_only(request.body)))
        elif control := CONTROL.fullmatch(path):
            _require(post, request, b"POST")
            self._only_admin()
            self._control(request, control[1], control[2])
        elif region := REGIONS.fullmatch(path):
            self._region(request, region)
        else:
            self._read(request, path, found)

    def _read(self, request: Request, path: str, found: re.Match[str] | None) -> None:
        server = self.server
        plain: dict[str, Callable[[], Any]] = {
            "/v2": lambda: describe.server_metadata(server, self.admin),
            "/v2/": lambda: describe.server_metadata(server, self.admin),
            "/live.json": self.history.live,
            "/openapi.json": lambda: document(self.server, self.admin, bool(self.gate.access.token)),
            "/v2/models/stats": lambda: {"model_stats": [describe.statistics(m) for m in server.models.values()]},
        }
        if path not in plain and path not in OTHERS and path not in PAGE and not found:
            raise RequestError(404, "there is nothing at this address")
        _require(request.method in (b"GET", b"HEAD"), request, b"GET, HEAD")
        if path in plain:
            _json(request, plain[path]())
        elif path == "/v2/health/live":
            _json(request, {"live": True})
        elif path == "/v2/health/ready":
            _json(request, {"ready": server.ready}, 200 if server.ready else 503)
        elif path in PAGE:
            kind, content = page_file(path)
            request.respond(200, ((b"content-type", kind), *PAGE_HEADERS), content)
        elif path == "/metrics":
            request.respond(200, ((b"content-type", CONTENT_TYPE.encode()),), exposition(self.history))
        else:
            assert found is not None
            served = server.find(found[1], found[2])
            if found[3] == "ready":
                _json(request, {"name": served.spec.name, "ready": served.ready}, 200 if served.ready else 503)
            elif found[3] == "stats":
                _json(request, {"model_stats": [describe.statistics(served)]})
            elif found[3] == "config":
                _json(request, describe.model_config(served))
            else:
                _json(request, describe.model_metadata(served))

    def _infer(self, request: Request, name: str, version: str | None, read: Header | None = None) -> None:
        """read: the header of a large request in JSON, once it was read."""
        served = self.server.find(name, version)
        given = request.headers.get(LENGTH)
        body = request.body
        if given is None:
            if read is None and len(body) > LARGE_JSON_BYTES:
                self._read_large(request, name, version)
                return
            header_bytes, header = None, read or served.decoder.header_of(body, None)
        elif given.isdigit() and len(given) <= MAX_DIGITS:
            header_bytes = int(given)
            header = served.decoder.header_of(body, header_bytes)
        else:
            raise RequestError(400, f"Inference-Header-Content-Length must be a number of at most {MAX_DIGITS} digits")
        now_s = monotonic()
        again = self.server.refused_again(served, header, now_s)
        if again is not None:
            self._refused(request, again)
            return
        ask = served.decoder.ask(header, body, header_bytes)

        def done(result: Result) -> None:
            if result.end is not End.COMPLETED:
                self._refused(request, result)
                return
            values = result.values
            shapes = tuple([shape for _, shape, _ in values])
            head = header.answers.get(shapes)
            if head is not None:
                request.respond_with(head, [raw for _, _, raw in values])
                return
            spec = served.spec
            text, binary = encode_answer(spec.name, spec.version, header.id, header.wanted, values)
            if len(binary) < len(values):
                request.respond(200, JSON_HEADERS if not binary else _binary_headers(text), text, *binary)
                return
            head = answer_head(200, _binary_headers(text), len(text) + sum(map(len, binary))) + text
            if all(datatype != "BYTES" for datatype, _, _ in values) and len(header.answers) < MAX_ANSWERS:
                header.answers[shapes] = head
            request.respond_with(head, binary)

        job = served.job(ask, now_s - request.waited_s, done)
        if read is None and request.n_body > job.size_bytes:
            job.size_bytes = request.n_body  # kept until it is answered, whatever else is in it
        request.job = job
        self.server.offer(served, job, request.waited_s)

    def _read_large(self, request: Request, name: str, version: str | None) -> None:
        """Has a large request in JSON read beside everything else, and then takes it in."""
        arrived_s = monotonic()

        async def read() -> None:
            served = header = None
            try:
                while served is not self.server.find(name, version):  # first, and when another was loaded meanwhile
                    served = self.server.find(name, version)
                    header = await served.decoder.header_of_large(request.body)
                assert served is not None
                assert header is not None
                request.waited_s += monotonic() - arrived_s  # its deadline counts from when it came
                self._infer(request, name, version, header)
                request.forget_body()
            except (RequestError, InputError, KeyError) as error:
                answer_problem(request, error)
            except Exception as unexpected:
                answer_error(request, 500, f"{type(unexpected).__name__} while it was read")
                raise

        self.server.reading.start(request, read)

    def _refused(self, request: Request, result: Result) -> None:
        """Answers that there is no result; what is said often is kept."""
        said = result.status, result.message, max(1, round(result.retry_s + 0.5))
        answer = self._refusals.get(said)
        if answer is None:
            more: Headers = ((b"retry-after", b"%d" % said[2]),) if said[0] in (429, 503) else ()
            text = orjson.dumps({"error": said[1]})
            answer = answer_head(said[0], (*JSON_HEADERS, *more), len(text)) + text
            if len(self._refusals) >= MAX_REFUSALS:
                self._refusals.clear()
            self._refusals[said] = answer
        request.respond_with(answer, ())

    def _region(self, request: Request, found: re.Match[str]) -> None:
        self.server.regions.check_on()
        if is_read(found):
            _require(request.method in (b"GET", b"HEAD"), request, b"GET, HEAD")
            _json(request, carry_out(self.server.regions, found, request.body))
        else:
            _require(request.method == b"POST", request, b"POST")
            carry_out(self.server.regions, found, request.body)
            request.respond(200, ())

    def _only_admin(self) -> None:
        if not self.admin:
            raise RequestError(403, "model control is on the admin listener only; see --admin")

    def _control(self, request: Request, name: str, what: str) -> None:
        (check_load if what == "load" else check_unload)(request.body)
        if what == "unload":
            self.server.find(name)

        async def work() -> None:
            try:
                await (self.server.load(name) if what == "load" else self.server.unload(name))
                request.respond(200, ())
            except InputError as error:
                answer_error(request, 400, str(error))
            except Exception:
                answer_error(request, 500, f"the server could not {what} it")
                raise

        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _binary_headers(text: bytes) -> Headers:
    return (b"content-type", b"application/octet-stream"), (LENGTH, b"%d" % len(text))


def _require(holds: bool, request: Request, allowed: bytes) -> None:
    if not holds:
        raise WrongMethod(request.method, allowed)


def _json(request: Request, value: Any, status: int = 200) -> None:
    request.respond(status, JSON_HEADERS, orjson.dumps(value))


def answer_problem(request: Request, error: RequestError | InputError | KeyError) -> None:
    """Answers with what is wrong with a request."""
    if isinstance(error, WrongMethod):
        answer_error(request, error.status, str(error), ((b"allow", error.allowed),))
    elif isinstance(error, RequestError):
        answer_error(request, error.status, str(error), RETRY_AFTER if error.status == 503 else ())
    elif isinstance(error, InputError):
        answer_error(request, 400, str(error))
    else:
        answer_error(request, 404, str(error.args[0]))


def answer_error(request: Request, status: int, message: str, more: Headers = ()) -> None:
    """Answers with a status and a sentence, as JSON."""
    request.respond(status, (*JSON_HEADERS, *more), orjson.dumps({"error": message}))
