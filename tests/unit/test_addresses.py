"""Where connections may lead."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rebreak_idle.errors import NameUnusable, SessionLost
from rebreak_idle.imap.addresses import (
    FOUND_SECONDS,
    NOT_FOUND_SECONDS,
    AddressRefused,
    Resolver,
    is_public,
    resolve,
)

PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "142.250.102.108",
    "172.15.255.255",
    "172.32.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "223.255.255.254",
    "2606:4700:4700::1111",
    "2a00:1450:4001:82a::200e",
    "2001:4860:4860::8888",
]
PRIVATE_IPV4 = [
    "127.0.0.1",
    "127.255.255.254",
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "169.254.0.1",
    "100.64.0.1",
    "100.127.255.255",
    "224.0.0.1",
    "239.255.255.255",
    "0.0.0.0",
    "0.1.2.3",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
]
PRIVATE_IPV6 = [
    "::1",
    "::",
    "::127.0.0.1",
    "::8.8.8.8",
    "fc00::1",
    "fd12:3456:789a::1",
    "fe80::1",
    "fe80::1%eth0",
    "fe80::1%1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "100::1",
    "2001:db8::1",
    "2001:2::1",
    "64:ff9b:1::808:808",
    "4000::1",
]


def mapped(inner: str) -> str:
    """The IPv4-mapped form (RFC 4291, section 2.5.5.2)."""
    return f"::ffff:{inner}"


def six_to_four(inner: str) -> str:
    """An address of the 6to4 network of ``inner`` (RFC 3056, section 2)."""
    return str(IPv6Address((0x2002 << 112) | (int(IPv4Address(inner)) << 80) | 1))


def nat64(inner: str) -> str:
    """The form with NAT64's well-known prefix (RFC 6052, section 2.1)."""
    return f"64:ff9b::{inner}"


def teredo(inner: str) -> str:
    """A Teredo client at ``inner`` of a public server (RFC 4380, section 4)."""
    server, client = int(IPv4Address("65.54.227.120")), int(IPv4Address(inner)) ^ 0xFFFFFFFF
    return str(IPv6Address((0x20010000 << 96) | (server << 64) | client))


FORMS = [mapped, six_to_four, nat64, teredo]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    """Addresses of the Internet at large are public."""
    assert is_public(address)


@pytest.mark.parametrize("address", [*PRIVATE_IPV4, *PRIVATE_IPV6])
def test_addresses_that_are_not_public(address: str) -> None:
    """Loopback, private, link-local, shared, multicast, unspecified and reserved are not."""
    assert not is_public(address)


@pytest.mark.parametrize("inner", PRIVATE_IPV4)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_private_address_inside_ipv6(form: object, inner: str) -> None:
    """An IPv4 address that is not public is not so inside an IPv6 one either."""
    assert callable(form)
    assert not is_public(form(inner))


@pytest.mark.parametrize("inner", [a for a in PUBLIC if ":" not in a])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_public_address_inside_ipv6(form: object, inner: str) -> None:
    """A public IPv4 address is public inside an IPv6 one too: NAT64 networks need it."""
    assert callable(form)
    assert is_public(form(inner))


@given(st.ip_addresses(v=4))
@settings(deadline=None)
def test_all_forms_of_an_address_agree(address: IPv4Address) -> None:
    """An IPv4 address and its IPv6 forms get the same answer."""
    answers = {is_public(str(address))} | {is_public(form(str(address))) for form in FORMS}
    assert len(answers) == 1


@given(st.ip_addresses())
@settings(deadline=None)
def test_nothing_private_is_public(address: IPv4Address | IPv6Address) -> None:
    """No address that Python calls special in any way is public; none raises."""
    special = (
        address.is_loopback, address.is_link_local, address.is_multicast, address.is_unspecified
    )  # fmt: skip
    if is_public(str(address)):
        assert not any(special)


# resolve


def test_a_private_address_is_refused() -> None:
    """A host that is only at private addresses is refused, with what to do about it."""
    with pytest.raises(AddressRefused) as caught:
        resolve("127.0.0.1", 993, allow_private=False)
    text = str(caught.value)
    assert "'127.0.0.1'" in text
    assert "IMAP_ALLOW_PRIVATE_HOSTS=true" in text


@pytest.mark.parametrize(
    "host", ["localhost", "2130706433", "127.1", "0x7f.1", "0", "017700000001"]
)
def test_other_names_of_loopback_are_refused(host: str) -> None:
    """The check is made on the address, however the host is written."""
    with pytest.raises(SessionLost):
        resolve(host, 993, allow_private=False)


def test_private_addresses_where_they_are_allowed() -> None:
    """With IMAP_ALLOW_PRIVATE_HOSTS a private address is as good as any."""
    assert resolve("127.0.0.1", 993, allow_private=True) == [(socket.AF_INET, ("127.0.0.1", 993))]


def test_a_public_address_is_returned() -> None:
    """A public address passes, with its port."""
    assert resolve("8.8.8.8", 143, allow_private=False) == [(socket.AF_INET, ("8.8.8.8", 143))]


def test_every_address_that_is_returned_was_checked() -> None:
    """What is returned for a host is a list of addresses in a form for connect."""
    for family, sockaddr in resolve("localhost", 993, allow_private=True):
        assert family in (socket.AF_INET, socket.AF_INET6)
        assert ip_address(sockaddr[0]).is_loopback
        assert sockaddr[1] == 993


@pytest.mark.parametrize(
    "host",
    ["no-such-host.invalid", "a..b", "x" * 64 + ".example", "two words", "", "a\nb", "☃" * 70],
)
def test_a_host_that_does_not_resolve(host: str) -> None:
    """A name that leads nowhere, or is none, loses the session with one clear line."""
    with pytest.raises(SessionLost) as caught:
        resolve(host, 993, allow_private=False)
    text = str(caught.value)
    assert "does not resolve" in text
    assert text.isprintable()


# Resolver


class Asked:
    """Stands for getaddrinfo: notes who asks, and answers as a test says."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.found: list[str] = ["192.0.2.1"]

    def __call__(self, name: str, port: int, **_: object) -> list[object]:
        self.names.append(name)
        if not self.found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in self.found]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked()
    monkeypatch.setattr(socket, "getaddrinfo", asked)
    return asked


def test_a_name_is_looked_up_once_a_minute(asked: Asked) -> None:
    """Whoever asks in between gets the same; names are the same in any case."""
    now = 0.0
    resolver = Resolver(True, lambda: now)
    assert resolver.at_hand("a", 993) is None
    for name in ("a", "A", "a"):
        assert resolver.addresses(name, 993) == [(socket.AF_INET, ("192.0.2.1", 993))]
    assert resolver.addresses("a", 143) == [(socket.AF_INET, ("192.0.2.1", 143))]
    assert len(asked.names) == 2
    asked.found, now = ["192.0.2.2"], FOUND_SECONDS + 1
    assert resolver.at_hand("a", 993) is None
    assert resolver.addresses("a", 993) == [(socket.AF_INET, ("192.0.2.2", 993))]


def test_a_name_that_was_of_no_use_is_looked_up_anew(asked: Asked) -> None:
    """What could not be connected to may have moved."""
    resolver = Resolver(True, lambda: 0.0)
    resolver.addresses("a", 993)
    resolver.forget("A", 993)
    asked.found = ["192.0.2.2"]
    assert resolver.addresses("a", 993) == [(socket.AF_INET, ("192.0.2.2", 993))]
    resolver.forget_all_but([("a", 993)])
    assert resolver.at_hand("a", 993)
    resolver.forget_all_but([("b", 993)])
    assert resolver.at_hand("a", 993) is None


def test_a_name_that_did_not_resolve_holds_for_a_moment(asked: Asked) -> None:
    """All that asked meanwhile are told; then it is looked up again."""
    now, asked.found = 0.0, []
    resolver = Resolver(True, lambda: now)
    for _ in range(3):
        with pytest.raises(NameUnusable, match="does not resolve"):
            resolver.addresses("a", 993)
    with pytest.raises(NameUnusable):
        resolver.at_hand("a", 993)
    assert len(asked.names) == 1
    now, asked.found = NOT_FOUND_SECONDS + 0.1, ["192.0.2.1"]
    assert resolver.at_hand("a", 993) is None
    assert resolver.addresses("a", 993)


def test_what_is_kept_of_a_name_was_checked(asked: Asked) -> None:
    """A private address is refused each time, and not handed out among others."""
    resolver = Resolver(False, lambda: 0.0)
    asked.found = ["127.0.0.1", "10.0.0.1"]
    for _ in range(2):
        with pytest.raises(AddressRefused):
            resolver.addresses("a", 993)
    asked.found = ["127.0.0.1", "8.8.8.8", "8.8.8.8"]
    for _ in range(2):
        assert resolver.addresses("b", 993) == [(socket.AF_INET, ("8.8.8.8", 993))]
