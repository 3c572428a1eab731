"""Pictures come as base64, or from named hosts at public addresses, whatever a URL tries."""

import asyncio
import base64
import shutil
import ssl
import subprocess
from ipaddress import ip_address

import pytest

from inferplane.server.errors import ApiError
from inferplane.server.limits import Limits
from inferplane.server.media.fetching import Fetcher, is_public
from inferplane.server.media.sources import SentPicture, picture_bytes

PATH = "messages.0.content.1"
PRIVATE = (
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1", "fd00::1"),
    *("::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::a9fe:a9fe", "ff02::1", "2001::1"),
)


def refused(work):
    with pytest.raises(ApiError) as error:
        asyncio.run(work)
    assert error.value.problems[0].param == PATH
    return error.value


def fetcher(*hosts, **more):
    return Fetcher(hosts, **({"most_bytes": 1_000, "most_s": 5.0} | more))


def sent(url="", data=""):
    return SentPicture(PATH, PATH, url, data)


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "image/webp", "image/gif"])
def test_a_data_url_gives_its_bytes(kind):
    url = f"data:{kind};base64," + base64.b64encode(b"bytes").decode()
    assert asyncio.run(picture_bytes(sent(url), Limits(), fetcher())) == b"bytes"


@pytest.mark.parametrize(
    "url",
    [
        "data:image/svg+xml;base64,AAAA",
        "data:image/png,AAAA",
        "data:image/png;charset=utf-8;base64,AAAA",
        "data:text/html;base64,AAAA",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png;base64,AA A=",
        "data:image/png;base64,%41",
        "data:image/png;base64,\u00e4\u00e4\u00e4\u00e4",
        "file:///etc/passwd",
        "ftp://example.org/a.png",
        "/etc/passwd",
        "AAAA",
        "javascript:alert(1)",
    ],
)
def test_what_is_no_picture_of_a_known_type_is_refused(url):
    assert refused(picture_bytes(sent(url), Limits(), fetcher())).code == "media_invalid"


def test_a_picture_larger_than_the_limit_is_refused_before_it_is_decoded():
    small = Limits(media_bytes=9)
    exact = base64.b64encode(bytes(9)).decode()
    assert asyncio.run(picture_bytes(sent(data=exact), small, fetcher())) == bytes(9)
    more = base64.b64encode(bytes(10)).decode()
    assert refused(picture_bytes(sent(data=more), small, fetcher())).code == "media_invalid"


@pytest.mark.parametrize("url", ["http://example.org/a.png", "HTTPS://example.org/a.png"])
def test_without_named_hosts_nothing_is_fetched(url):
    found = refused(picture_bytes(sent(url), Limits(), fetcher()))
    assert found.code == "media_fetch_disabled"
    assert "--allow-media-domains" in found.problems[0].hint


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://other.org/a", "media_fetch_disabled"),
        ("https://example.org.evil.net/a", "media_fetch_disabled"),
        ("https://example.org:8443/a", "media_fetch_disabled"),
        ("https://evil.net\\@example.org/a", "media_fetch_disabled"),
        ("http://example.org/a", "media_invalid"),
        ("https://me:secret@example.org/a", "media_invalid"),
        ("https://example.org@evil.net/a", "media_invalid"),
        ("https:///a", "media_invalid"),
        ("https://[::1/a", "media_invalid"),
    ],
)
def test_only_https_of_a_named_host_is_tried(url, code):
    async def never(host, port):
        raise AssertionError(host)

    found = refused(fetcher("example.org", resolve=never).fetch(url, PATH))
    assert found.code in (code, "media_invalid")


@pytest.mark.parametrize("address", PRIVATE)
def test_a_named_host_at_a_private_address_is_not_asked(address):
    async def resolve(host, port):
        return [ip_address("93.184.215.14"), ip_address(address)]

    assert not is_public(ip_address(address))
    found = refused(fetcher("example.org", resolve=resolve).fetch("https://example.org/a", PATH))
    assert "public address" in found.problems[0].message


def test_public_addresses_are_public():
    for address in ("93.184.215.14", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"):
        assert is_public(ip_address(address))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    made = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    made += ["-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=example.org"]
    extension = ["-addext", "subjectAltName=DNS:example.org"]
    subprocess.run([*made, *extension], check=True, capture_output=True)
    return cert, key


def fetched(certificate, answer, *, name="example.org", resolutions=None):
    """What a fetch from a TLS server on loopback that sends `answer` gives, and the request."""
    asked = []

    async def serve(reader, writer):
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def work():
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]

        async def resolve(host, port):
            if resolutions is not None:
                resolutions.append(host)
            return [ip_address("127.0.0.1")]

        made = fetcher(
            f"{name}:{port}",
            resolve=resolve,
            allows=lambda address: True,
            trust=ssl.create_default_context(cafile=certificate[0]),
        )
        async with server:
            return await made.fetch(f"https://{name}:{port}/a.png", PATH)

    return work(), asked


def test_a_named_host_is_resolved_once_and_proves_its_name(certificate):
    resolutions = []
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nbytes"
    work, asked = fetched(certificate, answer, resolutions=resolutions)
    assert asyncio.run(work) == b"bytes"
    assert resolutions == ["example.org"]
    assert b"host: example.org:" in asked[0].lower()


def test_a_host_that_cannot_prove_its_name_is_not_believed(certificate):
    work, asked = fetched(certificate, b"", name="other.org")
    assert "cannot be fetched" in refused(work).problems[0].message
    assert asked == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 302 Found\r\nlocation: https://169.254.169.254/\r\n\r\n", "answers 302"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "answers 404"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n" + bytes(2000), "more than 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort", "cannot be fetched"),
        (b"nonsense\r\n\r\n", "cannot be fetched"),
    ],
)
def test_redirects_failures_and_large_answers_are_refused(certificate, answer, said):
    work, asked = fetched(certificate, answer)
    assert said in refused(work).problems[0].message
    assert len(asked) == 1
