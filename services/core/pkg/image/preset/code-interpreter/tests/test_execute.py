import json
import os
import re
import unittest

from .harness import Server, WithServer


class Execute(WithServer):
    def test_says_what_is_written_and_shown(self):
        ran = self.server.run("import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7")
        self.assertEqual((ran.stdout, ran.stderr, ran.main, ran.errors), ("out\n", "err\n", "42", []))
        self.assertEqual(ran.events[0]["type"], "number_of_executions")
        self.assertEqual(ran.events[-1], {"type": "end_of_execution"})
        self.assertTrue(all(isinstance(e["timestamp"], int) for e in ran.events if e["type"] in ("stdout", "stderr")))

    def test_goes_on_from_what_was_defined(self):
        first = self.server.run("kept = 1")
        second = self.server.run("kept + 1")
        self.assertEqual((first.main, second.main), (None, "2"))
        self.assertEqual(second.count[0], first.count[0] + 1)

    def test_shows_what_a_string_is(self):
        self.assertEqual(self.server.run("'plain'").main, "plain")
        self.assertEqual(self.server.run("'\\n'").main, "\\n")

    def test_is_ascii_in_whole_lines(self):
        c = self.server.connect()
        self.addCleanup(c.close)
        c.request("POST", "/execute", json.dumps({"code": "print('\U0001f600 ü\\n\\n')", "language": None, "context_id": None, "env_vars": None}))
        lines = c.getresponse().read()
        self.assertTrue(lines.isascii() and lines.endswith(b"\n") and b"\n\n" not in lines)
        self.assertEqual(json.loads(lines.splitlines()[1])["text"], "\U0001f600 ü\n\n\n")

    def test_tells_of_errors(self):
        ran = self.server.run("def f():\n    raise ValueError('no such thing')\nprint('before')\nf()")
        (error,) = ran.errors
        self.assertEqual((error["name"], error["value"], ran.stdout), ("ValueError", "no such thing", "before\n"))
        self.assertIn("raise ValueError", re.sub("\x1b\\[[0-9;]*m", "", error["traceback"]))
        self.assertEqual(self.server.run("def").errors[0]["name"], "SyntaxError")
        self.assertEqual(self.server.run("input()").errors[0]["name"], "StdinNotImplementedError")
        self.assertEqual(self.server.run("1").main, "1")

    def test_shows_every_kind(self):
        ran = self.server.run(
            "from IPython.display import display\n"
            "display({'text/plain': 't', 'text/html': 'h', 'text/markdown': 'm', 'image/svg+xml': '<svg/>', 'image/png': 'cG5n\\n',"
            " 'image/jpeg': 'anBn', 'application/pdf': 'cGRm', 'text/latex': 'l', 'application/json': {'a': [1]},"
            " 'application/javascript': 'j', 'application/x-own': 'o'}, raw=True)"
        )
        self.assertEqual(
            ran.results,
            [
                {
                    "type": "result", "is_main_result": False, "text": "t", "html": "h", "markdown": "m", "svg": "<svg/>", "png": "cG5n",
                    "jpeg": "anBn", "pdf": "cGRm", "latex": "l", "json": {"a": [1]}, "javascript": "j", "extra": {"application/x-own": "o"},
                }
            ],
        )  # fmt: skip

    def test_what_json_lacks_is_told_as_text(self):
        ran = self.server.run("from IPython.display import display\ndisplay({'application/json': {'a': float('nan'), 'b': 1.5}}, raw=True)")
        self.assertEqual(ran.results[0]["json"], {"a": "nan", "b": 1.5})

    def test_sets_an_environment_for_one_execution(self):
        self.server.run("import os\nos.environ['BOTH'] = 'before'")
        env = {"ONE": 'ü "quoted" $x', "BOTH": "during"}
        code = "os.environ.get('ONE'), os.environ['BOTH'], [n for n in globals() if 'aeth' in n]"
        self.assertEqual(self.server.run(code, env_vars=env).main, "('ü \"quoted\" $x', 'during', [])")
        self.assertEqual(self.server.run(code).main, "(None, 'before', [])")
        self.server.run("1/0", env_vars=env)
        self.assertEqual(self.server.run(code).main, "(None, 'before', [])")

    def test_a_kernel_that_ends_is_told_of_and_replaced(self):
        self.server.run("here = 1")
        ran = self.server.run("import os\nprint('last words', flush=True)\nos._exit(3)")
        self.assertEqual((ran.errors[0]["name"], ran.events[-1]["type"]), ("KernelEnded", "end_of_execution"))
        self.assertEqual(self.server.run("'here' in globals()").main, "False")

    def test_much_output_arrives(self):
        ran = self.server.run("for i in range(20):\n    print('x' * 1_000_000)")
        self.assertEqual(len(ran.stdout), 20 * 1_000_001)

    def test_is_kept_alive_in_silence(self):
        flag = os.path.join(self.server.home.name, "go")
        with self.server.stream(f"import os, time\nwhile not os.path.exists({flag!r}):\n    time.sleep(0.01)\n'done'") as events:
            kinds = []
            for e in events:
                kinds.append(e["type"])
                if kinds[-1] == "keepalive":
                    open(flag, "w").close()
        self.assertIn("keepalive", kinds)
        self.assertEqual(kinds[-2:], ["result", "end_of_execution"])

    def test_who_goes_away_is_interrupted_for(self):
        with self.server.stream(
            "interrupted = False\ntry:\n    print('begun', flush=True)\n    while True: pass\nexcept KeyboardInterrupt:\n    interrupted = True"
        ) as events:
            self.assertEqual(next(e for e in events if e["type"] == "stdout")["text"], "begun\n")
        self.assertEqual(self.server.run("interrupted").main, "True")

    def test_executions_of_a_context_take_turns(self):
        flag = os.path.join(self.server.home.name, "turn")
        with self.server.stream(
            f"import os, time\nprint('first', flush=True)\nwhile not os.path.exists({flag!r}):\n    time.sleep(0.01)\norder = ['first']"
        ) as first:
            next(e for e in first if e["type"] == "stdout")
            with self.server.stream("order.append('second')\norder") as second:
                open(flag, "w").close()
                self.assertEqual([e["type"] for e in first][-1], "end_of_execution")
                shown = [e["text"] for e in second if e["type"] == "result"]
        self.assertEqual(shown, ["['first', 'second']"])

    def test_refuses_what_is_no_request(self):
        for body, status in (
            (b"{", 400), (b"[]", 400), ({}, 400), ({"code": 1}, 400), ({"code": "1", "language": "cobol"}, 400),
            ({"code": "1", "context_id": "nowhere"}, 404), ({"code": "1", "context_id": "a", "language": "python"}, 400),
            ({"code": "1", "env_vars": {"A": 1}}, 400), ({"code": "1", "env_vars": {"A=": "1"}}, 400), ({"code": "1", "env_vars": []}, 400),
            ({"code": "1", "language": "x" * 5000}, 400), (b'{"code":"' + b"#" * (17 << 20) + b'"}', 413),
        ):  # fmt: skip
            with self.subTest(body=str(body)[:60]):
                got, told = self.server.call("POST", "/execute", body)
                self.assertEqual((got, told["code"]), (status, status))
                self.assertTrue(told["message"])

    def test_health(self):
        self.assertEqual(self.server.call("GET", "/health")[0], 200)
        self.assertEqual(self.server.call("GET", "/nowhere")[0], 404)
        self.assertEqual(self.server.call("PUT", "/execute")[0], 405)


class End(unittest.TestCase):
    def test_kernels_end_with_the_server(self):
        server = Server()
        pid = int(server.run("import os\nos.getpid()").main)
        with server.stream("print('begun', flush=True)\nwhile True: pass") as events:
            next(e for e in events if e["type"] == "stdout")
            self.assertEqual(server.close(), 0)
        with self.assertRaises(ProcessLookupError):
            os.kill(pid, 0)
