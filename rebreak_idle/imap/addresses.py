"""Where connections may lead: host names to addresses, without those inside our own network."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from ..errors import SessionLost

SHOWN_CHARACTERS = 100
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


class AddressRefused(SessionLost):
    """The host leads to an address that connections must not go to."""


def resolve(host: str, port: int, allow_private: bool) -> list[Address]:
    """The addresses to try, in order; the check is made on the very addresses that are returned.

    Raises:
        SessionLost: the name does not resolve.
        AddressRefused: it leads to addresses of a private network only.
    """
    shown = ascii(host if len(host) <= SHOWN_CHARACTERS else host[:SHOWN_CHARACTERS] + "…")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a valid name"
        raise SessionLost(f"the host {shown} does not resolve ({reason})") from error
    addresses = [(family, sockaddr) for family, _, _, _, sockaddr in found]
    allowed = [a for a in addresses if allow_private or is_public(str(a[1][0]))]
    if not allowed:
        raise AddressRefused(
            f"the host {shown} leads to {addresses[0][1][0]}, which is not a public address: "
            "fix the row, or set IMAP_ALLOW_PRIVATE_HOSTS=true if that is wanted"
        )
    return allowed  # type: ignore[return-value]  # the shapes of AF_INET and AF_INET6


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
