"""Connecting to the first of several addresses that answers (RFC 8305, Happy Eyeballs)."""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import time
from collections import deque

from .addresses import Address, AddressOrder
from .network import keep_alive

# The next address is tried when the one before it has not answered for so long (RFC 8305,
# section 5, Connection Attempt Delay).
ATTEMPT_DELAY_SECONDS = 0.25
# A name may lead to any number of addresses. Those that were not tried are the first next time.
MOST_AT_ONCE = 8
# No way from here to that address: what became of the others tells more.
NO_WAY = (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class Race:
    """One connection, to whichever of the addresses answers first; for one use.

    ``order`` learns which did not answer. ``wake`` is a socket that ends the race as soon as there
    is something to read of it, its end included.
    """

    def __init__(self, addresses: list[Address], order: AddressOrder, wake: socket.socket) -> None:
        self._left = deque(order.sorted(addresses))
        self._tried: list[Address] = []
        self._order = order
        self._under_way: dict[int, tuple[socket.socket, Address]] = {}
        self._errors: list[OSError] = []
        self._wake = wake
        self._poll = select.poll()
        self._poll.register(wake, select.POLLIN)

    def run(self, deadline: float) -> tuple[socket.socket, Address]:
        """The connected socket, and its address; ``deadline`` is as of `time.monotonic`.

        Raises:
            OSError: none answered, or the race was ended.
        """
        try:
            while self._left or self._under_way:
                until = deadline
                if self._left and len(self._under_way) < MOST_AT_ONCE:
                    self._start(self._left.popleft())
                    if self._left:
                        until = min(deadline, time.monotonic() + ATTEMPT_DELAY_SECONDS)
                if winner := self._first_to_answer(until):
                    self._tried.remove(winner[1])
                    self._order.answered(winner[1])
                    return winner
                if time.monotonic() >= deadline:
                    raise TimeoutError
            raise self._telling_error()
        finally:
            self._order.failed(self._tried)
            for sock, _ in self._under_way.values():
                sock.close()

    def _start(self, address: Address) -> None:
        family, sockaddr = address
        self._tried.append(address)
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            self._errors.append(error)
            return
        sock.setblocking(False)
        keep_alive(sock)
        code = sock.connect_ex(sockaddr)
        if code in (0, errno.EINPROGRESS):
            self._under_way[sock.fileno()] = sock, address
            self._poll.register(sock, select.POLLOUT)
        else:
            self._failed(sock, code)

    def _first_to_answer(self, until: float) -> tuple[socket.socket, Address] | None:
        """Wait for an answer; None when one attempt failed, or it is time for the next."""
        if not self._under_way:
            return None
        left = max(0.0, until - time.monotonic())
        for descriptor, _ in self._poll.poll(math.ceil(left * 1000)):
            if descriptor == self._wake.fileno():
                raise OSError("broken off")
            sock, address = self._under_way.pop(descriptor)
            self._poll.unregister(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            is_last = not self._left and not self._under_way
            if code == 0 or (code == errno.ECONNRESET and is_last):  # connected, and then reset
                return sock, address
            self._failed(sock, code)
        return None

    def _failed(self, sock: socket.socket, code: int) -> None:
        sock.close()
        self._errors.append(OSError(code, os.strerror(code)))

    def _telling_error(self) -> OSError:
        found = self._errors or [OSError("no address")]
        return next((error for error in found if error.errno not in NO_WAY), found[0])
