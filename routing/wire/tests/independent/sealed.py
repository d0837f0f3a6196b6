#!/usr/bin/env python3
"""Computes docs/vectors/sealed.json once more, from docs/protocol.md and with other libraries.

Nothing here is shared with the Rust program: P-256, AES-GCM and CMAC are OpenSSL's (by `cryptography`), ML-KEM is
`kyber-py`, Noise is written out below.

    pip install cryptography kyber-py
    python3 routing/wire/tests/independent/sealed.py docs/vectors/sealed.json
"""

import base64
import hashlib
import hmac
import json
import sys

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from kyber_py.ml_kem import ML_KEM_768

HELLO, WELCOME, SEALED, COOKIE, FRAGMENT, KEM = 0x40, 0x41, 0x42, 0x43, 0x45, 0x48
DGRAM = 9


def hmac256(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def hkdf(salt, ikm, info):
    """64 bytes, as two keys."""
    prk = hmac256(salt, ikm)
    first = hmac256(prk, info, b"\1")
    return first, hmac256(prk, first, info, b"\2")


def point(private):
    key = ec.derive_private_key(int.from_bytes(private, "big"), ec.SECP256R1())
    return key, key.public_key()


def uncompressed(public):
    return public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def parse_point(data):
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), data)


def dh(private, public):
    return private.exchange(ec.ECDH(), public)


def packet_mac(key, packet):
    """Anode 0.8 §3.3: the size stands in the MAC field, the hop count is outside, 16 bytes fold to 8."""
    mac = CMAC(algorithms.AES(key))
    mac.update(packet[1:2] + len(packet).to_bytes(8, "big") + packet[10:])
    full = mac.finalize()
    return bytes(a ^ b for a, b in zip(full[:8], full[8:]))


class Noise:
    """Noise_KK_P256_AESGCM_SHA256, both sides at once: every private key is known here."""

    def __init__(self, prologue, static_i, static_r):
        name = b"Noise_KK_P256_AESGCM_SHA256"
        self.h = self.ck = name.ljust(32, b"\0")
        self.k, self.n = None, 0
        for data in (prologue, uncompressed(static_i), uncompressed(static_r)):
            self.mix_hash(data)

    def mix_hash(self, data):
        self.h = hashlib.sha256(self.h + data).digest()

    def mix_key(self, secret):
        temp = hmac256(self.ck, secret)
        self.ck = hmac256(temp, b"\1")
        self.k, self.n = hmac256(temp, self.ck, b"\2"), 0

    def decrypt(self, data):
        nonce = bytes(4) + self.n.to_bytes(8, "big")
        text = AESGCM(self.k).decrypt(nonce, data, self.h)
        self.n += 1
        self.mix_hash(data)
        return text

    def split(self):
        temp = hmac256(self.ck, b"")
        first = hmac256(temp, b"\1")
        return first, hmac256(temp, first, b"\2")


def open_sealed(key, packet):
    aad = packet[1:2] + bytes(8) + packet[10:40]
    nonce = bytes(4) + packet[32:40]
    return AESGCM(key).decrypt(nonce, packet[40:-8] + packet[2:10] + packet[-8:], aad)


def check_handshake(vector):
    sides = {}
    for name in ("initiator", "responder"):
        side = {k: bytes.fromhex(v) if isinstance(v, str) else v for k, v in vector[name].items()}
        side["key"], side["public"] = point(side["private"])
        side["e"], side["e_public"] = point(side["ephemeral_private"])
        compressed = side["public"].public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        assert side["address"][7:] == compressed, "the address holds the public key"
        sides[name] = side
    i, r = sides["initiator"], sides["responder"]
    static = dh(i["key"], r["public"])
    packets = [(p["from"], bytes.fromhex(p["packet"]), p.get("body")) for p in vector["packets"]]

    # HELLO, with its cookie where one was demanded
    first = packets.pop(0)[1]
    mac1_key = hashlib.sha256(b"anode mac1" + r["address"]).digest()

    def check_hello(packet, cookie):
        assert packet[:2] == b"\0\1" and packet[10:50] == i["address"] and packet[50:58] == r["address_id"]
        assert packet[58] == i["peer_id"] << 4 | r["peer_id"] and packet[59:61] == bytes([HELLO, 1])
        assert int.from_bytes(packet[65:73], "big") == vector["timestamp"]
        zeroed = packet[1:2] + bytes(8) + packet[10:73] + bytes(32) + packet[105:]
        assert packet[73:89] == hmac256(mac1_key, zeroed)[:16], "mac1"
        assert packet[89:105] == cookie
        assert packet[2:10] == packet_mac(static, packet), "CMAC"

    check_hello(first, bytes(16))
    hello = first
    if r["cookie_secret"]:
        packet = packets.pop(0)[1]
        cookie = hmac256(r["cookie_secret"], bytes.fromhex(vector["endpoint"]), i["address"])[:16]
        assert packet[1] == 5 and packet[2:10] == bytes(8) and packet[59] == COOKIE
        assert packet[60:] == first[61:65] + cookie + bytes(8)
        hello = packets.pop(0)[1]
        check_hello(hello, cookie)
        assert hello[105:] == first[105:] and hello[60:89] == first[60:89]

    index_i = hello[61:65]
    prologue = b"anode sealed 1" + hello[60:73] + i["address"] + bytes([i["peer_id"]])
    prologue += r["address"] + bytes([hello[58] & 15])
    noise = Noise(prologue, i["public"], r["public"])
    message = hello[105:]
    assert message[:65] == uncompressed(i["e_public"])
    noise.mix_hash(message[:65])
    noise.mix_key(dh(i["e"], r["public"]))
    noise.mix_key(static)
    capabilities_i = noise.decrypt(message[65:])

    # WELCOME
    _, welcome, _ = packets.pop(0)
    assert welcome[59:61] == bytes([WELCOME, 1]) and welcome[65:69] == index_i
    assert welcome[2:10] == packet_mac(static, welcome), "CMAC"
    message = welcome[69:]
    assert message[:65] == uncompressed(r["e_public"])
    noise.mix_hash(message[:65])
    noise.mix_key(dh(i["e"], r["e_public"]))
    noise.mix_key(dh(i["key"], r["e_public"]))
    payload = noise.decrypt(message[65:])
    index_r = welcome[61:65]
    assert payload[:5] == index_r + bytes([r["peer_id"]])
    with_kem = bool(capabilities_i[3] & payload[8] & 1)
    assert with_kem == vector["post_quantum"]
    assert noise.h.hex() == vector["handshake_hash"]
    split = b"".join(noise.split())

    keys = dict(zip(("initiator", "responder"), hkdf(noise.h, split, b"anode sealed 1")))
    indices = {"initiator": index_r, "responder": index_i}
    if with_kem:
        parts = []
        for expected in range(2):
            sender, packet, _ = packets.pop(0)
            assert sender == "initiator" and packet[28:32] == index_r
            text = open_sealed(keys[sender], packet)
            assert text[0] == FRAGMENT and text[5:7] == bytes([expected, 2])
            parts.append(text)
        assert parts[0][1:5] == parts[1][1:5]
        step1 = b"".join(part[7:] for part in parts)
        assert step1[:2] == bytes([KEM, 1])
        step1 = step1[1:]
        ek, dk = ML_KEM_768._keygen_internal(i["kem_d_z"][:32], i["kem_d_z"][32:])
        assert step1[5:] == ek, "the encapsulation key"
        sender, packet, _ = packets.pop(0)
        text = open_sealed(keys[sender], packet)
        assert sender == "responder" and text[:2] == bytes([KEM, 2])
        step2 = text[1:]
        secret, ciphertext = ML_KEM_768._encaps_internal(ek, r["kem_m"])
        assert step2[5:9] == step1[1:5] and step2[9:] == ciphertext
        assert ML_KEM_768.decaps(dk, ciphertext) == secret
        salt = hashlib.sha256(noise.h + step1 + step2).digest()
        keys = dict(zip(keys, hkdf(salt, split + secret, b"anode kem 1")))
        indices = {"initiator": step2[1:5], "responder": step1[1:5]}

    counters = {"initiator": 0, "responder": 0}
    bodies = 0
    for sender, packet, body in packets:
        assert packet[28:32] == indices[sender]
        assert int.from_bytes(packet[32:40], "big") == counters[sender]
        counters[sender] += 1
        text = open_sealed(keys[sender], packet)
        if body is None:
            assert text == b"", "an empty packet"
        else:
            assert text == bytes([DGRAM]) + bytes.fromhex(body)
            bodies += 1
    assert bodies == 2
    print(f"handshake {vector['name']!r}: all {len(vector['packets'])} packets agree")


def check_ticket(vector):
    prefix = "anode-ticket-"
    assert vector["text"].startswith(prefix)
    data = base64.b32decode(vector["text"][len(prefix):].upper())
    assert data[:4] == hashlib.sha256(b"anode ticket 1" + data[4:]).digest()[:4]
    assert data[4] == 1
    assert data[5:45].hex() == vector["inviter"]
    assert data[45:53].hex() == vector["id"]
    secret = data[53:85]
    joiner = bytes.fromhex(vector["joiner"])
    proof = hmac256(secret, b"anode join 1", bytes.fromhex(vector["handshake_hash"]), joiner)
    assert proof.hex() == vector["proof"]
    print("ticket: text and proof agree")


def main():
    with open(sys.argv[1], encoding="ascii") as file:
        vectors = json.load(file)
    for vector in vectors["handshakes"]:
        check_handshake(vector)
    check_ticket(vectors["ticket"])


if __name__ == "__main__":
    main()
