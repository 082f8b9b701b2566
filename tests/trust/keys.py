"""Keys in files, as openssl writes them."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec, rsa


def make_keys(folder: Path, name: str = "key", password: bytes | None = None) -> tuple[Path, Path]:
    """Write a private key of an elliptic curve, and its public key."""
    return _written(ec.generate_private_key(ec.SECP256R1()), folder, name, password)


def made_rsa(folder: Path) -> tuple[Path, Path]:
    """Write a pair of another kind, which signs nothing here."""
    return _written(rsa.generate_private_key(65537, 2048), folder, "rsa", None)


def _written(
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    folder: Path,
    name: str,
    password: bytes | None,
) -> tuple[Path, Path]:
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
