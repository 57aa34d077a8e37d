"""What goes wrong with the testbed itself."""

from __future__ import annotations

from plush_worker.errors import PlushError, UserError


class TestbedError(PlushError):
    """The testbed can't be made, or a part of it failed; the message says what to do."""

    __test__ = False  # pytest: a name that begins with "Test" is no test here
    code = "testbed"


class BadInput(TestbedError, UserError):
    """The testbed can't be made as asked; the message names what was asked for."""

    code = "testbed_input"
    exit_code = UserError.exit_code
