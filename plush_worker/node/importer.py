"""First thing that runs on a host: makes the modules of the bundle importable as the package ``plush_node``.

``mesh/payload.py`` puts this source in front of the bundle and appends a call of start().
"""

import sys
import zlib
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER
from marshal import loads


class Importer:
    """A finder and loader. ``core``: name -> source; ``rest``, ``hot``: name -> its place in what ``packed`` holds."""

    def __init__(self, bundle, packed, core, rest, hot):
        self.bundle, self.packed, self.core, self.rest, self.hot = bundle, packed, core, rest, hot

    def find_spec(self, name, path=None, target=None):
        package, _, short = name.partition(".")
        if package == "plush_node" and (short in self.core or short in self.rest or not short):
            return ModuleSpec(name, self, origin="plush/%s.py" % short, is_package=not short)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        short = module.__name__.partition(".")[2]
        source = self.core.pop(short, None) if short else b""
        if source is None:
            if type(self.packed) is bytes:  # the first module that isn't core; there will be more
                unpacker = zlib.decompressobj(zdict=self.bundle[-32768:])  # what was sent before it
                rest = unpacker.decompress(self.packed)
                self.packed = rest, zlib.decompressobj(zdict=rest[-32768:]).decompress(unpacker.unused_data)
            if short in self.hot:
                return exec(loads(self.packed[1][slice(*self.hot[short])]), module.__dict__)
            source = self.packed[0][slice(*self.rest[short])]
        exec(compile(source, module.__spec__.origin, "exec", 0, True), module.__dict__)


def start(wire, bundle, packed, core, rest, hot, magic):
    """Run the node program; ``wire`` is what came over the link, for the children."""
    sys.meta_path.insert(0, Importer(bundle, packed, core, rest, hot if magic == MAGIC_NUMBER else {}))
    from plush_node.__main__ import main  # only exists through the line above

    main(wire)
