"""Processes of one run that watch each other: when one has died the others end at once, with one line.

Without this the others wait for its heartbeat for 100 seconds, and JAX then ends them with a C++ stack. Every
process keeps a connection to process 0. The system closes it with the process, however that ends; a process
that has finished says so before. Where no connection can be made, JAX's heartbeat is what is left; and where
process 0 dies, in which JAX's coordinator lives, JAX may end the others in the same moment, and then its own
text stands beside the line. That is a fatal message of C++, which TF_CPP_MIN_LOG_LEVEL does not keep back;
the handler that its runtime could be given instead is not offered by `jax.distributed.initialize`, and to
close file descriptor 2 would hide crashes as well.
"""

import atexit
import os
import re
import secrets
import socket
import sys
import threading

import jax
import numpy as np
from jax.experimental import multihost_utils

LOST = (
    "another process of this run has ended, or cannot be reached; its own last line says why. "
    "Start all of them again"
)
_DONE, _NOTICE = b".", 512  # bytes of the address and the password that process 0 tells the others
_SECONDS = 10.0  # for a connection, after which there is none
_ERRORS = re.compile(r"\bgloo\b|heartbeat|coordination service|CoordinationService|barrier", re.IGNORECASE)
_telling = threading.Lock()


def watch() -> None:
    """Starts to watch; every process calls it at the same point, none of which may be far ahead.

    It is also the first exchange between the processes, after which each may be slow.
    """
    if jax.process_index():
        word, address = _told(b"").split(b" ", 1)
        host, port = address.decode().rsplit(":", 1)
        _connect(host, int(port), word)
        return
    word = secrets.token_hex(16).encode()  # a stranger who finds the port is not a process of this run
    listener = socket.create_server(("", 0), backlog=jax.process_count())
    listener.settimeout(_SECONDS)
    host = os.environ.get("JAX_COORDINATOR_ADDRESS", "").rpartition(":")[0] or socket.gethostname()
    _told(b"%s %s:%d" % (word, host.strip("[]").encode(), listener.getsockname()[1]))
    threading.Thread(target=_accept, args=(listener, word), daemon=True).start()


def lost(error: BaseException) -> bool:
    """Whether an error says that another process is gone, in the words of JAX and Gloo."""
    return jax.process_count() > 1 and _ERRORS.search(str(error)) is not None


def leave(code: int = 1) -> None:
    """Ends this process at once with the line that says why, which is printed once."""
    if _telling.acquire(blocking=False):
        # In one piece: JAX may be about to tell it in its own way.
        sys.stderr.write(f"{sys.argv[0]}: {LOST}\n")
        sys.stderr.flush()
        os._exit(code)
    threading.Event().wait()  # the thread that prints it ends the process


def _told(notice: bytes) -> bytes:
    """What process 0 tells, in every process."""
    row = np.zeros(_NOTICE, np.int32)
    row[: len(notice)] = list(notice)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(row)).tolist()).rstrip(b"\0")


def _connect(host: str, port: int, word: bytes) -> None:
    try:
        line = socket.create_connection((host, port), timeout=_SECONDS)
        line.sendall(word)
    except OSError:
        return
    _keep(line)


def _accept(listener: socket.socket, word: bytes) -> None:
    with listener:
        for _ in range(jax.process_count() - 1):
            try:
                line = listener.accept()[0]
                line.settimeout(_SECONDS)
                if line.recv(len(word), socket.MSG_WAITALL) == word:
                    _keep(line)
            except OSError:
                return


def _keep(line: socket.socket) -> None:
    """Watches one connection until its other end is through, and says when this one is."""
    line.settimeout(None)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    threading.Thread(target=_wait, args=(line,), daemon=True).start()
    atexit.register(_end, line)


def _wait(line: socket.socket) -> None:
    try:
        if not line.recv(1):
            leave()
    except OSError:  # of the network, which says nothing about the process
        return


def _end(line: socket.socket) -> None:
    try:
        line.sendall(_DONE)
    except OSError:
        return
