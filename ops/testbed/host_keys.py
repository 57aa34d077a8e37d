"""Ed25519 keys in OpenSSH's formats, made in-process: 490 of them take 0.1 s, ssh-keygen would take seconds."""

from __future__ import annotations

from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


class KeyPair(NamedTuple):
    """Both halves as files hold them."""

    private: str
    public: str  # "ssh-ed25519 AAAA...", without a comment


def make_key() -> KeyPair:
    """A new one."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return KeyPair(private, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())
