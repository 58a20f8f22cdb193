"""Subject and expiry of a certificate that was refused.

The standard library decodes only certificates that it trusts, so this reads the two fields out of the DER itself. The
bytes come from a stranger: whatever is odd gives an empty answer, never an error.
"""

from __future__ import annotations

from collections.abc import Iterator

_COMMON_NAME = bytes((0x55, 0x04, 0x03))


def describe_certificate(der: bytes) -> str:
    """``subject "CN", expires 2026-01-02``; empty when the bytes are not a certificate."""
    try:
        certificate = next(_items(der))[1]
        fields = [item for item in _items(next(_items(certificate))[1]) if item[0] != 0xA0]
        # serial number, signature algorithm, issuer, validity, subject
        validity, subject = fields[3][1], fields[4][1]
        expiry = list(_items(validity))[1]
        return f'subject "{_common_name(subject)}", expires {_date(*expiry)}'
    except (IndexError, StopIteration, ValueError):
        return ""


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element, one after another."""
    at = 0
    while at < len(data):
        tag, size = data[at], data[at + 1]
        at += 2
        if size & 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[at : at + count], "big")
            at += count
        if at + size > len(data):
            raise ValueError("cut short")
        yield tag, data[at : at + size]
        at += size


def _common_name(subject: bytes) -> str:
    for _, names in _items(subject):
        for _, pair in _items(names):
            (_, oid), (_, value) = list(_items(pair))[:2]
            if oid == _COMMON_NAME:
                return "".join(c for c in value.decode("utf-8", "replace") if c.isprintable())[:100]
    return ""


def _date(tag: int, text: bytes) -> str:
    digits = text.decode("ascii", "replace")
    if tag == 0x17:  # UTCTime has two digits for the year, 50 to 99 for the last century
        digits = ("19" if digits[:2] >= "50" else "20") + digits
    if not digits[:8].isdigit():
        raise ValueError("not a date")
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}"
