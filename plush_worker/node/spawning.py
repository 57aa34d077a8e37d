"""Starting a program where Python has no posix_spawn() or one too old (before 3.8); part of ``process.py``."""

import os
from _signal import SIG_DFL, SIG_SETMASK, pthread_sigmask, signal


def fork_and_exec(path, argv, environment, moves, ignored):
    """As posix_spawn(); ``moves`` are (descriptor, target), ``ignored`` the signals to be set to their defaults."""
    failed_r, failed_w = os.pipe()
    pid = os.fork()
    if not pid:
        failure = b"0"
        try:
            os.setsid()
            for number in ignored:
                signal(number, SIG_DFL)
            pthread_sigmask(SIG_SETMASK, ())
            for move in moves:
                os.dup2(*move)
            os.execve(path, argv, environment)
        except OSError as error:
            failure = b"%d" % error.errno
        finally:
            os.write(failed_w, failure)
            os._exit(127)
    os.close(failed_w)
    failure = os.read(failed_r, 16)
    os.close(failed_r)
    if failure:
        os.waitpid(pid, 0)
        number = int(failure)
        if not number:
            raise ValueError("the command or its environment can't be passed on")
        raise OSError(number, os.strerror(number), os.fsdecode(path))
    return pid
