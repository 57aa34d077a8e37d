"""Processes: starting an op's command as sshd does, and finding, signalling and ending all that descends from it.

Linux. Functions of the calling process (a supervisor, or a node program that sweeps after one); keeps no state.
"""

import os
import pwd
import time
from _signal import NSIG, SIG_IGN, SIGKILL, getsignal
from errno import ENOENT, ENOSPC, ESRCH

_PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 15, 36
_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", 7)  # a constant only since 3.7
_SHELL_LEFTOVERS = (b"_", b"SHLVL", b"PWD", b"OLDPWD")  # of the shell that started us; sshd sets none of them


def boottime():
    """Seconds since the machine started, those asleep included."""
    return time.clock_gettime(_BOOTTIME)


def become_subreaper(name=b""):
    """From now on orphaned descendants become this process's children. False where that can't be had.

    ``_ctypes`` alone is a tenth of ``import ctypes`` (0.6 ms against 4 to 6, 0.4 MB against 0.7 on 3.11).
    """
    try:
        import _ctypes

        prctl = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")
        if name:
            _ctypes.call_function(prctl, (_PR_SET_NAME, name, 0, 0, 0))
        return _ctypes.call_function(prctl, (_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) == 0
    except (ImportError, AttributeError, OSError):
        return False


def login():
    """(shell, home) of this user, as bytes."""
    try:
        entry = pwd.getpwuid(os.getuid())
    except KeyError:
        return os.environb.get(b"SHELL", b"/bin/sh"), os.environb.get(b"HOME", b"/")
    return os.fsencode(entry.pw_shell or "/bin/sh"), os.fsencode(entry.pw_dir or "/")


def session_environment():
    """The environment that sshd gave this session: without what shells and Python (LC_CTYPE) have put there since."""
    try:
        pairs = (item.partition(b"=") for item in _read("/proc/self/environ").split(b"\0"))
        found = {name: value for name, separator, value in pairs if separator}
    except OSError:
        found = dict(os.environb)
    return {name: value for name, value in found.items() if name not in _SHELL_LEFTOVERS}


def close_inherited(keep):
    """Close every descriptor but ``keep``; 0, 1 and 2 become /dev/null."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:
                pass  # the one that listed them


def reason(error, where):
    """An error in words: what it concerns (``where``, unless the error names a file) and what came back."""
    if getattr(error, "errno", None) == ENOSPC:
        return "no space left for %s" % (error.filename or where or "its files")
    subject = getattr(error, "filename", None) or where
    return "%s%s" % (subject and "%s: " % subject, getattr(error, "strerror", None) or error)


def start(command, environment, shell, home, return_to, stdin=None):
    """Start ``command`` by ``shell`` in ``home``, with this ``stdin`` or none; the caller ends in folder ``return_to``.

    Returns (pid, stdout, stderr): the pipes' ends to read. Raises OSError when it can't be started, ValueError on an
    environment or a command that can't be passed. Blocks until the exec is done.
    """
    out_r, out_w = os.pipe()
    err_r, err_w = os.pipe()
    try:
        try:
            os.chdir(home)
        except OSError as error:  # as sshd does
            os.chdir("/")
            os.write(err_w, b"Could not chdir to home directory %s: %s\n" % (home, error.strerror.encode()))
        argv = [os.path.basename(shell), b"-c", command]
        pid = _spawn(shell, argv, environment, ((out_w, 1), (err_w, 2)) + (((stdin, 0),) if stdin else ()))
    except BaseException:
        os.close(out_r)
        os.close(err_r)
        raise
    finally:
        os.close(out_w)
        os.close(err_w)
        os.chdir(return_to)
    return pid, out_r, err_r


def _spawn(path, argv, environment, moves):
    ignored = [number for number in range(1, NSIG) if getsignal(number) == SIG_IGN]  # Python ignores two itself
    try:
        actions = [(os.POSIX_SPAWN_DUP2, *move) for move in moves]
        return os.posix_spawn(
            path, argv, environment, file_actions=actions, setsid=True, setsigmask=(), setsigdef=ignored
        )
    except (AttributeError, NotImplementedError):  # before 3.8; twice as slow
        from .spawning import fork_and_exec

        return fork_and_exec(path, argv, environment, moves, ignored)


def _read(path):
    """A file of /proc: a third of the system calls of open()."""
    fd = os.open(path, os.O_RDONLY)
    try:
        pieces = []
        while not pieces or pieces[-1]:
            pieces.append(os.read(fd, 65536))
        return b"".join(pieces)
    finally:
        os.close(fd)


def children(pid):
    """The pids whose parent is ``pid``, zombies included; none when it is gone."""
    found = []
    try:
        for task in os.listdir("/proc/%d/task" % pid):
            found += [int(word) for word in _read("/proc/%d/task/%s/children" % (pid, task)).split()]
    except OSError as error:
        if error.errno == ENOENT and not os.path.exists("/proc/self/task/%d/children" % os.getpid()):
            from .sessions import parents

            return [child for child, parent in parents() if parent == pid]
        if error.errno not in (ENOENT, ESRCH):
            raise
    return found


def descendants(pid):
    """All that descend from ``pid``, parents before children."""
    found, at = children(pid), 0
    while at < len(found):
        found += children(found[at])
        at += 1
    return found


def stat(pid):
    """(state, parent, group, session, ...) of a process, as bytes; None when it is gone."""
    try:
        return _read("/proc/%d/stat" % pid).rpartition(b")")[2].split()
    except OSError:
        return None


def start_time(pid):
    """When ``pid`` started, in clock ticks since the machine did; 0 when it is gone. Pid and this name a process."""
    status = stat(pid)
    return int(status[19]) if status else 0


def signal_groups(number, session=None):
    """Send a signal to every process group of ``session`` (None: of any) among the descendants of this process."""
    groups = set()
    for pid in descendants(os.getpid()):
        status = stat(pid)
        if status and session in (None, int(status[3])):
            groups.add(int(status[2]))
    for group in groups:
        try:
            os.killpg(group, number)
        except OSError:
            pass  # gone meanwhile, or not ours to signal


def kill_all(pids):
    """SIGKILL to each; returns how many of them aren't ours to kill (EPERM)."""
    refused_count = 0
    for pid in pids:
        try:
            os.kill(pid, SIGKILL)
        except ProcessLookupError:
            pass
        except PermissionError:
            refused_count += 1
    return refused_count
