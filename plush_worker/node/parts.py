"""The parts of a session that are made, and their code unpacked, when they are first needed."""

from .exits import install


def make(name, session):
    """``ops`` of this host, ``tree`` of the hosts below, ``stdin``, ``pulse``, ``logbook``, ``ending``."""
    if name in ("ops", "tree"):
        install(session.loop)
    if name == "ops":
        from .ops import Ops as Part
    elif name == "tree":
        from .routing import Tree as Part
    elif name == "stdin":
        from .stdin import Inflow as Part
    elif name == "pulse":
        from .pulse import Pulse as Part
    elif name == "logbook":
        from .logbook import Logbook as Part
    else:
        from .ending import Ending as Part
    return Part(session)
