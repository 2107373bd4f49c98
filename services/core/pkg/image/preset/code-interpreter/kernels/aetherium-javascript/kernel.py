"""A kernel of JavaScript."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "common"))
import child
import node


class JavaScriptKernel(node.NodeKernel):
    language_info = {"name": "javascript", "mimetype": "application/javascript", "file_extension": ".js"}
    banner = "Node.js"


child.main(JavaScriptKernel)
