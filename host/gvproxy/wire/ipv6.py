"""IPv6 headers (RFC 8200), as far as they are told apart: the gateway has no IPv6."""

SIZE = 40
NEXT_HEADER = 6
"""Where the fixed header says what follows."""
EXTENSION_UNIT = 8
"""The least extension header, and what lengths of most count."""

HOP_BY_HOP = 0
ROUTING = 43
FRAGMENT = 44
AUTHENTICATION = 51
NO_NEXT_HEADER = 59
DESTINATION = 60
MOBILITY, HIP, SHIM6 = 135, 139, 140
EXPERIMENTS = 253, 254
PROTOCOL_UDP = 17
PROTOCOL_ICMP = 58

OFFSET_MASK = 0xFFF8
"""Of a fragment header's second half-word."""

EXTENSIONS = frozenset(
    (HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, MOBILITY, HIP, SHIM6, *EXPERIMENTS)
)
"""IANA's "IPv6 Extension Header Types", but for ESP, behind which only who has its key can look."""

ROUTER_ADVERTISEMENT = 134  # RFC 4861 §4.2
REDIRECT = 137  # RFC 4861 §4.5
