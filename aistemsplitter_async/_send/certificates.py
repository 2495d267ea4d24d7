"""What is said about certificates: why one does not verify, and why a file of them is none."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

CERTIFICATE = "CERTIFICATE"  # the code of the error
STORES = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # variables that OpenSSL reads

# The numbers of OpenSSL's x509_vfy.h, which are part of its interface.
_NOT_YET_VALID, _EXPIRED, _SELF_SIGNED, _SELF_SIGNED_IN_CHAIN, _NO_ISSUER, _NO_CHAIN = 9, 10, 18, 19, 20, 21
_WRONG_HOST, _WRONG_ADDRESS = 62, 64
_REASONS = {
    _NOT_YET_VALID: "it is not valid yet",
    _EXPIRED: "it has expired",
    _SELF_SIGNED: "it is self-signed",
    _SELF_SIGNED_IN_CHAIN: "it comes from an unknown issuer, which is self-signed",
    _NO_ISSUER: "its issuer is unknown",
    _NO_CHAIN: "its issuer is unknown, and the server does not send the issuer's certificate",
    _WRONG_HOST: "it is for another host name",
    _WRONG_ADDRESS: "it is not for this IP address",
}
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")
_CERTIFICATES = frozenset({b"CERTIFICATE", b"X509 CERTIFICATE"})


def explain_verification(code: int, text: str) -> str:
    """Return why a certificate does not verify, from OpenSSL's number and words."""
    return _REASONS.get(code) or text or "no reason is known"


def advise(code: int, stores: Mapping[str, str], missing: Collection[str]) -> str:
    """Return what to do about a certificate that does not verify.

    Args:
        code: OpenSSL's number.
        stores: those of `STORES` that are set, and the paths in them.
        missing: those whose path does not exist.
    """
    if code in (_EXPIRED, _NOT_YET_VALID):
        return "check the clock of this machine; else its owner must renew it"
    if code in (_WRONG_HOST, _WRONG_ADDRESS):
        return "check the host in the URL"
    trust = "if you trust its issuer, name the issuer's certificate in SSL_CERT_FILE or SSL_CERT_DIR, or pass ssl=.."
    now = ", ".join(f"{name} is {path!r}{' (missing)' * (name in missing)}" for name, path in stores.items())
    return f"{trust} (--ca-file){f'; now {now}' if now else ''}"


def find_problem(content: bytes) -> str | None:
    """Return why a file cannot be the certificates to trust, and the way out; `None` if it can be."""
    kinds = _PEM.findall(content)
    if any(kind.endswith(b"PRIVATE KEY") for kind in kinds):
        return "it has a private key in it; name a file with the issuer's certificate alone, and keep that key secret"
    if _CERTIFICATES.intersection(kinds):
        return None
    if b"TRUSTED CERTIFICATE" in kinds:
        return "its certificate is in a form of OpenSSL's own; convert it: openssl x509 -in FILE -out FILE.pem"
    if kinds:
        return f"it has no certificate, but {kinds[0].decode().lower()}"
    if not content.strip():
        return "it is empty"
    if content[:2] == b"\x30\x82":  # an ASN.1 sequence of a few kilobytes
        return "it is binary (DER), not PEM; convert it: openssl x509 -inform der -in FILE -out FILE.pem"
    return "it is not PEM, the text that begins with -----BEGIN CERTIFICATE-----"
