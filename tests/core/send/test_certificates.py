"""What is said about certificates."""

from __future__ import annotations

import ssl

import pytest

from aistemsplitter_async import AsyncAIStemSplitter, ConfigurationError
from aistemsplitter_async._send.certificates import advise, explain_verification, find_problem


@pytest.mark.parametrize(
    ("code", "reason", "advice"),
    [
        (10, "it has expired", "clock"),
        (18, "it is self-signed", "--ca-file"),
        (19, "self-signed", "SSL_CERT_FILE"),
        (20, "its issuer is unknown", "SSL_CERT_DIR"),
        (62, "it is for another host name", "check the host"),
        (64, "not for this IP address", "check the host"),
        (92, "CA signature digest algorithm too weak", "--ca-file"),
    ],
)
def test_a_reason_comes_with_the_way_out(code: int, reason: str, advice: str) -> None:
    assert reason in explain_verification(code, "CA signature digest algorithm too weak")
    assert advice in advise(code, {}, ())


def test_what_is_trusted_now_is_named() -> None:
    told = advise(20, {"SSL_CERT_FILE": "/etc/a.pem", "SSL_CERT_DIR": "/b"}, {"SSL_CERT_DIR"})
    assert told.endswith("; now SSL_CERT_FILE is '/etc/a.pem', SSL_CERT_DIR is '/b' (missing)")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"# ours\n-----BEGIN CERTIFICATE-----\n..", None),
        (b"-----BEGIN PRIVATE KEY-----\n-----BEGIN CERTIFICATE-----\n", "private key"),
        (b"-----BEGIN CERTIFICATE-----\n-----BEGIN RSA PRIVATE KEY-----\n", "keep that key secret"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\n", "no certificate, but certificate request"),
        (b"-----BEGIN TRUSTED CERTIFICATE-----\n", "openssl x509 -in FILE"),
        (b" \n", "empty"),
        (b"\x30\x82\x03\x04", "DER"),
        (b"ID3", "not PEM"),
    ],
)
def test_a_file_is_certificates_or_says_what_it_is(content: bytes, problem: str | None) -> None:
    found = find_problem(content)
    assert found is None if problem is None else problem in str(found)


@pytest.mark.parametrize(
    ("context", "problem"),
    [
        (False, "would give the API key to whoever answers"),
        (True, "ssl is an ssl.SSLContext, not bool"),
        ("ca.pem", "ssl is an ssl.SSLContext, not str"),
        (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), "a context for servers"),
    ],
)
def test_what_is_no_context_for_clients_is_refused(context: object, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        AsyncAIStemSplitter("ast_key", ssl=context)  # type: ignore[arg-type]
    AsyncAIStemSplitter("ast_key", ssl=ssl.create_default_context())
