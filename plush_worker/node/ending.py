"""How a node program ends: QUIT (children first, then ops), and what is removed. Unpacked when needed."""

import os
from select import POLLOUT, poll

from .journal import Journal
from .state_dir import JOURNAL

LAST_WORDS_S = 5  # for the parent to take what is queued


class Ending:
    """The end by QUIT of one session: done when the hosts below are gone and the ops have ended."""

    def __init__(self, session):
        self._session = session
        self._awaited = {"tree", "ops"}

    def quit(self, kill):
        """Begin. The uplink stays until all is done, so its end tells the parent that nothing is left below."""
        session = self._session
        if session.tree is None:
            self._done("tree")
        else:
            session.tree.quit(lambda: self._done("tree"))
        if session.ops is None:
            self._done("ops")
        else:
            session.ops.quit(kill, lambda: self._done("ops"))

    def _done(self, part):
        self._awaited.discard(part)
        if not self._awaited:
            self._session.loop.running = False


def finish(session, channel):
    """The loop has ended: let go of the children, say the last words, remove the state folder unless ops need it.

    After QUIT that is while a supervisor lives; after the loss of the parent, while an op isn't closed.
    """
    if session.tree is not None:
        session.tree.close()
    _say_last_words(session.loop, channel)
    if session.ops is None or not (_has_open_ops(session) or session.ops.living()):
        remove(session.state_dir)


def _has_open_ops(session):
    return session.ending is None and bool(Journal(os.path.join(session.state_dir, JOURNAL)).open_ops())


def _say_last_words(loop, channel):
    waiter, deadline = poll(), loop.now() + LAST_WORDS_S
    channel.flush()
    while channel.write_fd is not None and len(channel.link.output()) and loop.now() < deadline:
        waiter.register(channel.write_fd, POLLOUT)
        waiter.poll(1000)
        channel.flush()


def remove(path):
    """Remove a state folder and, when it was the last, the base above it."""
    for folder, folders, files in os.walk(path, topdown=False):
        for name in files:
            _try(os.unlink, os.path.join(folder, name))
        for name in folders:
            _try(os.rmdir, os.path.join(folder, name))
    _try(os.rmdir, path)
    _try(os.rmdir, os.path.dirname(path))


def _try(action, path):
    try:
        action(path)
    except OSError:
        pass  # gone already, or in use by another mesh: it stays
