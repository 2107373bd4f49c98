"""What E2B's Python SDK does, synchronous and asynchronous, by the package that
is installed in this interpreter's environment. Each check prints one line of JSON."""

import asyncio
import datetime
import http.client
import http.server
import inspect
import io
import json
import os
import signal
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

import httpx
from connectrpc.errors import ConnectError
from e2b import AsyncSandbox, AsyncTemplate, ConnectionConfig, Sandbox, SandboxQuery, SandboxState, Template
from e2b import exceptions as ex
from e2b.sandbox.sandbox_api import SandboxEgressProxyOpts, SandboxNetworkOpts
from e2b.sandbox.commands.command_handle import CommandExitException, PtySize
from e2b.sandbox_sync.commands.command import Commands
from e2b.sandbox_sync.filesystem.filesystem import Filesystem

try:
    from e2b import AsyncVolume, Volume
except ImportError:  # of before there were volumes
    Volume = None

# TEST_LIMIT is how many seconds a check may take, which only ends one that hangs,
# TEST_FEATURES which are wanted.
LIMIT = int(os.environ.get("TEST_LIMIT", "300"))
FEATURES = os.environ.get("TEST_FEATURES")
SCHEME = os.environ.get("TEST_SCHEME", "https")
MARK = f"py {time.time_ns()} a&b=c é"
CHECKS = []
made = []


def tell(**line):
    print(json.dumps(line), flush=True)


class TooLong(Exception):
    pass


def too_long(*_):
    raise TooLong("it did not end in time")


signal.signal(signal.SIGALRM, too_long)

# GONE is what a request to a sandbox fails with that is not running.
GONE = getattr(ex, "SandboxNotRunningException", ex.TimeoutException)


def check(feature, name, when=lambda: True):
    def take(f):
        CHECKS.append((feature, name, when, f))
        return f

    return take


def run(feature, name, when, f):
    if FEATURES and feature not in FEATURES.split(","):
        return
    if not when():
        tell(feature=feature, check=name, skip="this version has none")
        return
    signal.alarm(LIMIT)
    try:
        result = f()
        if asyncio.iscoroutine(result):
            asyncio.run(result)
        tell(feature=feature, check=name, ok=True)
    except BaseException as err:  # whatever it is, it is told
        tell(feature=feature, check=name, ok=False, error=f"{type(err).__name__}: {err}")
        if isinstance(err, KeyboardInterrupt):
            raise
    finally:
        signal.alarm(0)


class fails:
    """A block that must fail with one of some classes, and with none below them."""

    def __init__(self, *kinds):
        self.kinds, self.error = kinds, None

    def __enter__(self):
        return self

    def __exit__(self, kind, err, _):
        assert kind is not None, f"it did not fail with {self.kinds}"
        if issubclass(kind, TooLong):
            return False
        assert kind in self.kinds, f"it failed with {kind.__module__}.{kind.__name__} ({err}), not with {self.kinds}"
        self.error = err
        return True


def until(f):
    """Waits for something to become so, which no event tells of."""
    while True:
        v = f()
        if v:
            return v
        time.sleep(0.05)


# DRIVER is what the sandboxes are to be on. Copies of them go on with what ran
# in their origin where it keeps memory.
DRIVER = os.environ["TEST_DRIVER"]
KEEPS = DRIVER != "oci"


def on_driver(s):
    url = f"{os.environ['TEST_API']}/api/v1/vms/{s.sandbox_id}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {os.environ['E2B_API_KEY']}"})
    with urllib.request.urlopen(request, timeout=LIMIT) as resp:
        vm = json.load(resp)
    assert vm["driver"] == DRIVER, vm["driver"]


# PATIENT has a sandbox's requests wait as long as a check may take: by themselves
# they end after a minute, which is less than what is slow may need.
PATIENT = {"request_timeout": LIMIT}


def make(*args, **kw):
    s = Sandbox.create(*args, **PATIENT, **kw)
    made.append(s)
    on_driver(s)
    return s


def everything(paginator):
    items = []
    while paginator.has_next:
        items.extend(paginator.next_items())
    return items


def visit(host, path, headers=None, send=None):
    """A request to a name below the sandboxes' domain, which need not resolve
    on this host: they are all on loopback."""
    name, _, port = host.partition(":")
    kind = http.client.HTTPConnection if SCHEME == "http" else http.client.HTTPSConnection
    conn = kind("127.0.0.1", int(port or (80 if SCHEME == "http" else 443)), timeout=LIMIT)
    if SCHEME == "https":  # by its name, for the certificate
        import socket

        conn._create_connection = lambda _, *a, **k: socket.create_connection(("127.0.0.1", conn.port), *a, **k)
        conn.host = name
    try:
        conn.request("GET" if send is None else "POST", path, body=send, headers={"Host": host, **(headers or {})})
        resp = conn.getresponse()
        return resp.status, resp.read().decode()
    finally:
        conn.close()


def runs(s, text):
    return any(text in " ".join(p.args) for p in s.commands.list())


def sbx():
    return made[0]


# NOBODY is no process's number.
NOBODY = 999_999


@check("create", "a sandbox with metadata, environment and a timeout")
def _():
    s = make("base", metadata={"mark": MARK}, envs={"FROM_CREATE": "yes"}, timeout=3600)  # other checks go on with it
    assert s.sandbox_id.isalnum()
    assert s.commands.run("echo $FROM_CREATE").stdout == "yes\n"


@check("create", "a template that there is not")
def _():
    with fails(ex.SandboxException):
        make("no-such-template")


@check("create", "a key that does not count")
def _():
    with fails(ex.AuthenticationException):
        make("base", api_key="e2b_" + "0" * 40)


@check("create", "an idempotency key makes one", lambda: "idempotency_key" in Sandbox.create.__code__.co_varnames)
def _():
    key = f"key-{time.time_ns()}"
    a, b = make("base", idempotency_key=key), make("base", idempotency_key=key)
    assert a.sandbox_id == b.sandbox_id
    a.kill()


@check("getInfo", "what a sandbox is")
def _():
    info = sbx().get_info()
    assert info.sandbox_id == sbx().sandbox_id and info.name == "base" and info.metadata["mark"] == MARK
    assert info.state == SandboxState.RUNNING and info.cpu_count >= 1 and info.memory_mb >= 64
    assert abs((info.end_at - info.started_at).total_seconds() - 3600) < 2


@check("getInfo", "a sandbox that there is not")
def _():
    with fails(ex.SandboxNotFoundException):
        Sandbox.get_info("a" * 20)


@check("isRunning", "a running one")
def _():
    assert sbx().is_running()


@check("setTimeout", "longer and shorter")
def _():
    for seconds in (900, 300, 3600):  # the last is what the other checks have
        before = time.time()
        sbx().set_timeout(seconds)
        after = time.time()
        end = sbx().get_info().end_at.timestamp()
        assert before - 2 < end - seconds < after + 2, (before, end, after)


@check("setTimeout", "the end of its time")
def _():
    s = make("base", timeout=600)
    s.set_timeout(1)
    until(lambda: not s.is_running())
    with fails(ex.SandboxNotFoundException):
        s.get_info()


@check("list", "by metadata, with odd characters")
def _():
    items = everything(Sandbox.list(query=SandboxQuery(metadata={"mark": MARK})))
    assert [i.sandbox_id for i in items] == [sbx().sandbox_id]


@check("list", "in pages")
def _():
    more = [make("base", metadata={"page": MARK}) for _ in range(3)]
    pages = Sandbox.list(limit=2, query=SandboxQuery(metadata={"page": MARK}))
    first = pages.next_items()
    assert len(first) == 2 and pages.has_next
    second = pages.next_items()
    assert not pages.has_next
    assert sorted(i.sandbox_id for i in first + second) == sorted(s.sandbox_id for s in more)
    for s in more:
        s.kill()


@check("commands", "output, exit codes and errors")
def _():
    r = sbx().commands.run('echo out; echo err >&2; printf "é€😀"')
    assert (r.exit_code, r.stdout, r.stderr) == (0, "out\né€😀", "err\n")
    with fails(CommandExitException) as f:
        sbx().commands.run("echo broken >&2; exit 7")
    assert (f.error.exit_code, f.error.stderr) == (7, "broken\n")


@check("commands", "user, directory and environment")
def _():
    assert sbx().commands.run("whoami; pwd").stdout == "user\n/home/user\n"
    assert sbx().commands.run("whoami; pwd; echo $X", user="root", cwd="/tmp", envs={"X": "a b"}).stdout == "root\n/tmp\na b\n"
    with fails(ex.InvalidArgumentException):
        sbx().commands.run("true", cwd="/no/such/directory")
    with fails(ex.AuthenticationException):
        sbx().commands.run("true", user="nobody-here")


@check("commands", "callbacks as output comes")
def _():
    out, err = [], []
    cmd = sbx().commands.run("for i in 1 2 3; do echo e$i >&2; read a || exit 9; echo $i; read a || exit 9; done", background=True, stdin=True)

    def take(to):
        def heard(text):  # it writes no more until it is told to
            to.append(text)
            sbx().commands.send_stdin(cmd.pid, "on\n")

        return heard

    r = cmd.wait(on_stdout=take(out), on_stderr=take(err))
    assert (r.exit_code, out, err) == (0, ["1\n", "2\n", "3\n"], ["e1\n", "e2\n", "e3\n"]), (r, out, err)


@check("commands", "much output")
def _():
    assert len(sbx().commands.run("seq 1 300000").stdout) == 1988895


@check("commands", "in the background, with input")
def _():
    cmd = sbx().commands.run("read a; echo got $a; cat; echo done", background=True, stdin=True)
    sbx().commands.send_stdin(cmd.pid, "first\n")
    sbx().commands.close_stdin(cmd.pid)
    assert cmd.wait().stdout == "got first\ndone\n"


@check("commands", "input in a stream", lambda: hasattr(Commands, "stream_input"))
def _():
    s = sbx()
    lines = [f"line {i}\n" for i in range(1000)]
    cmd = s.commands.run("cat", background=True, stdin=True)
    s.commands.stream_input(cmd.pid, lines)
    s.commands.close_stdin(cmd.pid)
    assert cmd.wait().stdout == "".join(lines)
    with fails(ex.NotFoundException):
        s.commands.stream_input(NOBODY, ["x"])
    pty = s.pty.create(PtySize(rows=24, cols=80))
    s.pty.stream_input(pty.pid, [b"echo str", b"eamed\n", b"exit 4\n"])
    out = bytearray()
    with fails(CommandExitException) as f:
        for _, _, data in pty:
            out.extend(data or b"")
        pty.wait()
    assert f.error.exit_code == 4 and b"\rstreamed\r" in out, (f.error.exit_code, out)


@check("commands", "input in many pieces")
def _():
    s = sbx()
    cmd = s.commands.run("cat", background=True, stdin=True)
    for i in range(200):
        s.commands.send_stdin(cmd.pid, f"{i}\n")
    s.commands.close_stdin(cmd.pid)
    assert cmd.wait().stdout == "".join(f"{i}\n" for i in range(200))


@check("commands", "list, connect and kill")
def _():
    s = sbx()
    cmd = s.commands.run("echo started; exec sleep 1000", background=True, timeout=0)
    assert any(p.pid == cmd.pid and "sleep 1000" in " ".join(p.args) for p in s.commands.list())
    again = s.commands.connect(cmd.pid)
    assert again.pid == cmd.pid
    assert s.commands.kill(cmd.pid) is True
    with fails(CommandExitException):
        cmd.wait()
    with fails(CommandExitException):
        again.wait()
    assert s.commands.kill(cmd.pid) is False
    with fails(ex.NotFoundException):
        s.commands.connect(999999)


@check("commands", "a timeout")
def _():
    with fails(ex.TimeoutException):
        sbx().commands.run("sleep 1000", timeout=1)
    until(lambda: not runs(sbx(), "sleep 1000"))


@check("commands", "a dropped connection leaves the command running")
def _():
    cmd = sbx().commands.run("sleep 2; echo survived > /tmp/survived", background=True)
    cmd.disconnect()
    until(lambda: sbx().files.exists("/tmp/survived") and sbx().files.read("/tmp/survived") == "survived\n")


@check("pty", "a terminal: input, output, size and end")
def _():
    s = sbx()
    pty = s.pty.create(PtySize(rows=24, cols=80), envs={"IN_PTY": "yes"})
    send = lambda text: s.pty.send_stdin(pty.pid, text.encode())
    out = bytearray()

    def read(*wanted):
        for _, _, data in pty:
            if data:
                out.extend(data)
            if all(w in out for w in wanted):
                return

    send('echo "<$IN_PTY>"; stty size\n')
    read(b"<yes>", b"24 80")
    s.pty.resize(pty.pid, PtySize(rows=30, cols=100))
    send("stty size\n")
    read(b"30 100")
    send("exit 0\n")
    assert pty.wait().exit_code == 0


@check("pty", "connect and kill")
def _():
    pty = sbx().pty.create(PtySize(rows=24, cols=80))
    again = sbx().pty.connect(pty.pid)
    sbx().pty.send_stdin(pty.pid, b'echo a""gain\n')
    out = bytearray()
    for _, _, data in again:
        out.extend(data or b"")
        if b"again" in out:
            break
    again.disconnect()
    assert sbx().pty.kill(pty.pid)
    with fails(CommandExitException):
        pty.wait()


@check("files", "write and read in every form")
def _():
    f = sbx().files
    assert f.write("dir/text.txt", "héllo").path == "/home/user/dir/text.txt"
    assert f.read("dir/text.txt") == "héllo"
    data = bytes(i % 251 for i in range(100_000))
    f.write("/tmp/bytes", data)
    assert bytes(f.read("/tmp/bytes", format="bytes")) == data
    assert b"".join(f.read("/tmp/bytes", format="stream")) == data
    import io

    f.write("/tmp/stream", io.BytesIO(data))
    assert bytes(f.read("/tmp/stream", format="bytes")) == data
    many = f.write_files([{"path": "m/1", "data": "one"}, {"path": "m/2", "data": "two"}])
    assert len(many) == 2 and f.read("m/2") == "two"


@check("files", "compressed on its way")
def _():
    f, text = sbx().files, "the same again and again, " * 40_000
    f.write("packed", text, gzip=True)
    assert sbx().commands.run("stat -c %s packed").stdout == f"{len(text)}\n"
    assert f.read("packed", gzip=True) == text and f.read("packed") == text
    assert bytes(f.read("packed", format="bytes", gzip=True)) == text.encode()
    assert b"".join(f.read("packed", format="stream", gzip=True)) == text.encode()


@check("files", "metadata", lambda: "metadata" in inspect.signature(Filesystem.write).parameters)
def _():
    f, kept = sbx().files, {"owner": "a b", "n": "1"}
    assert f.write("about/told", "x", metadata={"Owner": "a b", "n": "1"}).metadata == kept
    assert f.write("about/packed", "x", metadata=kept, gzip=True).metadata == kept
    assert f.get_info("about/told").metadata == kept
    f.write("about/plain", "x")
    assert {e.name: e.metadata for e in f.list("about")} == {"told": kept, "packed": kept, "plain": None}
    assert f.rename("about/told", "about/moved").metadata == kept
    # It is where E2B has it.
    read = "import os; print(os.getxattr('about/moved', 'user.e2b.owner').decode())"
    assert sbx().commands.run(f'python3 -c "{read}"').stdout == "a b\n"
    for bad in ({"a key": "x"}, {"": "x"}, {"k": "a\nb"}):
        with fails(ex.InvalidArgumentException):
            f.write("about/bad", "x", metadata=bad)
    assert not f.exists("about/bad")


@check("files", "a large file")
def _():
    data = os.urandom(32 << 20)
    sbx().files.write("/tmp/big", data)
    assert bytes(sbx().files.read("/tmp/big", format="bytes")) == data


@check("files", "list, stat, move, make and remove")
def _():
    s = sbx()
    assert s.files.make_dir("made/deep") is True
    assert s.files.make_dir("made/deep") is False
    s.files.write("made/deep/f", "x")
    s.commands.run("ln -s /etc/hostname made/link; chmod 640 made/deep/f")
    entries = s.files.list("made", depth=2)
    assert sorted(e.path for e in entries) == ["/home/user/made/deep", "/home/user/made/deep/f", "/home/user/made/link"]
    info = s.files.get_info("made/deep/f")
    assert (info.size, info.permissions, info.owner) == (1, "-rw-r-----", "user")
    assert next(e for e in entries if e.name == "link").symlink_target == "/etc/hostname"
    assert s.files.rename("made/deep/f", "made/other/g").path == "/home/user/made/other/g"
    assert not s.files.exists("made/deep/f")
    s.files.remove("made")
    assert not s.files.exists("made")


@check("files", "errors and users")
def _():
    f = sbx().files
    with fails(ex.FileNotFoundException):
        f.read("/no/such/file")
    with fails(ex.FileNotFoundException):
        f.list("/no/such/directory")
    f.write("/root/secret", "s", user="root")
    assert f.read("/root/secret", user="root") == "s"
    with fails(ex.SandboxException):
        f.read("/root/secret")


@check("files", "watch")
def _():
    f = sbx().files
    f.make_dir("watched")
    handle = f.watch_dir("watched", recursive=True)
    f.write("watched/new", "1")
    seen = []
    until(lambda: seen.extend(handle.get_new_events()) or any(e.name == "new" for e in seen))
    f.remove("watched/new")
    until(lambda: seen.extend(handle.get_new_events()) or any(e.name == "new" and "remove" in str(e.type).lower() for e in seen))
    handle.stop()
    with fails(ex.FileNotFoundException):
        f.watch_dir("no/such")


@check("files", "signed URLs")
def _():
    s = sbx()

    def call(url, data=None, kind=None):
        # With E2B_SANDBOX_URL a URL names no sandbox: it is asked for by its name.
        headers = {}
        if os.environ.get("E2B_SANDBOX_URL"):
            u = urllib.parse.urlsplit(url)
            url = os.environ["E2B_SANDBOX_URL"] + u.path + "?" + u.query
            headers["E2b-Sandbox-Id"] = s.sandbox_id
        if kind:
            headers["Content-Type"] = kind
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data=data, headers=headers), timeout=20) as r:
                return r.status, r.read()
        except urllib.error.HTTPError as err:
            return err.code, err.read()

    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="signed.txt"\r\n\r\nby url\r\n--b--\r\n'
    status, body = call(s.upload_url("signed.txt", use_signature_expiration=60), form, "multipart/form-data; boundary=b")
    assert status == 200, body
    down = s.download_url("signed.txt", use_signature_expiration=60)
    assert call(down) == (200, b"by url")
    assert call(down.replace("signature=v1_", "signature=v1_x"))[0] == 401
    assert call(s.download_url("signed.txt", use_signature_expiration=-10))[0] == 401  # signed well, for a time that is over


@check("getHost", "a server in the sandbox")
def _():
    s = sbx()
    cmd = s.commands.run("echo served > /tmp/index.html; exec python3 -m http.server 8001 --directory /tmp", background=True, timeout=0)
    host = s.get_host(8001)
    until(lambda: visit(host, "/")[0] == 200)
    assert visit(host, "/index.html") == (200, "served\n")
    cmd.kill()
    until(lambda: visit(host, "/")[0] == 502)


@check("getHost", "a traffic token")
def _():
    s = make("base", network={"allow_public_traffic": False})
    s.commands.run("exec python3 -m http.server 8000 --directory /tmp", background=True, timeout=0)
    get = lambda headers: visit(s.get_host(8000), "/", headers)[0]
    assert s.traffic_access_token
    until(lambda: get({"e2b-traffic-access-token": s.traffic_access_token}) == 200)
    assert get({"e2b-traffic-access-token": "wrong"}) == 403
    assert get({}) in (401, 403)
    s.kill()


SERVE = """
import http.server, ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")
server = http.server.HTTPServer(("", 8443), http.server.SimpleHTTPRequestHandler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


@check("getHost", "a server that speaks TLS itself", lambda: "https_ports" in SandboxNetworkOpts.__annotations__)
def _():
    s = make("base", network={"https_ports": [8443]})
    assert s.get_info().network["https_ports"] == [8443]
    s.commands.run("openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=own -keyout key.pem -out cert.pem 2>&1")
    s.files.write("serve.py", SERVE)
    s.commands.run("exec python3 serve.py", background=True, timeout=0)
    until(lambda: visit(s.get_host(8443), "/")[0] == 200)
    assert "BEGIN CERTIFICATE" in visit(s.get_host(8443), "/cert.pem")[1]
    s.kill()


@check("metrics", "what a sandbox uses")
def _():
    m = until(lambda: sbx().get_metrics())[0]
    assert m.cpu_count >= 1 and m.mem_total > 0 and m.mem_used > 0 and m.disk_total > 0


@check("network", "rules are set, shown and replaced")
def _():
    s = make("base", network={"deny_out": ["0.0.0.0/0"], "allow_out": ["203.0.113.7"]})

    def shown():
        n = s.get_info().network
        get = n.get if isinstance(n, dict) else lambda k: getattr(n, k, None)
        return get("allow_out") or [], get("deny_out") or []

    assert shown() == (["203.0.113.7"], ["0.0.0.0/0"]), shown()
    s.update_network({"deny_out": ["203.0.113.0/24"]})
    assert shown() == ([], ["203.0.113.0/24"]), shown()
    with fails(ex.SandboxException):
        s.update_network({"deny_out": ["not a network"]})
    if "dns_servers" in SandboxNetworkOpts.__annotations__:
        s.update_network({"dns_servers": ["203.0.113.53"]})
        assert s.get_info().network["dns_servers"] == ["203.0.113.53"]
        s.update_network({"deny_out": ["203.0.113.0/24"]})
        assert "dns_servers" not in s.get_info().network
    s.kill()


@check("network", "what cannot be had is refused")
def _():
    rules = {"a.example": [{"transform": {"headers": {"Authorization": "Bearer ${e2b.identity.tokens.x}"}}}]}
    for network, why in [
        ({"rules": rules}, "identities"),
        ({"egress_proxy": {"address": "proxy"}}, "address"),
        *([({"dns_servers": []}, "DNS server")] if "dns_servers" in SandboxNetworkOpts.__annotations__ else []),
        *([({"egress_proxy": {"address": "proxy.example:1080", "tls": True}}, "TLS")] if "tls" in SandboxEgressProxyOpts.__annotations__ else []),
    ]:
        with fails(ex.SandboxException) as f:
            make("base", network=network)
        assert why in str(f.error), f.error
    s = make("base")
    with fails(ex.SandboxException) as f:
        s.update_network({"rules": rules})
    assert "identities" in str(f.error), f.error
    s.update_network({"rules": {"a.example": [{"transform": {"headers": {"Authorization": "Bearer x"}}}]}})
    assert s.get_info().network["rules"] == {"a.example": [{"transform": {"headers": {"Authorization": "***"}}}]}
    assert "aetherium-egress" in s.commands.run("echo $NODE_EXTRA_CA_CERTS; test -s $NODE_EXTRA_CA_CERTS").stdout
    s.update_network({"egress_proxy": {"address": "proxy.example:1080", "username": "u", "password": "p"}})
    assert s.get_info().network["egress_proxy"] == {"address": "proxy.example:1080", "username": "u"}
    s.update_network({"rules": {"a.example": [{}]}, "allow_out": lambda ctx: list(ctx.rules.keys()), "deny_out": ["0.0.0.0/0"]})
    assert s.get_info().network["allow_out"] == ["a.example"]
    s.kill()


# What is outside is beside this host: an address answers with its own name.
OUTSIDE = os.environ.get("TEST_OUTSIDE", "").split(",")


def reaches(s):
    return [s.commands.run(f"curl -sf -m 10 http://{a}/ || true").stdout == f"this is {a}\n" for a in OUTSIDE]


@check("network", "no internet")
def _():
    open_to_all, s = make("base"), make("base", allow_internet_access=False)
    assert reaches(open_to_all) == [True, True]
    assert reaches(s) == [False, False]
    open_to_all.kill()
    s.kill()


@check("network", "rules decide what is reached")
def _():
    here = OUTSIDE[0]
    s = make("base", network={"deny_out": ["0.0.0.0/0"], "allow_out": [here]})
    assert reaches(s) == [True, False]
    s.update_network({"deny_out": [here + "/32"]})
    assert reaches(s) == [False, True]
    s.update_network({"deny_out": ["0.0.0.0/0"]})
    assert reaches(s) == [False, False]
    s.update_network({})
    assert reaches(s) == [True, True]
    s.kill()


@check("pause", "pause and connect")
def _():
    s = make("base", timeout=300)
    s.files.write("kept", "as it was")
    s.pause()
    s.pause()  # again is no error
    assert s.get_info().state == SandboxState.PAUSED
    assert not s.is_running()
    assert any(i.sandbox_id == s.sandbox_id for i in everything(Sandbox.list(query=SandboxQuery(state=[SandboxState.PAUSED]))))
    with fails(GONE):
        s.commands.run("true")
    again = Sandbox.connect(s.sandbox_id, timeout=400, **PATIENT)
    assert again.sandbox_id == s.sandbox_id and again.files.read("kept") == "as it was"
    assert again.get_info().state == SandboxState.RUNNING
    s.kill()


@check("pause", "processes go on from where they were")
def _():
    s = make("base")
    s.commands.run("sleep 5000", background=True, timeout=0)
    s.pause()
    again = Sandbox.connect(s.sandbox_id, **PATIENT)
    assert runs(again, "sleep 5000")
    again.kill()


@check("pause", "at the end of its time, and woken by traffic")
def _():
    s = make("base", timeout=300, lifecycle={"on_timeout": "pause", "auto_resume": True})
    s.files.write("kept", "x")
    s.set_timeout(1)
    until(lambda: s.get_info().state == SandboxState.PAUSED)
    before = time.time()
    assert s.commands.run("cat kept", timeout=0).stdout == "x"
    info = s.get_info()
    assert info.state == SandboxState.RUNNING
    assert info.end_at.timestamp() - before > 200, "it was woken for a moment only"
    s.kill()


@check("connect", "never shortens, and what there is not")
def _():
    before = time.time()
    sbx().set_timeout(3600)
    Sandbox.connect(sbx().sandbox_id, timeout=1, **PATIENT)
    assert sbx().get_info().end_at.timestamp() - before > 3500
    with fails(ex.SandboxNotFoundException):
        Sandbox.connect("a" * 20, **PATIENT)


@check("snapshots", "make, list, use and delete")
def _():
    s = sbx()
    s.files.write("in-snapshot", "yes")
    cmd = s.commands.run("exec sleep 6000", background=True, timeout=0)
    snap = s.create_snapshot()
    assert any(x.snapshot_id == snap.snapshot_id for x in everything(Sandbox.list_snapshots(sandbox_id=s.sandbox_id)))
    other = make(snap.snapshot_id)
    assert other.files.read("in-snapshot") == "yes"
    assert (runs(s, "sleep 6000"), runs(other, "sleep 6000")) == (True, KEEPS)
    other.kill()
    assert cmd.kill()
    assert Sandbox.delete_snapshot(snap.snapshot_id) is True
    assert Sandbox.delete_snapshot(snap.snapshot_id) is False


@check("snapshots", "by a name")
def _():
    name = f"py-snap-{time.time_ns()}"
    snap = sbx().create_snapshot(name=name)
    assert name in snap.names
    other = make(name)
    assert other.files.read("in-snapshot") == "yes"
    other.kill()
    assert Sandbox.delete_snapshot(snap.snapshot_id) is True


@check("fork", "several at once")
def _():
    s = sbx()
    s.files.write("forked", "from here")
    cmd = s.commands.run("exec sleep 7000", background=True, timeout=0)
    forks = s.fork(count=2)
    for f in forks:
        assert not isinstance(f, Exception), f
    assert len({f.sandbox_id for f in forks}) == 2
    for f in forks:
        on_driver(f)
        assert f.files.read("forked") == "from here"
        assert runs(f, "sleep 7000") is KEEPS
        f.files.write("forked", "apart")
        f.kill()
    assert s.files.read("forked") == "from here"
    assert cmd.kill()


@check("Template", "from a template: commands, files, environment, user and start")
def _():
    with tempfile.TemporaryDirectory() as d:
        os.makedirs(f"{d}/app/deep")
        for name, text in {"app/one.txt": "one\n", "app/deep/two.txt": "two\n", "single.txt": "single\n"}.items():
            with open(f"{d}/{name}", "w") as f:
                f.write(text)
        name = f"py-template-{time.time_ns()}"
        template = (
            Template(file_context_path=d)
            .from_template("base")
            .set_envs({"IN_TEMPLATE": 'a "b" c'})
            .run_cmd('echo "made by $(whoami) in $PWD" > made')
            .run_cmd(["echo root > /made-by-root", "whoami >> /made-by-root"], user="root")
            .set_workdir("/home/user/work")
            .copy("app", "app")
            .copy("single.txt", "/home/user/")
            .copy("single.txt", "/opt/tool", mode=0o750, user="root")
            .set_start_cmd("python3 -m http.server 8123 --directory /home/user", "curl -sf http://127.0.0.1:8123/single.txt")
        )
        lines = []
        built = Template.build(template, name, cpu_count=1, memory_mb=512, on_build_logs=lambda line: lines.append(line.message))
    assert built.build_id and built.template_id
    assert any("made by" in line for line in lines), lines
    assert Template.exists(name) is True and Template.exists(name + "-not") is False
    s = make(name)
    assert s.get_info().memory_mb == 512
    for command, want in {
        "cat /home/user/made": "made by user in /home/user\n",
        "cat /made-by-root": "root\nroot\n",
        "cd /home/user/work/app && cat one.txt deep/two.txt ../../single.txt && stat -c %U one.txt": "one\ntwo\nsingle\nuser\n",
        'stat -c "%U %G %a" /opt/tool': "root root 750\n",
        'echo "$IN_TEMPLATE"': 'a "b" c\n',
        "curl -sf http://127.0.0.1:8123/single.txt": "single\n",
    }.items():
        got = s.commands.run(command).stdout
        assert got == want, (command, got)
    s.kill()
    assert Sandbox.delete_snapshot(name) is True


@check("Template", "from an image, and from one that needs credentials")
def _():
    registry = os.environ["TEST_REGISTRY"]
    good = {"username": "robot", "password": "pass: w0rd"}

    def build(template, name):
        return Template.build(template.run_cmd('echo "$OF_IMAGE $(id -un)" > made'), name, cpu_count=1, memory_mb=512)

    for image, credentials in [("open", {}), ("closed", good)]:
        name = f"py-{image}-{time.time_ns()}"
        build(Template().from_image(f"{registry}/{image}/shell:v1", **credentials), name)
        s = make(name)
        assert s.commands.run("cat made").stdout == "yes user\n"
        s.kill()
        Sandbox.delete_snapshot(name)
    for credentials in [{}, {**good, "password": "other-w0rd"}]:
        name = f"py-denied-{time.time_ns()}"
        with fails(ex.BuildException) as f:
            build(Template().from_image(f"{registry}/closed/shell:v1", **credentials), name)
        assert "w0rd" not in str(f.error), f.error
        Sandbox.delete_snapshot(name)
    with fails(ex.BuildException) as f:
        build(Template().from_aws_registry(f"{registry}/closed/shell:v1", access_key_id="a", secret_access_key="b", region="c"), "py-aws")
    assert "get-login-password" in str(f.error), f.error


@check("Template", "from an image, with files")
def _():
    with tempfile.TemporaryDirectory() as d:
        os.makedirs(f"{d}/app/deep")
        for name, text in {"app/deep/two.txt": "two\n", "single.txt": "single\n"}.items():
            with open(f"{d}/{name}", "w") as f:
                f.write(text)
        name = f"py-image-files-{time.time_ns()}"
        template = (
            Template(file_context_path=d)
            .from_image(f"{os.environ['TEST_REGISTRY']}/open/shell:v1")
            .copy("app", "app")
            .run_cmd("cat app/deep/two.txt > copied")
            .copy("single.txt", "/opt/tool", mode=0o750, user="root")
        )
        Template.build(template, name, cpu_count=1, memory_mb=512)
    s = make(name)
    assert s.files.read("copied") == "two\n"
    assert s.files.get_info("app/deep/two.txt").owner == "user"
    tool = s.files.get_info("/opt/tool")
    assert (tool.owner, tool.permissions, tool.size) == ("root", "-rwxr-x---", 7), tool
    s.kill()
    Sandbox.delete_snapshot(name)


@check("Template", "in the background")
def _():
    def ended(info):
        status = Template.get_build_status(info)
        return status if status.status.value in ("ready", "error") else None

    names = [f"py-background-{time.time_ns()}", f"py-background-broken-{time.time_ns()}"]
    well, ill = (
        Template.build_in_background(Template().from_template("base").run_cmd(command), name, cpu_count=1, memory_mb=512)
        for command, name in zip(["echo by and by | tee made", "echo why >&2; exit 9"], names)
    )
    status = until(lambda: ended(well))
    assert (status.status.value, status.build_id) == ("ready", well.build_id), status
    assert any("by and by" in e.message for e in status.log_entries), status.log_entries
    status = until(lambda: ended(ill))
    assert status.status.value == "error" and "9" in status.reason.message, status
    s = make(names[0])
    assert s.files.read("made") == "by and by\n"
    s.kill()
    for name in names:
        Sandbox.delete_snapshot(name)


@check("Template", "steps are made once, and anew where it is asked for")
def _():
    names = []

    def build(between=lambda t: t, **kw):
        """The steps' outcomes, each other whenever it is made."""
        steps = Template().from_template("base").run_cmd("cat /proc/sys/kernel/random/uuid > first")
        steps = between(steps).run_cmd("cat /proc/sys/kernel/random/uuid > second")
        names.append(f"py-steps-{time.time_ns()}")
        Template.build(steps, names[-1], cpu_count=1, memory_mb=512, **kw)
        s = make(names[-1])
        try:
            return s.files.read("first"), s.files.read("second")
        finally:
            s.kill()

    once, again = build(skip_cache=True), build()
    assert again == once
    from_there = build(lambda t: t.skip_cache())
    assert from_there[1] != once[1]
    anew = build(skip_cache=True)
    assert anew[0] not in (once[0], from_there[0]) and anew[1] not in (once[1], from_there[1])
    for name in names:
        Sandbox.delete_snapshot(name)


@check("Template", "tags are listed, assigned and removed")
def _():
    name = f"py-tags-{time.time_ns()}"

    def build(n, *tags):
        return Template.build(Template().from_template("base").run_cmd(f"echo {n} > n"), name, tags=list(tags), cpu_count=1, memory_mb=512)

    one = build(1, "v1", "stable").build_id
    two = build(2, "default").build_id

    def shown():
        return {t.tag: t.build_id for t in Template.get_tags(name)}

    assert shown() == {"default": two, "v1": one, "stable": one}, shown()
    tagged = Template.assign_tags(name, ["v2", "stable"])
    assert (tagged.build_id, tagged.tags) == (two, ["v2", "stable"])
    assert Template.assign_tags(name + ":v1", "default").build_id == one
    Template.remove_tags(name, "v1")
    Template.remove_tags(name, ["v1", "never"])
    assert shown() == {"default": one, "v2": two, "stable": two}, shown()
    for ref, n in [(name, "1"), (name + ":default", "1"), (name + ":stable", "2"), (two, "2")]:
        s = make(ref)
        assert s.commands.run("cat n").stdout.strip() == n, ref
        s.kill()
    with fails(ex.SandboxException):
        make(name + ":v1")
    with fails(ex.TemplateException):
        Template.assign_tags(name + ":none", "x")
    with fails(ex.TemplateException):
        Template.remove_tags(name, "default")
    with fails(ex.TemplateException):
        Template.get_tags(name + "-not")
    Sandbox.delete_snapshot(name)


@check("Template", "a command that fails")
def _():
    with fails(ex.BuildException) as f:
        Template.build(Template().from_template("base").run_cmd("echo why >&2; exit 9"), f"py-broken-{time.time_ns()}", cpu_count=1, memory_mb=512)
    assert "9" in str(f.error), f.error


@check("mcp", "a gateway in a template of that name")
def _():
    gateway = (
        Template(file_context_path=os.path.dirname(os.path.abspath(__file__)))
        .from_template("base")
        .copy("mcp-gateway", "/usr/local/bin/mcp-gateway", mode=0o755, user="root")
    )
    Template.build(gateway, "mcp-gateway", cpu_count=1, memory_mb=512)
    # Servers are added to a template of that name, which is one more build of it.
    Template.build(Template().from_template("mcp-gateway").add_mcp_server(["exa", "time"]), "mcp-gateway", cpu_count=1, memory_mb=512)
    s = make(mcp={"exa": {"apiKey": "it's a key"}})
    token = s.get_mcp_token()
    assert s.files.read("/etc/mcp-gateway/.token", user="root") == token
    assert s.get_mcp_url() == f"https://{s.get_host(50005)}/mcp"

    def ask(bearer):
        asked = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        return visit(s.get_host(50005), "/mcp", {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}, asked)

    tools = json.loads(ask(token)[1])["result"]["tools"]
    assert [(t["name"], json.loads(t["description"])) for t in tools] == [("exa", {"apiKey": "it's a key"})], tools
    assert ask("another")[0] == 401
    assert Sandbox.connect(s.sandbox_id, **PATIENT).get_mcp_token() == token
    s.kill()
    with fails(ex.SandboxException) as f:
        Sandbox.create(mcp={"absent": {}})
    assert "there is no server absent" in str(f.error), f.error
    Sandbox.delete_snapshot("mcp-gateway")


@check("metrics", "what it used before")
def _():
    def several():
        got = sbx().get_metrics()
        return got if len(got) > 1 else None

    points = until(several)
    first = points[0]
    assert first.mem_used > 0 and first.mem_total > 0 and first.cpu_used_pct >= 0 and first.timestamp < points[-1].timestamp
    second = datetime.timedelta(seconds=1)
    up_to = sbx().get_metrics(start=first.timestamp - second, end=first.timestamp)
    assert up_to[0] == first
    assert all(m.timestamp - first.timestamp < 2 * second for m in up_to)  # in whole seconds
    past = datetime.datetime.fromtimestamp(1e6, datetime.timezone.utc)
    assert sbx().get_metrics(start=past, end=past + second) == []


# What becomes of connections that break, by way of what breaks them as it is asked.
BREAKER = os.environ.get("TEST_BREAKER", "")
BY = {"api_url": BREAKER + "/e2b", "sandbox_url": BREAKER}
BUSY = (ex.SandboxException, getattr(ex, "ServiceBusyException", ex.SandboxException))
RETRYING = "retries" in ConnectionConfig.__init__.__code__.co_varnames
KEYED = "idempotency_key" in Sandbox.create.__code__.co_varnames


def broken(name, when=lambda: True):
    return check("connections", name, when) if BREAKER else lambda f: f


def breakage(method, body=None):
    request = urllib.request.Request(BREAKER + "/break", body and json.dumps(body).encode(), method=method)
    with urllib.request.urlopen(request) as resp:
        return json.loads(resp.read() or b"null")


def breaks(method, path, how, times=1, **more):
    breakage("PUT", {"method": method, "path": path, "how": how, "times": times, **more})


def attempts():
    return breakage("GET")["seen"]


def marked(m):
    return everything(Sandbox.list(query=SandboxQuery(metadata={"broken": m})))


@broken("a request that did not arrive makes nothing")
def _():
    metadata = {"broken": MARK + " unsent"}
    breaks("POST", "/sandboxes", "unsent")
    with fails(httpx.WriteError):
        make("base", metadata=metadata, **BY)
    assert (attempts(), len(marked(metadata["broken"]))) == (1, 0)
    make("base", metadata=metadata, **BY)
    assert len(marked(metadata["broken"])) == 1


@broken("a request whose answer is lost is not sent again")
def _():
    metadata = {"broken": MARK + " unanswered"}
    breaks("POST", "/sandboxes", "unanswered")
    with fails(httpx.WriteError):
        make("base", metadata=metadata, **BY)
    (left,) = marked(metadata["broken"])
    assert attempts() == 1
    Sandbox.kill(left.sandbox_id)


@broken("what an idempotency key made is made once, whatever became of the answers", lambda: KEYED)
def _():
    for how, status in (("unanswered", 0), ("replaced", 503), ("replaced", 429)):
        key = f"key-{time.time_ns()}"
        more = {"metadata": {"broken": key}, "idempotency_key": key, **BY}
        breaks("POST", "/sandboxes", how, status=status, times=2)
        if how == "unanswered":
            for _ in range(2):
                with fails(httpx.WriteError):
                    make("base", **more)
        s = make("base", **more)
        assert breakage("GET") == {"seen": 3, "keys": [key] * 3}
        assert [i.sandbox_id for i in marked(key)] == [s.sandbox_id]
        s.kill()


@broken("429 with Retry-After is heeded")
def _():
    breaks("GET", sbx().sandbox_id, "refused", status=429, times=2)
    if RETRYING:
        assert Sandbox.get_info(sbx().sandbox_id, **BY).sandbox_id == sbx().sandbox_id
        assert attempts() == 3
    else:
        with fails(ex.RateLimitException):
            Sandbox.get_info(sbx().sandbox_id, **BY)
        assert attempts() == 1


@broken("503 with Retry-After")
def _():
    breaks("GET", sbx().sandbox_id, "refused", status=503, times=9)
    with fails(getattr(ex, "ServiceBusyException", ex.SandboxException)):
        Sandbox.get_info(sbx().sandbox_id, **BY)
    assert attempts() == (4 if RETRYING else 1)


@broken("502, 503 and 504, which say nothing of when")
def _():
    for status in (502, 503, 504):
        breaks("GET", sbx().sandbox_id, "refused", status=status, times=9, mute=True)
        with fails(*BUSY):
            Sandbox.get_info(sbx().sandbox_id, **BY)
        assert attempts() == (4 if RETRYING else 1)
    metadata = {"broken": MARK + " refused"}
    breaks("POST", "/sandboxes", "refused", status=502, times=2, mute=True)
    if RETRYING:
        s = make("base", metadata=metadata, **BY)
        assert (attempts(), [i.sandbox_id for i in marked(metadata["broken"])]) == (3, [s.sandbox_id])
        s.kill()
    else:
        with fails(*BUSY):
            make("base", metadata=metadata, **BY)
        assert (attempts(), len(marked(metadata["broken"]))) == (1, 0)


class Late(http.server.BaseHTTPRequestHandler):
    """Knows of no sandbox."""

    def do_GET(self):
        body = b'{"code":404,"message":"there is none"}'
        self.send_response(404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def connect_late():
    """What becomes of a call whose first connection is refused and later ones are not, most times."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Late, bind_and_activate=False) as server:
        server.server_bind()  # taken, and still closed
        failure = []

        def call():
            try:
                Sandbox.get_info("a" * 20, api_url=f"http://127.0.0.1:{server.server_address[1]}/e2b")
            except BaseException as err:
                failure.append(err)

        caller = threading.Thread(target=call)
        caller.start()
        caller.join(0.15)
        server.server_activate()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        caller.join()
        server.shutdown()
    return failure[0]


@broken("a connection that cannot be made")
def _():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Late, bind_and_activate=False) as server:
        server.server_bind()
        with fails(httpx.ConnectError):
            Sandbox.get_info("a" * 20, api_url=f"http://127.0.0.1:{server.server_address[1]}/e2b")
    # It may have given up before there was one: not ever again.
    until(lambda: type(connect_late()) is ex.SandboxNotFoundException)


@broken("a request to the API that stalls")
def _():
    breaks("GET", sbx().sandbox_id, "stalled")
    with fails(httpx.ReadTimeout):
        Sandbox.get_info(sbx().sandbox_id, request_timeout=0.5, **BY)
    assert Sandbox.get_info(sbx().sandbox_id, **BY).state == SandboxState.RUNNING


@broken("a request to a sandbox that stalls")
def _():
    s = Sandbox.connect(sbx().sandbox_id, **PATIENT, **BY)
    breaks("POST", "/Start", "stalled")
    with fails(ex.TimeoutException):
        s.commands.run("true", timeout=0.5, request_timeout=0.5)
    breaks("POST", "/Stat", "stalled")
    with fails(ex.TimeoutException):
        s.files.get_info("/", request_timeout=0.5)
    breaks("GET", "/files", "stalled")
    with fails(httpx.ReadTimeout):
        s.files.read("/etc/hostname", request_timeout=0.5)
    assert s.commands.run("echo on").stdout == "on\n"


@broken("a command whose stream breaks runs on, and is found by its number")
def _():
    s = Sandbox.connect(sbx().sandbox_id, **PATIENT, **BY)
    breaks("POST", "/none", "")
    cmd = s.commands.run("echo begun; read a; seq 1 100000; exit 3", background=True, stdin=True)
    with fails(ConnectError):
        for stdout, _, _ in cmd:
            assert stdout == "begun\n"
            breakage("DELETE")
        cmd.wait()
    again = s.commands.connect(cmd.pid)
    s.commands.send_stdin(cmd.pid, "go\n")
    with fails(CommandExitException) as f:
        again.wait()
    assert f.error.exit_code == 3
    assert f.error.stdout == "".join(f"{i}\n" for i in range(1, 100001))


@broken("a command whose output nobody takes any more comes to its end")
def _():
    s = Sandbox.connect(sbx().sandbox_id, **PATIENT, **BY)
    breaks("POST", "/Start", "download", bytes=100_000)
    got = []
    with fails(ConnectError):
        s.commands.run("seq 1 1000000; echo whole > /tmp/py-whole", on_stdout=got.append)
    numbers = "".join(got).split("\n")[:-1]
    assert numbers and numbers == [str(i + 1) for i in range(len(numbers))]
    until(lambda: sbx().files.exists("/tmp/py-whole") and sbx().files.read("/tmp/py-whole") == "whole\n")


@broken("half an upload changes nothing")
def _():
    s = Sandbox.connect(sbx().sandbox_id, **PATIENT, **BY)
    sbx().files.write("halves/old", "as it was")
    for name in ("old", "new"):
        breaks("POST", "/files", "upload", bytes=1 << 20)
        with fails(httpx.WriteError):
            s.files.write("halves/" + name, "x" * (8 << 20))
    until(lambda: sbx().commands.run("ls -A halves").stdout == "old\n")
    assert sbx().files.read("halves/old") == "as it was"
    s.files.write("halves/old", "y" * (8 << 20))
    assert sbx().commands.run('stat -c "%U %s" halves/old').stdout == f"user {8 << 20}\n"


@broken("half a download is an error")
def _():
    s = Sandbox.connect(sbx().sandbox_id, **PATIENT, **BY)
    sbx().commands.run("base64 -w 0 /dev/urandom | head -c 8000000 > halves/down")
    for form in ("text", "bytes"):
        breaks("GET", "/files", "download", bytes=1 << 20)
        with fails(httpx.ReadError):
            s.files.read("halves/down", format=form)
        assert len(s.files.read("halves/down", format=form)) == 8000000


@check("kill", "once and again")
def _():
    s = make("base")
    assert s.kill() is True
    assert s.kill() is False
    assert not s.is_running()
    with fails(GONE):
        s.commands.run("true")


@check("kill", "while a command streams")
def _():
    s = make("base")
    cmd = s.commands.run("sleep 1000", background=True, timeout=0)
    s.kill()
    with fails(GONE):
        cmd.wait()


def gone(killed=[]):
    """A sandbox that there was."""
    if not killed:
        killed.append(make("base"))
        killed[0].kill()
    return killed[0]


# What is asked of a sandbox or a process that is not there, and how each fails.
for feature, name, call, kind in [
    ("setTimeout", "a sandbox that there is not", lambda: gone().set_timeout(60), ex.SandboxNotFoundException),
    ("pause", "a sandbox that there is not", lambda: gone().pause(), ex.SandboxNotFoundException),
    ("snapshots", "a sandbox that there is not", lambda: gone().create_snapshot(), ex.SandboxNotFoundException),
    ("fork", "a sandbox that there is not", lambda: gone().fork(), ex.SandboxNotFoundException),
    ("metrics", "a sandbox that there is not", lambda: gone().get_metrics(), ex.SandboxNotFoundException),
    ("network", "a sandbox that there is not", lambda: gone().update_network({}), ex.SandboxNotFoundException),
    ("files", "a sandbox that there is not", lambda: gone().files.read("/etc/hostname"), GONE),
    ("list", "a token of no page", lambda: Sandbox.list(next_token="bad").next_items(), ex.SandboxException),
    ("list", "a token of no page of snapshots", lambda: Sandbox.list_snapshots(next_token="bad").next_items(), ex.SandboxException),
    ("commands", "input to a process that there is not", lambda: sbx().commands.send_stdin(NOBODY, "x"), ex.NotFoundException),
    ("commands", "no more input to a process that there is not", lambda: sbx().commands.close_stdin(NOBODY), ex.NotFoundException),
    ("pty", "a terminal that there is not, connected to", lambda: sbx().pty.connect(NOBODY), ex.NotFoundException),
    ("pty", "a terminal that there is not, resized", lambda: sbx().pty.resize(NOBODY, PtySize(rows=24, cols=80)), ex.NotFoundException),
    ("pty", "input to a terminal that there is not", lambda: sbx().pty.send_stdin(NOBODY, b"x"), ex.NotFoundException),
]:

    @check(feature, name)
    def _(call=call, kind=kind):
        with fails(kind):
            call()


def has_volumes():
    return Volume is not None


def volume(name):
    return Volume.create(f"{name}-{time.time_ns()}")


@check("Volume", "create, list, look at and destroy", has_volumes)
def _():
    v = volume("py")
    assert v.volume_id and v.token
    info = Volume.get_info(v.volume_id)
    assert (info.volume_id, info.name, info.token) == (v.volume_id, v.name, v.token)
    assert [i.name for i in Volume.list() if i.volume_id == v.volume_id] == [v.name]
    with fails(ex.VolumeException):
        Volume.create(v.name)
    assert Volume.destroy(v.volume_id) is True
    assert Volume.destroy(v.volume_id) is False
    with fails(ex.VolumeNotFoundException):
        Volume.get_info(v.volume_id)


@check("Volume", "files: write, read, list, make, change and remove", has_volumes)
def _():
    v = Volume.connect(volume("py-files").volume_id)
    try:
        e = v.write_file("/a.txt", "héllo")
        assert (e.path, e.name, e.size, e.uid, e.mode & 0o777) == ("/a.txt", "a.txt", 6, 1000, 0o644), e
        assert v.read_file("a.txt") == "héllo"
        data = bytes(range(256)) * 4096
        v.write_file("b", io.BytesIO(data))
        assert v.read_file("b", format="bytes") == data
        assert b"".join(v.read_file("b", format="stream")) == data
        v.write_file("a.txt", "again", mode=0o600, uid=1234)
        e = v.get_info("a.txt")
        assert (e.size, e.uid, e.gid, e.mode & 0o777) == (5, 1234, 1000, 0o600), e
        assert v.update_metadata("a.txt", mode=0o640, gid=7).gid == 7
        with fails(ex.VolumePathNotFoundException):
            v.make_dir("d/e")
        assert v.make_dir("d/e", force=True).type == "directory"
        v.write_file("d/e/f", "x")
        assert [e.path for e in v.list("/")] == ["/a.txt", "/b", "/d"]
        assert [e.path for e in v.list("/d", depth=2)] == ["/d/e", "/d/e/f"]
        assert v.exists("d/e/f") and not v.exists("d/none")
        v.remove("d")
        assert not v.exists("d")
        for missing in (v.get_info, v.read_file, v.remove, v.list):
            with fails(ex.VolumePathNotFoundException):
                missing("none")
        with fails(ex.AuthenticationException):
            Volume(v.volume_id, v.name, token="0" * 40, domain=v._domain).read_file("a.txt")
    finally:
        assert Volume.destroy(v.volume_id)


@check("Volume", "in several sandboxes at once, and after them", has_volumes)
def _():
    v = volume("py-shared")
    v.write_file("given", "from outside")
    a, b = make("base", volume_mounts={"/mnt/data": v}), make("base", volume_mounts={"/data/deep": v.name})
    assert [(m["name"], m["path"]) for m in a.get_info().volume_mounts] == [(v.name, "/mnt/data")]
    assert a.commands.run("cat /mnt/data/given; mkdir /mnt/data/d; echo a >/mnt/data/d/f").stdout == "from outside"
    assert b.commands.run("cat /data/deep/d/f; echo b >>/data/deep/d/f; echo more >>/data/deep/given; ln -s /etc/passwd /data/deep/link").stdout == "a\n"
    assert a.files.read("/mnt/data/d/f") == "a\nb\n"
    a.pause()
    a.connect()
    assert a.commands.run("cat /mnt/data/given").stdout == "from outsidemore\n"
    assert v.get_info("link").target == "/etc/passwd"
    with fails(ex.VolumeException):
        v.read_file("link")
    with fails(ex.VolumeException):
        Volume.destroy(v.volume_id)
    s = a.create_snapshot()
    c = make(s.snapshot_id)  # has its origin's volumes, as they are now
    v.write_file("later", "x")
    assert c.commands.run("cat /mnt/data/later").stdout == "x"
    for s in (a, b, c):
        s.kill()
    assert v.read_file("d/f") == "a\nb\n"
    until(lambda: destroyed(v))


def destroyed(v):
    """Whether it could be: sandboxes take a moment to end."""
    try:
        return Volume.destroy(v.volume_id)
    except ex.VolumeException:
        return False


@check("Volume", "where a sandbox cannot have one", has_volumes)
def _():
    v = volume("py-where")
    try:
        for path in ("/etc", "/proc/x", "relative", "/mnt/../etc", "/"):
            with fails(ex.SandboxException):
                make("base", volume_mounts={path: v})
        with fails(ex.SandboxException):
            make("base", volume_mounts={"/mnt/a": v, "/mnt/a/b": v})
        with fails(ex.SandboxException):
            make("base", volume_mounts={"/mnt/a": "no-such-volume"})
    finally:
        assert Volume.destroy(v.volume_id)


@check("Volume", "by the asynchronous client", has_volumes)
async def _():
    v = await AsyncVolume.create(f"py-async-{time.time_ns()}")
    try:
        await v.write_file("a/b", "text", force=True)
        assert await v.read_file("a/b") == "text"
        assert [e.name for e in await v.list("/")] == ["a"]
    finally:
        assert await AsyncVolume.destroy(v.volume_id)


@check("async", "input in a stream", lambda: hasattr(Commands, "stream_input"))
async def _():
    s = await AsyncSandbox.connect(sbx().sandbox_id, **PATIENT)
    cmd = await s.commands.run("cat", background=True, stdin=True)
    async with s.commands.stream_input(cmd.pid) as handle:
        for i in range(1000):
            await handle.send(f"{i}\n")
    await s.commands.close_stdin(cmd.pid)
    assert (await cmd.wait()).stdout == "".join(f"{i}\n" for i in range(1000))


@check("async", "the asynchronous client")
async def _():
    s = await AsyncSandbox.create("base", **PATIENT, timeout=300)
    try:
        out = []
        r = await s.commands.run("echo one; echo two >&2", on_stdout=out.append)
        assert (r.stdout, r.stderr, "".join(out)) == ("one\n", "two\n", "one\n")
        rs = await asyncio.gather(*(s.commands.run(f"echo {i}") for i in range(10)))
        assert [r.stdout for r in rs] == [f"{i}\n" for i in range(10)]
        cmd = await s.commands.run("cat", background=True, stdin=True)
        await s.commands.send_stdin(cmd.pid, "in\n")
        assert await cmd.kill()
        await s.files.write("a", "b")
        assert await s.files.read("a") == "b"
        events = []
        handle = await s.files.watch_dir(".", on_event=events.append)
        await s.files.write("seen", "x")
        while not any(e.name == "seen" for e in events):
            await asyncio.sleep(0.05)
        await handle.stop()
        assert await s.is_running()
    finally:
        assert await s.kill() is True


async def listed(paginator):
    items = []
    while paginator.has_next:
        items.extend(await paginator.next_items())
    return [i.sandbox_id for i in items]


@check("async", "files: write and read in every form, list, stat, move and remove")
async def _():
    s = await AsyncSandbox.connect(sbx().sandbox_id, **PATIENT)
    data = bytes(i % 251 for i in range(100_000))
    assert (await s.files.write("async/bytes", data)).path == "/home/user/async/bytes"
    assert bytes(await s.files.read("async/bytes", format="bytes")) == data
    assert b"".join([chunk async for chunk in await s.files.read("async/bytes", format="stream")]) == data
    assert len(await s.files.write_files([{"path": "async/1", "data": "one"}, {"path": "async/2", "data": io.BytesIO(b"two")}])) == 2
    assert await s.files.read("async/2") == "two"
    assert sorted(e.name for e in await s.files.list("async")) == ["1", "2", "bytes"]
    assert (await s.files.get_info("async/bytes")).size == len(data)
    assert (await s.files.rename("async/1", "async/deep/1")).path == "/home/user/async/deep/1"
    assert not await s.files.make_dir("async/deep") and not await s.files.exists("async/1")
    await s.files.remove("async")
    assert not await s.files.exists("async")


@check("async", "commands and terminals: input, connect, kill and a timeout")
async def _():
    s = await AsyncSandbox.connect(sbx().sandbox_id, **PATIENT)
    cmd = await s.commands.run("echo begun; read a; echo got $a; exit 3", background=True, stdin=True)
    assert cmd.pid in [p.pid for p in await s.commands.list()]
    out = []
    again = await s.commands.connect(cmd.pid, on_stdout=out.append)
    await s.commands.send_stdin(cmd.pid, "in\n")
    with fails(CommandExitException) as f:
        await cmd.wait()
    assert (f.error.exit_code, f.error.stdout) == (3, "begun\ngot in\n"), f.error
    with fails(CommandExitException):
        await again.wait()
    assert "".join(out).endswith("got in\n"), out
    with fails(ex.TimeoutException):
        await s.commands.run("sleep 1000", timeout=1)
    assert await s.commands.kill(cmd.pid) is False
    seen = bytearray()
    pty = await s.pty.create(PtySize(rows=24, cols=80), on_data=seen.extend)
    await s.pty.resize(pty.pid, PtySize(rows=30, cols=100))
    await s.pty.send_stdin(pty.pid, b"stty size; exit 0\n")
    assert (await pty.wait()).exit_code == 0 and b"30 100" in seen, seen


@check("async", "pause, connect, snapshots, forks and lists")
async def _():
    mark = f"async {MARK}"
    s = await AsyncSandbox.create("base", **PATIENT, timeout=300, metadata={"mark": mark})
    boxes = [s]
    try:
        await s.files.write("kept", "as it was")
        await s.pause()
        assert (await s.get_info()).state == SandboxState.PAUSED and not await s.is_running()
        query = SandboxQuery(metadata={"mark": mark}, state=[SandboxState.PAUSED])
        assert await listed(AsyncSandbox.list(query=query)) == [s.sandbox_id]
        with fails(GONE):
            await s.commands.run("true")
        again = await AsyncSandbox.connect(s.sandbox_id, timeout=400, **PATIENT)
        assert await again.files.read("kept") == "as it was"
        before = time.time()
        await again.set_timeout(600)
        assert (await again.get_info()).end_at.timestamp() - before > 500
        snap = await again.create_snapshot()
        boxes.append(await AsyncSandbox.create(snap.snapshot_id, **PATIENT))
        boxes.extend(await again.fork(count=2))
        for box in boxes[1:]:
            assert await box.files.read("kept") == "as it was"
        assert len({box.sandbox_id for box in boxes}) == 4
        assert await AsyncSandbox.delete_snapshot(snap.snapshot_id) is True
    finally:
        ended = await asyncio.gather(*(box.kill() for box in boxes))
    assert all(ended)


@check("async", "a template is built and used")
async def _():
    name, lines = f"py-async-{time.time_ns()}", []
    template = AsyncTemplate().from_template("base").run_cmd("echo from async | tee made").set_start_cmd("touch started; exec sleep 1000", "test -e started")
    await AsyncTemplate.build(template, name, cpu_count=1, memory_mb=512, on_build_logs=lambda line: lines.append(line.message))
    assert any("from async" in line for line in lines) and await AsyncTemplate.exists(name), lines
    async with await AsyncSandbox.create(name, **PATIENT) as s:
        assert await s.files.read("made") == "from async\n" and await s.files.exists("started")
    assert await AsyncSandbox.delete_snapshot(name) is True
    with fails(ex.BuildException):
        await AsyncTemplate.build(AsyncTemplate().from_template("base").run_cmd("exit 9"), name + "-broken", cpu_count=1, memory_mb=512)


@check("async", "what there is not, and a key that does not count")
async def _():
    s = await AsyncSandbox.connect(sbx().sandbox_id, **PATIENT)
    with fails(ex.SandboxException):
        await AsyncSandbox.create("no-such-template")
    with fails(ex.AuthenticationException):
        await AsyncSandbox.create("base", api_key="e2b_" + "0" * 40)
    for call in (lambda: AsyncSandbox.connect("a" * 20), lambda: AsyncSandbox.get_info("a" * 20), lambda: AsyncSandbox.set_timeout("a" * 20, 60)):
        with fails(ex.SandboxNotFoundException):
            await call()
    assert await AsyncSandbox.kill("a" * 20) is False
    with fails(ex.FileNotFoundException):
        await s.files.read("/no/such/file")
    with fails(ex.NotFoundException):
        await s.commands.connect(NOBODY)
    with fails(ex.InvalidArgumentException):
        await s.commands.run("true", cwd="/no/such/directory")


def main():
    for c in CHECKS:
        run(*c)
        if not made:
            sys.exit(1)
    for s in made:
        try:
            s.kill()
        except Exception:
            pass
    tell(done=True)


main()
