"""What E2B's code interpreter SDK for Python does, synchronous and asynchronous,
by the package that is installed in this interpreter's environment. Each check
prints one line of JSON."""

import asyncio
import json
import os
import signal
import sys
import urllib.error
import urllib.request

from e2b import exceptions as ex
from e2b_code_interpreter import AsyncSandbox, Sandbox

# TEST_LIMIT is how many seconds a check may take, which only ends one that hangs.
LIMIT = int(os.environ.get("TEST_LIMIT", "300"))
CHECKS = []


def check(name):
    def take(f):
        CHECKS.append((name, f))
        return f

    return take


class TooLong(Exception):
    pass


def too_long(*_):
    raise TooLong("it did not end in time")


def raises(kind, f):
    try:
        f()
    except kind as e:
        return e
    raise AssertionError(f"no {kind.__name__}")


def equal(got, want):
    if got != want:
        raise AssertionError(f"{got!r}, want {want!r}")


def wrote(execution):
    return "".join(execution.logs.stdout)


@check("runCode: text, results and the count")
def _(s):
    first = s.run_code("x = 20\nx * 2 + 2")
    equal((first.text, first.error, wrote(first)), ("42", None, ""))
    second = s.run_code("print(x)\n'a string'")
    equal((second.text, wrote(second), second.execution_count), ("a string", "20\n", first.execution_count + 1))


@check("runCode: errors")
def _(s):
    e = s.run_code("def f():\n    raise ValueError('no')\nf()").error
    equal((e.name, e.value), ("ValueError", "no"))
    assert "raise" in e.traceback, e.traceback
    equal(s.run_code("1").text, "1")


@check("runCode: callbacks")
def _(s):
    out, err, results, errors = [], [], [], []
    s.run_code(
        "import sys\nfrom IPython.display import HTML, display\nprint('o \u00fc')\nprint('e', file=sys.stderr)\ndisplay(HTML('<b>h</b>'))\n1/0",
        on_stdout=lambda m: out.append(m.line), on_stderr=lambda m: err.append(m.line), on_result=results.append, on_error=errors.append,
    )  # fmt: skip
    equal(("".join(out), "".join(err), [r.html for r in results], [e.name for e in errors]), ("o \u00fc\n", "e\n", ["<b>h</b>"], ["ZeroDivisionError"]))


@check("runCode: environments")
def _(s):
    code = "import os\nos.environ.get('FROM_SANDBOX'), os.environ.get('FROM_CALL')"
    equal(s.run_code(code, envs={"FROM_CALL": "b c"}).text, "('a', 'b c')")
    equal(s.run_code(code).text, "('a', None)")


@check("runCode: every kind of result")
def _(s):
    r = s.run_code(
        "from IPython.display import display\n"
        "display({'text/markdown': 'm', 'image/svg+xml': '<svg/>', 'image/png': 'cG5n', 'image/jpeg': 'anBn', 'application/pdf': 'cGRm',"
        " 'text/latex': 'l', 'application/json': {'a': 1}, 'application/javascript': 'j', 'x/own': 'o'}, raw=True)"
    ).results[0]
    equal(
        (r.markdown, r.svg, r.png, r.jpeg, r.pdf, r.latex, r.json, r.javascript, r.extra),
        ("m", "<svg/>", "cG5n", "anBn", "cGRm", "l", {"a": 1}, "j", {"x/own": "o"}),
    )
    equal(r.is_main_result, False)


@check("runCode: tables and charts")
def _(s):
    r = s.run_code("import pandas\npandas.DataFrame({'a': [1, 2]})").results[0]
    equal(r.data, {"a": [1, 2]})
    chart = s.run_code("import matplotlib.pyplot as plt\nplt.bar(['a', 'b'], [1, 2])\nplt.title('T')\nplt.show()").results[0].chart
    equal((chart.type.value, chart.title, [(e.label, e.value) for e in chart.elements]), ("bar", "T", [("a", 1.0), ("b", 2.0)]))
    chart = s.run_code("plt.plot([1, 2], [3, 4], label='L')\nplt.show()").results[0].chart
    equal((chart.type.value, chart.elements[0].label, chart.elements[0].points), ("line", "L", [(1.0, 3.0), (2.0, 4.0)]))


@check("runCode: languages")
def _(s):
    equal(wrote(s.run_code("x=1; echo $x; pwd", language="bash")), "1\n/home/user\n")
    equal(s.run_code("const x = await Promise.resolve(20); x + 1", language="js").text, "21")
    equal(s.run_code("import { basename } from 'node:path';\nconst n: string = basename('/a/b'); n as any", language="ts").text, "b")
    equal(s.run_code("throw new TypeError('t')", language="javascript").error.name, "TypeError")
    raises(ex.SandboxException, lambda: s.run_code("1", language="cobol"))


@check("contexts: made, listed, restarted and removed")
def _(s):
    c = s.create_code_context(cwd="/tmp", language="python")
    equal((c.cwd, c.language), ("/tmp", "python"))
    equal(s.run_code("import os\ny = 1\nos.getcwd()", context=c).text, "/tmp")
    equal(s.run_code("y").error.name, "NameError")
    assert c.id in [x.id for x in s.list_code_contexts()]
    s.restart_code_context(c)
    equal(s.run_code("y", context=c).error.name, "NameError")
    s.remove_code_context(c)
    assert c.id not in [x.id for x in s.list_code_contexts()]
    raises(ex.NotFoundException, lambda: s.run_code("1", context=c))
    raises(ex.NotFoundException, lambda: s.remove_code_context(c))


@check("runCode: a timeout ends what runs")
def _(s):
    # Slower machines need longer than that to write a first word: none is waited for.
    raises(ex.TimeoutException, lambda: s.run_code("ended = False\ntry:\n    while True: pass\nexcept KeyboardInterrupt:\n    ended = True", timeout=2))
    equal(s.run_code("1").text, "1")  # it has its turn


@check("runCode: a kernel that ends")
def _(s):
    equal(s.run_code("import os\nos._exit(1)").error.name, "KernelEnded")
    equal(s.run_code("1").text, "1")


@check("files: beside it")
def _(s):
    s.files.write("/home/user/data.csv", "a,b\n1,2\n")
    equal(s.run_code("import pandas\nint(pandas.read_csv('data.csv')['b'][0])").text, "2")
    s.run_code("open('made', 'w').write('by code')")
    equal(s.commands.run("cat made").stdout, "by code")


@check("runCode: who has no token runs nothing")
def _(s):
    from urllib.parse import urljoin

    url = urljoin(s._jupyter_url + "/", "execute")
    for token in ({}, {"X-Access-Token": "wrong"}):
        request = urllib.request.Request(url, b'{"code":"1"}', {"E2b-Sandbox-Id": s.sandbox_id, "E2b-Sandbox-Port": "49999", **token})
        equal(raises(urllib.error.HTTPError, lambda request=request: urllib.request.urlopen(request)).code, 401)


@check("async: several at once")
def _(s):
    async def go():
        a = await AsyncSandbox.connect(s.sandbox_id)
        one, two = await asyncio.gather(*(a.create_code_context() for _ in range(2)))
        await asyncio.gather(a.run_code("z = 1", context=one), a.run_code("z = 2", context=two))
        lines = []
        got = await asyncio.gather(a.run_code("print('p')\nz", context=one, on_stdout=lambda m: lines.append(m.line)), a.run_code("z", context=two))
        equal(([g.text for g in got], "".join(lines)), (["1", "2"], "p\n"))
        for c in (one, two):
            await a.remove_code_context(c)

    asyncio.run(go())


@check("runCode: a sandbox that is killed")
def _(s):
    import threading

    def killed(m):
        threading.Thread(target=s.kill).start()

    raises(ex.TimeoutException, lambda: s.run_code("print('begun', flush=True)\nwhile True: pass", on_stdout=killed))
    raises(ex.TimeoutException, lambda: s.run_code("1"))


def main():
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LIMIT)
    s = Sandbox.create(timeout=3600, envs={"FROM_SANDBOX": "a"}, request_timeout=LIMIT)
    failed = False
    wanted = os.environ.get("TEST_CHECKS")
    for name, f in CHECKS:
        feature, _, what = name.partition(": ")
        if wanted and name not in wanted.split(","):
            continue
        signal.alarm(LIMIT)
        line = {"feature": feature, "check": what, "ok": True}
        try:
            f(s)
        except BaseException as e:  # whatever it is, it is told
            line = {"feature": feature, "check": what, "ok": False, "error": f"{type(e).__name__}: {e}"}
            failed = True
        print(json.dumps(line), flush=True)
    signal.alarm(0)
    s.kill()
    print(json.dumps({"done": True}), flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
