import base64
import importlib.util
import os
import random
import tempfile
import unittest

from .harness import HERE, Agent, Ran, Server

TOKEN = {"X-Access-Token": "right"}


class Memory(unittest.TestCase):
    def test_the_first_environment_of_a_kernel_has_it_draw_anew(self):
        # A module of its own: as in a kernel that nobody has used.
        path = os.path.join(HERE, "kernels", "aetherium-python", "aetherium_environment.py")
        spec = importlib.util.spec_from_file_location("aetherium_environment", path)
        environment = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(environment)
        nothing = base64.b64encode(b"{}").decode()
        random.seed(1)
        same = random.random()
        random.seed(1)
        environment.adopt(nothing)
        self.assertNotEqual(random.random(), same)
        random.seed(1)
        environment.adopt(nothing)  # who has chosen keeps the choice
        self.assertEqual(random.random(), same)


class TheAgent(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.path = os.path.join(self.dir.name, "agent")
        self.agent = Agent(self.path, "right", {"FROM_VM": "one"})
        self.server = Server("--agent", self.path)
        self.addCleanup(self.server.close)

    def run_code(self, code, **body):
        with self.server.stream(code, headers=TOKEN, **body) as events:
            return Ran(list(events))

    def test_says_who_may_execute_and_with_what(self):
        with self.subTest("who shows no token may not, but for contexts"):
            for headers in ({}, {"X-Access-Token": "wrong"}):
                self.assertEqual(self.server.call("POST", "/execute", {"code": "1"}, headers)[0], 401)
            self.assertEqual(self.server.call("GET", "/contexts")[0], 200)
        with self.subTest("the VM's environment is there"):
            code = "import os\nos.environ.get('FROM_VM')"
            self.assertEqual(self.run_code(code).main, "one")
            self.assertEqual(self.run_code("printenv FROM_VM", language="bash").stdout, "one\n")
        with self.subTest("what changes is told, and what code set is left alone"):
            self.run_code("os.environ['OWN'] = 'kept'")
            self.agent.env = {"FROM_VM": "two"}
            self.assertEqual(self.run_code("os.environ['FROM_VM'], os.environ['OWN']").main, "('two', 'kept')")
            self.assertEqual(self.run_code("os.environ['FROM_VM']", env_vars={"FROM_VM": "three"}).main, "three")
            self.assertEqual(self.run_code("os.environ['FROM_VM']").main, "two")
        with self.subTest("without it nobody may"):
            self.agent.close()
            self.assertEqual(self.server.call("POST", "/execute", {"code": "1"}, TOKEN)[0], 503)
