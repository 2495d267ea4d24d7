"""One spelling for each URL, that of the URL standard; what is sent of it is what browsers and curl send."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st
from yarl import URL

from aistemsplitter_async._urls import is_of_origin, parse_http_url

SPELLINGS = [
    ("https://API.Host/v1", "https://api.host/v1"),
    ("HTTPS://api.host:443/v1/", "https://api.host/v1/"),
    ("https://api.host:0443", "https://api.host/"),
    ("http://api.host:0080/", "http://api.host/"),
    ("https://api.host:/", "https://api.host/"),
    ("https://api.host:08080/", "https://api.host:8080/"),
    ("http://api.host:443/", "http://api.host:443/"),
    ("https://api.host./v1", "https://api.host/v1"),
    ("https://münchen.example/v1", "https://xn--mnchen-3ya.example/v1"),
    ("https://MÜNCHEN.example/v1", "https://xn--mnchen-3ya.example/v1"),
    ("https://mu\u0308nchen.example/v1", "https://xn--mnchen-3ya.example/v1"),
    ("https://XN--mnchen-3YA.example/v1", "https://xn--mnchen-3ya.example/v1"),
    ("https://m%C3%BCnchen.example/v1", "https://xn--mnchen-3ya.example/v1"),
    ("https://faß.example/", "https://xn--fa-hia.example/"),
    ("https://日本語。jp/", "https://xn--wgv71a119e.jp/"),
    ("https://i❤.example/", "https://xn--i-7iq.example/"),
    ("https://api%2Ehost/", "https://api.host/"),
    ("https://a_b.example/", "https://a_b.example/"),
    ("http://[0:0:0:0:0:0:0:1]:08080/v1", "http://[::1]:8080/v1"),
    ("http://[2606:4700:0000::0:1111]/", "http://[2606:4700::1111]/"),
    ("http://[::FFFF:127.0.0.1]/", "http://[::ffff:7f00:1]/"),
    ("http://127.1/", "http://127.0.0.1/"),
    ("http://0x7f000001/", "http://127.0.0.1/"),
    ("http://2130706433/", "http://127.0.0.1/"),
    ("http://0177.0.0.01/", "http://127.0.0.1/"),
    ("http://127.0.0.1./", "http://127.0.0.1/"),
    ("http://10.65535/", "http://10.0.255.255/"),
    # paths and queries
    ("https://h?x", "https://h/?x"),
    ("https://h/a//b", "https://h/a//b"),
    ("https://h/a/./b/../c", "https://h/a/c"),
    ("https://h/a/%2e%2E/c/.", "https://h/c/"),
    ("https://h/../..", "https://h/"),
    ("https://h/a.b/..c/.d", "https://h/a.b/..c/.d"),
    ("https://h/#top", "https://h/"),
    ("https://h/my song.wav", "https://h/my%20song.wav"),
    ("https://h/a|b[c]!$&'()*+,;=:@~", "https://h/a|b[c]!$&'()*+,;=:@~"),
    ('https://h/"<>`{}^', "https://h/%22%3C%3E%60%7B%7D%5E"),
    ("https://h/ü/日", "https://h/%C3%BC/%E6%97%A5"),
    ("https://h/a%2Fb%2fc+d%20e", "https://h/a%2Fb%2fc+d%20e"),
    ("https://h/100%/50%zz half%20done ü", "https://h/100%/50%zz%20half%20done%20%C3%BC"),
    ("https://h/?sig=a%2Fb+c%3D==&n=a b|c[d]{e}^`\\'ü", "https://h/?sig=a%2Fb+c%3D==&n=a%20b|c[d]{e}^`\\'%C3%BC"),
    ("https://h/?a=%41&b=%7e&c=~", "https://h/?a=%41&b=%7e&c=~"),
]


@pytest.mark.parametrize(("text", "spelling"), SPELLINGS)
def test_every_spelling_becomes_the_one(text: str, spelling: str) -> None:
    assert str(parse_http_url(text)) == spelling
    assert str(parse_http_url(spelling)) == spelling


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ftp://h/", "begin with https"),
        ("api.host/v1", "begin with https"),
        ("https:/h", "begin with https"),
        ("https:///x", "no host"),
        ("https://me@h/", "credentials"),
        ("https://me:pw@h/", "credentials"),
        ("https://h:0/", "port"),
        ("https://h:65536/", "port"),
        (f"https://h:{'9' * 5000}/", "port"),
        ("https://h:-1/", "no host"),
        ("https://h:\u0663/", "no host"),
        ("https://[fe80::1%25eth0]/", "zone"),
        ("https://[127.0.0.1]/", "not an IPv6"),
        ("https://[::1/", "no host"),
        ("https://[::1]x/", "no host"),
        ("https://::1/", "no host"),
        ("https://1.2.3.4.5/", "IPv4"),
        ("https://256.1.1.1/", "IPv4"),
        ("https://4294967296/", "IPv4"),
        ("https://08.1.1.1/", "IPv4"),
        ("https://0_1.1/", "IPv4"),
        (f"https://{'9' * 5000}/", "IPv4"),
        ("https://a..b/", "not a name"),
        ("https://a%00b/", "not a name"),
        ("https://a%40b/", "not a name"),
        ("https://a%ff/", "not text"),
        ("https://a b/", "not a name"),
        ("https://a|b/", "not a name"),
        ("https://\u2100.test/", "not a name"),
        ("https://\ufdd0.test/", "no name can have"),
        (f"https://{'a' * 64}.example/", "longer than"),
        (f"https://{'a.' * 130}example/", "longer than"),
        ("https://h\\@evil/", "backslash"),
        ("https://h/a\\b", "backslash"),
        ("https://h/\r\nX: y", "control"),
        (" \thttps://h/", "control"),
        ("https://h/\ud800", "half a character"),
    ],
)
def test_what_is_refused_has_a_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_http_url(text)


@given(st.text() | st.text("htps:/@[]%.0127xlocahst\\ \t#?ü|").map(lambda text: "https://" + text))
@example("https://a/%2e%2")
def test_a_spelling_is_its_own_and_is_sent_as_it_is(text: str) -> None:
    try:
        url = parse_http_url(text)
    except ValueError:
        return
    assert parse_http_url(str(url)) == url
    assert str(url).isascii()
    assert str(url).isprintable()
    sent = URL(str(url), encoded=True)
    assert (sent.scheme, sent.raw_host, sent.port) == (url.scheme, url.host, url.port)
    assert sent.raw_path_qs == url.path + (f"?{url.query}" if url.query else "")
    assert is_of_origin(text, url.origin)


@pytest.mark.parametrize(
    "url", ["http://api.host/v1", "https://api.host:444/", "https://api.host.evil/", "https://evil/api.host", "x", ""]
)
def test_another_origin_is_another(url: str) -> None:
    assert not is_of_origin(url, "https://api.host")
