"""Which IP addresses belong to the public internet: one table, the same on every version of Python.

`ipaddress.is_global` differs between patch versions, and calls much of what is obsolete public. The table follows the
IANA registries of special-purpose IPv4 and IPv6 addresses (as of 2025), and refuses what they leave open.
"""

from __future__ import annotations

import ipaddress
from functools import cache
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

_PRIVATE = "an address of a private network"
_MACHINE = "an address of this machine itself"
_LINK = "an address of the local link"
_DOCUMENTATION = "an address for examples in documentation"
_RESERVED = "a reserved address"
_MULTICAST = "a multicast address"
_OBSOLETE = "an address of an obsolete transition mechanism"
_CARRIER = "an address of a carrier's or an overlay network (CGNAT, Tailscale), which also some VPNs hand out"
_FAKE = "an address for benchmarks, which VPNs and proxies hand out in the place of real ones (fake IP)"
_PUBLIC = None

# The most specific block counts. Outside of them, IPv4 is public, and of IPv6 the one block that IANA has assigned to
# the public internet (RFC 4291).
_BLOCKS: dict[str, str | None] = {
    "0.0.0.0/0": _PUBLIC,
    "0.0.0.0/8": _MACHINE,
    "10.0.0.0/8": _PRIVATE,
    "100.64.0.0/10": _CARRIER,
    "127.0.0.0/8": _MACHINE,
    "169.254.0.0/16": _LINK,  # also the metadata services of clouds
    "172.16.0.0/12": _PRIVATE,
    "192.0.0.0/24": _RESERVED,
    "192.0.0.9/32": _PUBLIC,  # port control and TURN, as anycast
    "192.0.0.10/32": _PUBLIC,
    "192.0.2.0/24": _DOCUMENTATION,
    "192.88.99.0/24": _OBSOLETE,  # 6to4 relays
    "192.168.0.0/16": _PRIVATE,
    "198.18.0.0/15": _FAKE,
    "198.51.100.0/24": _DOCUMENTATION,
    "203.0.113.0/24": _DOCUMENTATION,
    "224.0.0.0/4": _MULTICAST,
    "240.0.0.0/4": _RESERVED,
    "::/0": _RESERVED,
    "::/96": _OBSOLETE,  # IPv4-compatible
    "::/128": _MACHINE,
    "::1/128": _MACHINE,
    "64:ff9b:1::/48": _PRIVATE,  # NAT64 of a site's own
    "100::/64": _RESERVED,  # discarded
    "2000::/3": _PUBLIC,
    "2001::/23": _RESERVED,  # protocols, benchmarks and identifiers, but for:
    "2001::/32": _OBSOLETE,  # Teredo
    "2001:1::1/128": _PUBLIC,  # port control, TURN, and service registration, as anycast
    "2001:1::2/128": _PUBLIC,
    "2001:1::3/128": _PUBLIC,
    "2001:3::/32": _PUBLIC,  # AMT
    "2001:4:112::/48": _PUBLIC,  # AS112
    "2001:20::/28": _PUBLIC,  # ORCHIDv2
    "2001:30::/28": _PUBLIC,  # drones
    "2001:db8::/32": _DOCUMENTATION,
    "3fff::/20": _DOCUMENTATION,
    "5f00::/16": _RESERVED,  # SRv6
    "fc00::/7": _PRIVATE,
    "fe80::/10": _LINK,
    "fec0::/10": _PRIVATE,  # site-local, obsolete
    "ff00::/8": _MULTICAST,
}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@cache
def _table() -> list[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, str | None]]:
    """Return the blocks, those within others first."""
    blocks = [(ipaddress.ip_network(block), what) for block, what in _BLOCKS.items()]
    return sorted(blocks, key=lambda row: -row[0].prefixlen)


def parse_address(text: str) -> Address | None:
    """Return `text` as an IP address if it is one, as resolvers print it; IPv6 without brackets."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def describe_special(address: Address) -> str | None:
    """Return what an address is that does not belong to the public internet; `None` for one that does.

    An IPv4 address inside IPv6 (mapped, NAT64, 6to4) is what it is as IPv4.
    """
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return _LINK
        address = _embedded(address) or address
    return next(what for block, what in _table() if address.version == block.version and address in block)


def is_public(address: Address) -> bool:
    """Return whether an address belongs to the public internet."""
    return describe_special(address) is None


def is_loopback(address: Address) -> bool:
    """Return whether an address is this machine itself."""
    # Only the mapped form: behind NAT64 or 6to4, 127.0.0.1 would be the gateway.
    inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (inner or address).is_loopback


def _embedded(address: IPv6Address) -> IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else address.sixtofour
