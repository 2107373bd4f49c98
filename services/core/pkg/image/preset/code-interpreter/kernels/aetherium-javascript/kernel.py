"""A kernel of JavaScript: one Node.js, in which one cell runs after the other."""

import json
import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(here), "common"))
import child


class JavaScriptKernel(child.ChildKernel):
    language_info = {"name": "javascript", "mimetype": "application/javascript", "file_extension": ".js"}
    banner = "Node.js"

    def program(self, cells, answers):
        return ["node", os.path.join(here, "cells.js"), str(cells), str(answers)]

    def cell(self, code):
        return order(code=code)

    def environment(self, what, env):
        return order(environment=what, env=env)

    def answer(self, line):
        answer = json.loads(line)
        if "error" in answer:
            return self.failed(answer["error"]["name"], answer["error"]["value"], [answer["error"]["stack"]])
        if "data" in answer:
            self.shown(answer["data"])
        return {"status": "ok"}


def order(**what):
    return (json.dumps(what) + "\n").encode()


child.main(JavaScriptKernel)
