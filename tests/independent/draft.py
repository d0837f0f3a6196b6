#!/usr/bin/env python3
"""Decodes captured packets knowing only the Anode draft 0.8 (docs/spec/anode.md) and its vectors.

    draft.py VECTORS.json                                     checks itself against the vectors
    draft.py VECTORS.json CAPTURE IDENTITY.key IDENTITY.key   and then every packet of a capture

CAPTURE has a packet in hex per line. Every packet must have a header, a right MAC and a body as the draft has them; sender and
recipient must be the two identities, or the packet a presence EPI (D23). Prints counts by type; status 1 names what is wrong.

AES, CMAC and P-256 are written out here, from FIPS 197, SP 800-38B and SEC 1, so that nothing is shared with what is tested.
It is slow and not constant in time: test keys only.
"""

import base64
import json
import sys
from collections import Counter

# ---- P-256 (SEC 1, SEC 2)

P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)


def point_add(p, q):
    """Affine addition; None is the point at infinity."""
    if p is None:
        return q
    if q is None:
        return p
    if p[0] == q[0]:
        if (p[1] + q[1]) % P == 0:
            return None
        slope = (3 * p[0] * p[0] - 3) * pow(2 * p[1], -1, P) % P
    else:
        slope = (q[1] - p[1]) * pow(q[0] - p[0], -1, P) % P
    x = (slope * slope - p[0] - q[0]) % P
    return x, (slope * (p[0] - x) - p[1]) % P


def point_mul(k, p):
    result = None
    while k:
        if k & 1:
            result = point_add(result, p)
        p = point_add(p, p)
        k >>= 1
    return result


def compress(p):
    return bytes([2 + (p[1] & 1)]) + p[0].to_bytes(32, "big")


def decompress(key):
    """The point of 33 bytes (A12); what D9 refuses is an error."""
    x = int.from_bytes(key[1:], "big")
    need(len(key) == 33 and key[0] in (2, 3) and x < P, "public key")
    square = (x * x * x - 3 * x + B) % P
    y = pow(square, (P + 1) // 4, P)
    need(y * y % P == square, "public key not on the curve")
    return x, y if y & 1 == key[0] & 1 else P - y


# ---- AES-256 (FIPS 197), CMAC (SP 800-38B)


def xtime(a):
    return (a << 1) ^ (0x11B if a & 0x80 else 0)


def gmul(a, b):
    result = 0
    while b:
        if b & 1:
            result ^= a
        a = xtime(a)
        b >>= 1
    return result


def make_sbox():
    sbox = []
    for value in range(256):
        inverse = next((i for i in range(256) if gmul(value, i) == 1), 0)
        out = 0x63
        for turn in range(5):
            out ^= (inverse << turn | inverse >> (8 - turn)) & 0xFF
        sbox.append(out)
    return sbox


SBOX = make_sbox()
TWO = [gmul(i, 2) for i in range(256)]
THREE = [gmul(i, 3) for i in range(256)]


class Aes256:
    def __init__(self, key):
        words = [list(key[i : i + 4]) for i in range(0, 32, 4)]
        constant = 1
        for i in range(8, 60):
            word = list(words[i - 1])
            if i % 8 == 0:
                word = [SBOX[b] for b in word[1:] + word[:1]]
                word[0] ^= constant
                constant = xtime(constant)
            elif i % 8 == 4:
                word = [SBOX[b] for b in word]
            words.append([a ^ b for a, b in zip(words[i - 8], word)])
        self.rounds = [sum(words[i : i + 4], []) for i in range(0, 60, 4)]

    def encrypt(self, block):
        state = [a ^ b for a, b in zip(block, self.rounds[0])]
        for number in range(1, 15):
            # SubBytes and ShiftRows; byte 4c + r is row r of column c.
            state = [SBOX[state[(i + 4 * (i % 4)) % 16]] for i in range(16)]
            if number < 14:
                mixed = []
                for c in range(0, 16, 4):
                    s = state[c : c + 4]
                    for r in range(4):
                        mixed.append(
                            TWO[s[r]] ^ THREE[s[(r + 1) % 4]] ^ s[(r + 2) % 4] ^ s[(r + 3) % 4]
                        )
                state = mixed
            state = [a ^ b for a, b in zip(state, self.rounds[number])]
        return bytes(state)


def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b))


class Cmac:
    def __init__(self, key):
        self.aes = Aes256(key)
        zero = self.aes.encrypt(bytes(16))
        self.whole = self.double(zero)
        self.padded = self.double(self.whole)

    @staticmethod
    def double(block):
        number = int.from_bytes(block, "big") << 1
        if number >> 128:
            number = number & (1 << 128) - 1 ^ 0x87
        return number.to_bytes(16, "big")

    def mac(self, message):
        last = (max(len(message), 1) - 1) // 16 * 16
        head, tail = message[:last], message[last:]
        if len(tail) == 16:
            tail = xor(tail, self.whole)
        else:
            tail = xor((tail + b"\x80").ljust(16, b"\0"), self.padded)
        state = bytes(16)
        for i in range(0, last, 16):
            state = self.aes.encrypt(xor(state, head[i : i + 16]))
        return self.aes.encrypt(xor(state, tail))


# ---- Addresses and keys (sections 2.2 to 2.7)


class Bad(Exception):
    pass


def need(condition, what):
    if not condition:
        raise Bad(what)


def digest(message):
    """AES-DIGEST (D11): Davies-Meyer over 32-byte keys."""
    state = bytes(16)
    whole = len(message) // 32 * 32
    end = (message[whole:] + b"\x80").ljust(32, b"\0")
    length = bytes(8) + len(message).to_bytes(8, "big") + end[16:]
    for block in [message[i : i + 32] for i in range(0, whole, 32)] + [end, length]:
        state = xor(state, Aes256(block).encrypt(state))
    return state


def short_id(address):
    d = digest(address)
    return xor(d[:8], d[8:])


def fold(raw, size):
    out = bytearray(size)
    for i in range(max(len(raw), size)):
        out[i % size] ^= raw[i % len(raw)]
    return bytes(out)


def agree(private, address_or_key, size=32):
    point = point_mul(private, decompress(address_or_key[-33:]))
    return fold(point[0].to_bytes(32, "big"), size)


def unbase32(text):
    return base64.b32decode(text.upper())


def check_address(address):
    need(len(address) == 40 and address[0] == 1 and address[5:7] == b"\0\0", "address")
    decompress(address[7:])


class Identity:
    """Of `ANODE-256-40:<address base32>:<64 hex digits>`."""

    def __init__(self, text):
        kind, address, private = text.strip().split(":")
        need(kind == "ANODE-256-40", "identity string")
        self.address = unbase32(address)
        self.private = int(private, 16)
        check_address(self.address)
        need(compress(point_mul(self.private, G)) == self.address[7:], "private key of another address")
        self.short = short_id(self.address)


# ---- Packets (section 3)


class Packet:
    def __init__(self, data):
        self.data = data
        need(len(data) >= 28, f"only {len(data)} bytes")
        self.hops, self.flags, self.mac = data[0], data[1], data[2:10]
        need(self.flags & ~7 == 0, f"undefined flags {self.flags:#04x} (D17)")
        at = 10
        self.sender, at = self.take(at, 1)
        self.recipient, at = self.take(at, 2)
        need(len(data) >= at + 2, "header cut short")
        self.peers, self.type, self.body = data[at], data[at + 1], data[at + 2 :]

    def take(self, at, flag):
        size = 40 if self.flags & flag else 8
        field = self.data[at : at + size]
        need(len(field) == size, "header cut short")
        if size == 40:
            check_address(field)
        return field, at + size

    def computed_mac(self, cmac):
        """A43, D19."""
        full = self.data[1:2] + len(self.data).to_bytes(8, "big") + self.data[10:]
        mac = cmac.mac(full)
        return xor(mac[:8], mac[8:])

    def presence(self):
        """An EPI to nobody (D23)."""
        return (
            self.flags == 1
            and self.type == 5
            and self.recipient == bytes(8)
            and self.mac == bytes(8)
            and self.body == bytes(3)
        )


# ---- Messages (sections 4 and 5)


def endpoint(body):
    """What follows an endpoint (A35)."""
    sizes = {0: 0, 1: 6, 2: 6, 3: 6, 4: 18, 5: 18}
    need(body, "no endpoint")
    if body[0] == 6:
        end = body.find(b"\0")
        need(end > 0, "URI without an end")
        return body[end + 1 :]
    need(body[0] in sizes, f"endpoint type {body[0]}")
    need(len(body) > sizes[body[0]], "endpoint cut short")
    return body[1 + sizes[body[0]] :]


def size(body, exact):
    need(len(body) == exact, f"{len(body)} bytes instead of {exact}")


def at_least(body, least):
    need(len(body) >= least, f"{len(body)} bytes, fewer than {least}")


def epi(body):
    need(body[:1] == b"\0", "flags of EPI")
    need(len(endpoint(body[1:])) >= 1, "no NAT-T mode")


def s_ack(body):
    at_least(body, 11)
    need((len(body) - 6) % 5 == 0, "cut range (D31)")


def s_dack(body):
    at_least(body, 7)
    at_least(body, 7 + 5 * body[6] + 4)


def s_open(body):
    size(body, 11)
    need(body[10] & ~1 == 0, "flags of S_OPEN")


def s_close(body):
    size(body, 14)
    need(body[4] == 0, "flags of S_CLOSE")
    need(body[5] <= 3, f"reason {body[5]:#04x}")


MESSAGES = {
    0x00: ("ERROR", lambda body: at_least(body, 2)),
    0x01: ("PING", lambda body: None),
    0x02: ("PONG", lambda body: None),
    0x03: ("EPC_REQ", lambda body: size(body, 4)),
    0x04: ("EPC", lambda body: size(body, 4)),
    0x05: ("EPI", epi),
    0x06: ("NAT_T", lambda body: at_least(body, 1)),
    0x07: ("NETID_REQ", lambda body: (at_least(body, 4), need(not endpoint(body[4:]), "more than an endpoint"))),
    0x08: ("NETID", lambda body: (at_least(body, 4), need(not endpoint(body[4:]), "more than an endpoint"))),
    0x09: ("DGRAM", lambda body: at_least(body, 4)),
    20: ("S_OPEN", s_open),
    21: ("S_CLOSE", s_close),
    22: ("S_DATA", lambda body: at_least(body, 8)),
    23: ("S_ACK", s_ack),
    24: ("S_DACK", s_dack),
}


def check_message(packet):
    if packet.type not in MESSAGES:
        return f"{packet.type:#04x} (not of the draft)"
    name, check = MESSAGES[packet.type]
    try:
        check(packet.body)
    except Bad as why:
        raise Bad(f"{name}: {why}") from None
    return name


# ---- The vectors


def check_vectors(vectors):
    count = 0

    def same(what, ours, theirs):
        nonlocal count
        count += 1
        if ours.hex() != theirs:
            sys.exit(f"vectors: {what}: {ours.hex()} instead of {theirs}")

    for v in vectors["aes_digest"]["vectors"]:
        same(f"digest {v['name']}", digest(bytes.fromhex(v["message"])), v["digest"])
    private = {}
    for v in vectors["keys"]["vectors"]:
        private[v["name"]] = int(v["private"], 16)
        same(f"key {v['name']}", compress(point_mul(private[v["name"]], G)), v["public_compressed"])
    keys = {v["name"]: bytes.fromhex(v["public_compressed"]) for v in vectors["keys"]["vectors"]}
    for v in vectors["addresses"]["vectors"]:
        address = bytes.fromhex(v["address"])
        check_address(address)
        same(f"short id of {v['key']}", short_id(address), v["short_id"])
        same(f"base32 of {v['key']}", unbase32(v["base32"]), v["address"])
    for v in vectors["key_agreement"]["vectors"]:
        for length, derived in v["derived"].items():
            ours = agree(private[v["private_of"]], keys[v["public_of"]], int(length))
            same(f"agreement {v['private_of']} {v['public_of']} {length}", ours, derived)
    for v in vectors["key_folding"]["vectors"]:
        same("folding", fold(bytes.fromhex(v["raw"]), v["len"]), v["derived"])
    for v in vectors["cmac_aes256"]["vectors"]:
        cmac = Cmac(bytes.fromhex(v["key"]))
        same("CMAC", cmac.mac(bytes.fromhex(v["message"])), v["mac"])
    for v in vectors["packets"]["vectors"]:
        packet = Packet(bytes.fromhex(v["packet"]))
        check_message(packet)
        if v["to"] is None:
            need(packet.presence(), "vectors: presence EPI")
            continue
        key = agree(private[v["from"]], keys[v["to"]])
        same(f"key of {v['name']}", key, v["key"])
        same(f"MAC of {v['name']}", packet.computed_mac(Cmac(key)), packet.mac.hex())
    return count


# ---- A capture


def check_capture(lines, first, second):
    """Counts by type, and what is wrong with which line."""
    one_way, other_way = agree(first.private, second.address), agree(second.private, first.address)
    if one_way != other_way:
        sys.exit("the two identities do not agree on a key")
    cmac = Cmac(one_way)
    types, wrong = Counter(), []
    for number, line in enumerate(lines, 1):
        try:
            packet = Packet(bytes.fromhex(line))
            name = check_message(packet)
            known = {first.address: first, first.short: first, second.address: second, second.short: second}
            sender, recipient = known.get(packet.sender), known.get(packet.recipient)
            need(sender is not None, "sender is neither of the two")
            if packet.presence():
                types[f"{name} to all"] += 1
                continue
            need(recipient is not None and recipient is not sender, "recipient is not the other one")
            need(packet.flags & 4 == 0, "error without authentication")
            need(packet.computed_mac(cmac) == packet.mac, f"wrong MAC on {name}")
            types[name] += 1
        except (Bad, ValueError) as why:
            wrong.append(f"packet {number} ({len(line) // 2} bytes, {line[:120]}…): {why}")
    return types, wrong


def main(arguments):
    if len(arguments) not in (1, 4):
        sys.exit(__doc__)
    with open(arguments[0], encoding="utf-8") as file:
        print(f"vectors: {check_vectors(json.load(file))} values right")
    if len(arguments) == 1:
        return
    with open(arguments[1], encoding="ascii") as file:
        lines = file.read().split()
    identities = []
    for path in arguments[2:]:
        with open(path, encoding="ascii") as file:
            identities.append(Identity(file.read()))
    types, wrong = check_capture(lines, *identities)
    for name, count in sorted(types.items()):
        print(f"{count} {name}")
    print(f"packets: {len(lines)}, right: {sum(types.values())}, wrong: {len(wrong)}")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main(sys.argv[1:])
