"""Where connections may lead: host names to addresses, without those inside our own network."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from itertools import chain, zip_longest

from ..errors import NameUnusable

SHOWN_CHARACTERS = 100
# How long all mailboxes of a name go by one look-up, and by one that failed. What could not be
# connected to is looked up anew.
FOUND_SECONDS = 60.0
NOT_FOUND_SECONDS = 1.0
# Of a name whose addresses change all the time not all are remembered.
MOST_REMEMBERED = 32
Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]

# NAT64's well-known prefix (RFC 6052, section 2.1) holds an IPv4 address; ipaddress knows the
# IPv4-mapped, 6to4 and Teredo forms itself.
NAT64 = IPv6Network("64:ff9b::/96")
# What some versions of ipaddress call global: IETF protocol assignments (RFC 6890), the local
# NAT64 prefix and the site-local addresses of old (RFC 3879).
NOT_PUBLIC = (
    IPv4Network("192.0.0.0/24"),
    IPv6Network("64:ff9b:1::/48"),
    IPv6Network("fec0::/10"),
)


class AddressRefused(NameUnusable):
    """The host leads to an address that connections must not go to."""


def resolve(host: str, port: int, allow_private: bool) -> list[Address]:
    """The addresses to try, in order; the check is made on the very addresses that are returned.

    Raises:
        NameUnusable: the name does not resolve.
        AddressRefused: it leads to addresses of a private network only.
    """
    shown = ascii(host if len(host) <= SHOWN_CHARACTERS else host[:SHOWN_CHARACTERS] + "…")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a valid name"
        raise NameUnusable(f"the host {shown} does not resolve ({reason})") from error
    addresses = list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))
    allowed = [a for a in addresses if allow_private or is_public(str(a[1][0]))]
    if not allowed:
        raise AddressRefused(
            f"the host {shown} leads to {addresses[0][1][0]}, which is not a public address: "
            "fix the row, or set IMAP_ALLOW_PRIVATE_HOSTS=true if that is wanted"
        )
    return allowed  # type: ignore[return-value]  # the shapes of AF_INET and AF_INET6


class Resolver:
    """Looks names up for all mailboxes; any thread may call."""

    def __init__(self, allow_private: bool, clock: Callable[[], float]) -> None:
        self._allow_private = allow_private
        self._clock = clock
        self._found: dict[tuple[str, int], tuple[float, list[Address] | NameUnusable]] = {}

    def at_hand(self, host: str, port: int) -> list[Address] | None:
        """What is known of a name already; None where it has to be looked up.

        Raises:
            NameUnusable: it was looked up a moment ago, in vain.
        """
        at, found = self._found.get((host.lower(), port), (-math.inf, []))
        age = self._clock() - at
        if isinstance(found, NameUnusable):
            if age < NOT_FOUND_SECONDS:
                raise type(found)(str(found))
            return None
        return found if age < FOUND_SECONDS else None

    def addresses(self, host: str, port: int) -> list[Address]:
        """As `resolve`; that may take long where the addresses are not at hand."""
        if (found := self.at_hand(host, port)) is not None:
            return found
        try:
            found = resolve(host, port, self._allow_private)
        except NameUnusable as error:
            self._found[host.lower(), port] = (self._clock(), type(error)(str(error)))
            raise
        self._found[host.lower(), port] = (self._clock(), found)
        return found

    def forget(self, host: str, port: int) -> None:
        """Look the name up anew next time: what it led to was of no use."""
        self._found.pop((host.lower(), port), None)

    def forget_all_but(self, names: Iterable[tuple[str, int]]) -> None:
        """Let go of the other names and ports; names in lower case."""
        for name in set(self._found) - set(names):
            self._found.pop(name, None)


class AddressOrder:
    """In which order the addresses of one server are tried: those that failed come last, so that
    not each connection waits for them. Any thread may call.
    """

    def __init__(self) -> None:
        self._failed: list[Address] = []

    def sorted(self, addresses: list[Address]) -> list[Address]:
        """The addresses, families in turn (RFC 8305, section 4); the latest failure last."""
        failed = self._failed
        untried = [address for address in addresses if address not in failed]
        return _families_in_turn(untried) + [a for a in failed if a in addresses]

    def failed(self, addresses: list[Address]) -> None:
        """These did not answer, or led to no secured connection."""
        others = [address for address in self._failed if address not in addresses]
        self._failed = (others + addresses)[-MOST_REMEMBERED:]

    def answered(self, address: Address) -> None:
        """A connection to it came about."""
        if address in self._failed:
            self._failed = [other for other in self._failed if other != address]


def _families_in_turn(addresses: list[Address]) -> list[Address]:
    first = [a for a in addresses if a[0] == addresses[0][0]]
    second = [a for a in addresses if a[0] != addresses[0][0]]
    return [a for a in chain.from_iterable(zip_longest(first, second)) if a is not None]


def is_public(text: str) -> bool:
    """Whether an address is one of the Internet at large, in whatever form it is written."""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address) and (inner := _embedded(address)) is not None:
        return is_public(str(inner))
    if any(address in network for network in NOT_PUBLIC):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address inside an IPv6 one, where there is one."""
    if address.teredo is not None:
        return address.teredo[1]
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
