"""HTTPS with the operator's certificate, which is read again when it changes."""

import logging
import os
import shutil
import ssl
import subprocess
from pathlib import Path

import httpx2
import pytest

from inferplane.config import ServeSettings
from inferplane.errors import ConfigError
from inferplane.server.run import make_server
from inferplane.server.tls import Certificate

LOGGER = logging.getLogger("test")
OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")


def certify(folder: Path, name: str) -> tuple[Path, Path]:
    """A fresh certificate for 127.0.0.1 and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    made = [OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    made += ["-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj", f"/CN={name}"]
    extension = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*made, *extension], check=True, capture_output=True)
    return cert, key


def test_requests_come_over_tls_and_a_changed_certificate_is_used(tmp_path, start):
    cert, key = certify(tmp_path, "first")
    server = start(tls_cert=cert, tls_key=key)
    url = f"https://127.0.0.1:{server.port}/v1/completions"
    body = {"prompt": "a", "max_tokens": 1}
    first = ssl.create_default_context(cafile=cert)
    assert httpx2.post(url, json=body, verify=first, timeout=60.0).status_code == 200
    with server.client() as plain, pytest.raises(httpx2.TransportError):
        plain.get("/livez")
    os.utime(certify(tmp_path, "second")[0], ns=(1, 1))
    server.call(server.server.certificate.look)
    second = ssl.create_default_context(cafile=cert)
    assert httpx2.post(url, json=body, verify=second, timeout=60.0).status_code == 200
    with pytest.raises(httpx2.TransportError):
        httpx2.get(url, verify=first, timeout=60.0)


def test_a_changed_file_that_cannot_be_used_leaves_the_certificate(tmp_path, caplog):
    cert, key = certify(tmp_path, "kept")
    certificate = Certificate(cert, key, LOGGER)
    cert.write_text("nothing")
    os.utime(cert, ns=(1, 1))
    certificate.look()
    assert "cannot be used" in caplog.text
    assert certificate.context.get_ciphers()
    certificate.look()
    assert caplog.text.count("cannot be used") == 1


def test_what_is_no_certificate_is_refused_before_anything_starts(tmp_path, settings_for):
    cert, key = certify(tmp_path, "other")
    text = tmp_path / "text.pem"
    text.write_text("nothing")
    for given in ({"tls_cert": cert}, {"tls_key": key}):
        with pytest.raises(ConfigError, match="is not given"):
            make_server(settings_for(**given), None)
    for broken in ((text, key), (tmp_path / "absent", key)):
        settings: ServeSettings = settings_for(tls_cert=broken[0], tls_key=broken[1])
        with pytest.raises(ConfigError, match="cannot be used"):
            make_server(settings, None)
