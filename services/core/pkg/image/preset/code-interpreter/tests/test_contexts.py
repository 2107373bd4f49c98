import os
import sys
import unittest

from .harness import HERE, WithServer

sys.path.insert(0, HERE)
from interpreter import contexts, events, languages


class Contexts(WithServer):
    def create(self, **body):
        status, context = self.server.call("POST", "/contexts", body)
        self.assertEqual(status, 200, context)
        self.addCleanup(self.server.call, "DELETE", "/contexts/" + context["id"])
        return context

    def ids(self):
        return [c["id"] for c in self.server.call("GET", "/contexts")[1]]

    def test_there_is_one_from_the_start(self):
        (first,) = [c for c in self.server.call("GET", "/contexts")[1] if c["language"] == "python"]
        self.assertEqual(first["cwd"], self.server.home.name)
        self.server.run("where = 'default'")
        self.assertEqual(self.server.run("where", context_id=first["id"]).main, "default")
        self.assertEqual(self.server.run("where", language="python").main, "default")

    def test_keep_apart_what_they_define(self):
        one, two = self.create(), self.create(language="python")
        self.server.run("x = 1", context_id=one["id"])
        self.assertEqual(self.server.run("x", context_id=two["id"]).errors[0]["name"], "NameError")
        self.assertEqual(self.server.run("x", context_id=one["id"]).main, "1")
        self.assertLess({one["id"], two["id"]}, set(self.ids()))

    def test_have_a_directory(self):
        os.mkdir(os.path.join(self.server.home.name, "sub"))
        for cwd in (os.path.join(self.server.home.name, "sub"), "sub"):
            context = self.create(cwd=cwd)
            self.assertEqual(context["cwd"], os.path.join(self.server.home.name, "sub"))
            self.assertEqual(self.server.run("import os\nos.getcwd()", context_id=context["id"]).main, context["cwd"])

    def test_can_be_removed(self):
        context = self.create()
        self.assertEqual(self.server.call("DELETE", "/contexts/" + context["id"]), (204, b""))
        self.assertNotIn(context["id"], self.ids())
        for method, path in (("DELETE", ""), ("POST", "/restart")):
            self.assertEqual(self.server.call(method, "/contexts/" + context["id"] + path)[0], 404)

    def test_the_default_is_made_anew_after_its_removal(self):
        self.server.run("echo", language="bash")
        (default,) = [c for c in self.server.call("GET", "/contexts")[1] if c["language"] == "bash"]
        self.server.call("DELETE", "/contexts/" + default["id"])
        self.assertEqual(self.server.run("echo again", language="bash").stdout, "again\n")

    def test_forget_all_when_started_anew(self):
        context = self.create()
        self.server.run("x = 1", context_id=context["id"])
        self.assertEqual(self.server.call("POST", f"/contexts/{context['id']}/restart"), (204, b""))
        self.assertEqual(self.server.run("x", context_id=context["id"]).errors[0]["name"], "NameError")

    def test_what_runs_ends_with_them(self):
        for method, path in (("POST", "/restart"), ("DELETE", "")):
            context = self.create()
            with self.server.stream("print('begun', flush=True)\nwhile True: pass", context_id=context["id"]) as events:
                next(e for e in events if e["type"] == "stdout")
                self.assertEqual(self.server.call(method, f"/contexts/{context['id']}{path}")[0], 204)
                self.assertEqual([(e["type"], e.get("name")) for e in events], [("error", "ContextClosed"), ("end_of_execution", None)])

    def test_refuse_what_cannot_be(self):
        for body in ({"language": "cobol"}, {"cwd": "/nowhere"}, {"cwd": "a\0b"}, {"cwd": 1}, {"language": []}):
            with self.subTest(body=body):
                self.assertEqual(self.server.call("POST", "/contexts", body)[0], 400)
        self.assertIn("python", self.server.call("POST", "/contexts", {"language": "cobol"})[1]["message"])


class Bounds(unittest.IsolatedAsyncioTestCase):
    async def test_there_are_no_more_than_so_many(self):
        pool = contexts.Contexts(languages.Languages(), cwd="/")
        self.addAsyncCleanup(pool.close)
        for _ in range(contexts.MAX_CONTEXTS):
            pool._all[object()] = _Closed()
        with self.assertRaises(contexts.Full):
            await pool.create("python", None)

    async def test_output_that_nobody_takes_is_dropped_and_said_to_be(self):
        queue = events.Queue(limit=1000)
        for _ in range(100):
            queue.put(events.output("stdout", "x" * 90, 0)[0])
        queue.put(events.error("E", "told all the same"))
        queue.end()
        lines = await queue.take(1)
        self.assertLess(len(lines), 2000)
        self.assertIn(b"bytes of output dropped", lines)
        self.assertIn(b"told all the same", lines)
        self.assertTrue(lines.endswith(b'{"type":"end_of_execution"}\n') and queue.done)


class _Closed:
    async def close(self):
        pass
