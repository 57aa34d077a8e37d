"""Forking supervisors, also in advance: the next op finds a spare waiting, and the fork is paid for between ops.

A spare waits on its socket to the node program for one order with the op's locked file, and ends when that is closed.
"""

import os
from _socket import AF_UNIX, CMSG_SPACE, MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socketpair
from _struct import Struct

ORDER_BYTES = 32768  # what an empty socket takes at once; a longer order is given to a fork in its memory

_LENGTH, _FD = Struct("!I"), Struct("i")


def fork(become):
    """Fork; the new process calls ``become(socket)``, which doesn't return. Returns (pid, our end of the socket)."""
    ours, its = socketpair(AF_UNIX, SOCK_STREAM)
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        raise
    else:
        if not pid:
            become(its)
    finally:
        its.close()
    return pid, ours


def give(connection, body, lock_fd):
    """Order a spare to be the supervisor of the OP with this body. False when it isn't there any more."""
    try:
        connection.sendmsg([_LENGTH.pack(len(body)), body], [(SOL_SOCKET, SCM_RIGHTS, _FD.pack(lock_fd))])
    except OSError:
        return False
    return True


def receive(connection):
    """The order given to this spare as (body of OP, lock_fd); None when none comes any more."""
    data, control, _, _ = connection.recvmsg(ORDER_BYTES, CMSG_SPACE(_FD.size), MSG_CMSG_CLOEXEC)
    if not control:
        return None
    while len(data) < _LENGTH.size or len(data) < _LENGTH.size + _LENGTH.unpack_from(data)[0]:
        more = connection.recv(ORDER_BYTES)
        if not more:
            return None
        data += more
    return data[_LENGTH.size :], _FD.unpack(control[0][2])[0]
