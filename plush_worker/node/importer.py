"""First thing that runs on a host: makes the modules of the bundle importable as the package ``plush_node``.

``mesh/payload.py`` puts this source in front of the bundle and appends a call of start().
"""

import sys
import zlib
from _frozen_importlib import ModuleSpec

PACKAGE = "plush_node"


class Importer:
    """A finder and loader over ``core`` (name -> source) and ``rest`` (-> compressed source, until first imported)."""

    def __init__(self, core, rest):
        self.core, self.rest = core, rest

    def find_spec(self, name, path=None, target=None):
        package, _, short = name.partition(".")
        if package != PACKAGE or (short and short not in self.core and short not in self.rest):
            return None
        return ModuleSpec(name, self, origin="plush/%s.py" % short, is_package=not short)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        short = module.__name__.partition(".")[2]
        if short:
            source = self.core.pop(short, None) or zlib.decompress(self.rest[short])
            exec(compile(source, module.__spec__.origin, "exec", 0, True), module.__dict__)


def start(wire, core, rest):
    """Run the node program; ``wire`` is what came over the link, for the children."""
    sys.meta_path.insert(0, Importer(core, rest))
    from plush_node.__main__ import main  # only exists through the line above

    main(wire)
