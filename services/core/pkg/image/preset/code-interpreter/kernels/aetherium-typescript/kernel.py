"""A kernel of TypeScript: cells lose their types, which nobody checks, and run
as JavaScript."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "common"))
import child
import node


class TypeScriptKernel(node.NodeKernel):
    language = "typescript"
    language_info = {"name": "typescript", "mimetype": "application/typescript", "file_extension": ".ts"}
    banner = "TypeScript on Node.js"


child.main(TypeScriptKernel)
