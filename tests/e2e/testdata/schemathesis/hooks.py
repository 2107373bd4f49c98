"""What schemathesis is told of Aetherium: how to keep what its requests make
within bounds, and how to send what it has no serializer for."""

import collections
import itertools
import os
import re

import requests
import schemathesis
from schemathesis.specs.openapi.checks import negative_data_rejection

API = os.environ["AETHERIUM_TEST_API"]
KEY = {"Authorization": "Bearer " + os.environ["AETHERIUM_TEST_KEY"]}

# A VM that runs and two of its executions, one that has ended and one that
# takes input: identifiers made at random lead to little but 404.
STEADY_VM = os.environ["AETHERIUM_TEST_VM"]
STEADY_EXECUTIONS = os.environ["AETHERIUM_TEST_EXECUTIONS"].split(",")
ENDING = ("delete-vm", "stop-vm", "pause-vm", "patch-vm")  # left to other VMs

# The key that all requests are made with has to stay what it is.
OWN_KEY = requests.get(f"{API}/me", headers=KEY, timeout=30).json().get("key_id")

# VMs and snapshots that the requests may leave standing at a time; the oldest
# goes when there are more.
KEPT = 6
COMMAND_MS = 2000
FORKS = 2
# A request waits for less time than it has, for each of the copies that it asks for.
WAIT_MS = 10_000
WAITING = ("create-vm", "fork-vm", "start-vm", "stop-vm", "pause-vm", "resume-vm", "delete-vm")
# A body of hundreds of megabytes says no more than one of kilobytes.
ITEM_BYTES = 16
TOOL = re.compile("(?:[a-z]+:@?)?[A-Za-z0-9][A-Za-z0-9._/-]*(?:@[A-Za-z0-9][A-Za-z0-9._+-]*)?")

kept = {"vms": collections.deque(), "snapshots": collections.deque()}


def operation(case):
    return case.operation.definition.raw.get("operationId")


@schemathesis.serializer("application/x-tar")
def tar(ctx, value):
    return {"data": value if isinstance(value, bytes) else str(value).encode()}


def holds_null(value):
    if isinstance(value, dict):
        return any(holds_null(v) for v in value.values())
    return value is None or isinstance(value, list) and any(holds_null(v) for v in value)


@schemathesis.check
def refuses_invalid_data(ctx, response, case):
    """negative_data_rejection, but null is as good as absent, and 413 and 414 refuse as well."""
    if not holds_null(case.body) and response.status_code not in (413, 414):
        return negative_data_rejection(ctx, response, case)


turn = itertools.count()


def aim(case, name):
    """Lets three of four well-formed requests reach something that is there."""
    path = case.path_parameters or {}
    n = next(turn)
    if name in ENDING and path.get("vm") == STEADY_VM:
        path["vm"] = "other"
    if n % 4 == 0:
        return
    if re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]{0,62}", str(path.get("vm", ""))) and name not in ENDING:  # longer is not well formed
        path["vm"] = STEADY_VM
    if case.path.startswith("/executions/") and re.fullmatch("[a-z0-9]{20}", str(path.get("id", ""))):
        path["id"] = STEADY_EXECUTIONS[n % 2]
    # With a key that was used before, the request would go no further.
    if (case.headers or {}).get("Idempotency-Key", "").isalnum():
        case.headers["Idempotency-Key"] = f"{os.getpid()}-{n}"


def run(body):
    """Bounds a command, and lets arguments made at random follow a program."""
    if not body.get("timeout_ms"):
        body["timeout_ms"] = COMMAND_MS
    args = body.get("args")
    if args and isinstance(args, list) and next(turn) % 2:
        body["args"] = ["echo", *args]
        body.pop("command", None)


def wait(case, least, most):
    """Lowers a wait that is well formed, and leaves what is to be refused."""
    asked = str((case.query or {}).get("wait_ms", ""))
    if asked.isascii() and asked.isdecimal() and least < int(asked) <= most:
        case.query["wait_ms"] = least


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body
    name = operation(case)
    aim(case, name)
    # What waits for something to happen waits for less time than requests have.
    if name == "get-vm-egress-log":
        wait(case, 100, 60_000)
    if name in WAITING or name == "get-task":
        wait(case, WAIT_MS, 600_000)
    if name in WAITING and "wait_ms" not in (case.query or {}):
        case.query = {**(case.query or {}), "wait_ms": WAIT_MS}
    if name in ("rotate-key", "revoke-key") and case.path_parameters.get("id") == OWN_KEY:
        case.path_parameters["id"] = "a" * 20
    # The template that VMs are made from has to stay.
    if name == "delete-template" and str(case.path_parameters.get("name")).startswith("base"):
        case.path_parameters["name"] = "other"
    if not isinstance(body, dict):
        return
    if name in ("execute", "start-execution"):
        run(body)
    if isinstance(body.get("args"), list) and len(body["args"]) > 64:
        body["args"] = [a[:ITEM_BYTES] if isinstance(a, str) else a for a in body["args"]]
    tools = body.get("tools")
    if isinstance(tools, list) and 0 < len(tools) <= 16 and all(isinstance(t, str) and TOOL.fullmatch(t) for t in tools):
        body["tools"] = ["git"]  # which templates have: nothing is installed
    if name == "fork-vm" and isinstance(body.get("count"), int) and FORKS < body["count"] <= 100:
        body["count"] = FORKS
    # Nothing is told to who has not asked for it: no webhook leads to another host.
    if name == "create-webhook" and str(body.get("url")).lower().startswith("http"):
        body["url"] = "https://localhost:1/none"
    # A build that goes as far as asking a registry asks one that is not there.
    source = body.get("source")
    if name == "build-template" and isinstance(source, dict):
        if source.pop("packages", None) or source.get("image"):
            source["image"] = "127.0.0.1:1/none"


@schemathesis.hook
def after_call(context, case, response):
    name = operation(case)
    if response.status_code not in (201, 202):
        return
    if name in ("create-vm", "fork-vm"):
        made = response.json()
        for vm in made.get("items") or [made.get("vm") or made]:
            keep("vms", vm["id"])
    elif name == "create-snapshot":
        keep("snapshots", response.json()["id"])


def keep(kind, id):
    kept[kind].append(id)
    while len(kept[kind]) > KEPT:
        # A VM that is not gone within its time goes on to.
        params = {"wait_ms": WAIT_MS} if kind == "vms" else None
        requests.delete(f"{API}/{kind}/{kept[kind].popleft()}", headers=KEY, params=params, timeout=30)
