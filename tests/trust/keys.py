"""Keys of an elliptic curve in files, as openssl writes them."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec


def make_keys(folder: Path, name: str = "key", password: bytes | None = None) -> tuple[Path, Path]:
    """Write a private key and its public key."""
    private = ec.generate_private_key(ec.SECP256R1())
    lock = forms.BestAvailableEncryption(password) if password else forms.NoEncryption()
    pair = folder / f"{name}.pem", folder / f"{name}.pub"
    pair[0].write_bytes(
        private.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.TraditionalOpenSSL, lock)
    )
    pair[1].write_bytes(
        private.public_key().public_bytes(
            forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return pair
