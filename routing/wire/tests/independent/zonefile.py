#!/usr/bin/env python3
"""Checks docs/vectors/zonefile.json from docs/protocol.md alone: the canonical bytes and the signature.

Nothing here is shared with the Rust program. P-256 is written out: checking a signature takes twenty lines.

    python3 routing/wire/tests/independent/zonefile.py docs/vectors/zonefile.json
"""

import hashlib
import json
import sys

P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)


def add(a, b):
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and (a[1] + b[1]) % P == 0:
        return None
    if a == b:
        slope = (3 * a[0] * a[0] - 3) * pow(2 * a[1], -1, P)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def times(k, point):
    result = None
    while k:
        if k & 1:
            result = add(result, point)
        point, k = add(point, point), k >> 1
    return result


def decompress(data):
    x = int.from_bytes(data[1:], "big")
    y = pow(x**3 - 3 * x + B, (P + 1) // 4, P)
    assert (y * y - x**3 + 3 * x - B) % P == 0
    return x, y if y % 2 == data[0] % 2 else P - y


def verifies(key, message, signature):
    r, s = (int.from_bytes(signature[at : at + 32], "big") for at in (0, 32))
    assert 0 < r < N and 0 < s <= N // 2
    e = int.from_bytes(hashlib.sha256(message).digest(), "big")
    w = pow(s, -1, N)
    point = add(times(e * w % N, G), times(r * w % N, decompress(key)))
    return point[0] % N == r


def entries(text):
    """Enough for this file: CR LF, one escape, no duplicates."""
    for line in text.split("\r\n"):
        if line and not line.startswith(";"):
            key, _, value = line.partition("=")
            yield key.strip().lower().encode(), value.strip().replace("\\;", ";").encode()


def main(path):
    vector = json.load(open(path))
    found = dict(entries(vector["signed"]))
    canonical = b"anode zone file 1"
    for key, value in entries(vector["signed"]):
        if key != b"sig":
            canonical += len(key).to_bytes(4, "big") + key + len(value).to_bytes(4, "big") + value
    assert canonical.hex() == vector["canonical"], "canonical bytes"
    key, signature = bytes.fromhex(found[b"key"].decode()), bytes.fromhex(found[b"sig"].decode())
    assert verifies(key, canonical, signature), "signature"
    assert not verifies(key, canonical + b"x", signature), "anything would verify"
    print("the zone file's vector is as docs/protocol.md says")


main(*sys.argv[1:])
