"""Tells public addresses from those that lead into a machine, its network, or a cloud's own services."""

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address

# After IANA's special-purpose registry, of which Python's `is_global` has another edition in each release.
INNER_V4 = [
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' own, and Alibaba's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's services for its machines
        "169.254.0.0/16",  # link-local, and the metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocols, and Oracle's metadata
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
# All that is public in IPv6. Addresses that hold one of IPv4 (mapped, compatible, NAT64) are outside of it, as are
# local and multicast ones.
PUBLIC_V6 = IPv6Network("2000::/3")
INNER_V6 = [
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocols, and Teredo, which holds addresses of IPv4
        "2001:db8::/32",
        "2002::/16",  # 6to4, which does too
        "3fff::/20",
    )
]


def is_public(address: str) -> bool:
    """Says whether `address`, as the system writes it, is one that anybody on the internet could have."""
    if "%" in address:  # with a zone it means something on this machine only
        return False
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv4Address):
        return not any(found in network for network in INNER_V4)
    return found in PUBLIC_V6 and not any(found in network for network in INNER_V6)
