"""What looks like a key where none belongs: in what is shown, kept in manifests and logged."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

_SECRET = re.compile(
    r"(key|token|secret|password|passwd|signature|credential)s?$|\bsig$|^authorization$|^cookie$",
    re.IGNORECASE,
)


def is_secret(name: str) -> bool:
    """Whether a header or a parameter of that name carries a key."""
    return _SECRET.search(name) is not None


def holds_keys(address: str) -> bool:
    """Whether an address names a user, a password or a key.

    A key may hold a slash, which ends what URLs call the host. Azure's addresses name a container
    where others name a user, and Google's may say ``anonymous`` there.
    """
    scheme, _, rest = address.partition("://")
    place, _, query = rest.partition("?")
    user, named, _ = place.rpartition("@")
    if named and ":" in user.partition("/")[0]:
        return True
    if named and "/" not in user and scheme.lower() in ("s3", "http", "https"):
        return True
    parameters = parse_qsl(query, keep_blank_values=True)
    # An endpoint is an address of its own.
    return any(is_secret(name) or re.search(":.*@", value) for name, value in parameters)
