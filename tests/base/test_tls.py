"""tls.py: authorities of a file are trusted beside the usual ones, or told to be unusable."""

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from receiver.base.settings import SettingError
from receiver.base.tls import BUNDLE_BYTES_MAX, system, trusted
from tests.authority import Authority

EACH = pytest.mark.parametrize("context", [system, trusted])
Make = Callable[[str, str | None], ssl.SSLContext]


def names(context: ssl.SSLContext) -> list[str]:
    return [str(one["subject"]) for one in context.get_ca_certs()]


@EACH
def test_the_authorities_of_a_file_are_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: Make
) -> None:
    """What was trusted without it stays so."""
    usual, one, other = (Authority(tmp_path, name) for name in ("usual", "one", "other"))
    monkeypatch.setenv("SSL_CERT_FILE", str(usual.pem))
    bundle = tmp_path / "bundle.pem"
    people = "# Für Menschen: Türkiye\n".encode()
    bundle.write_bytes(people + one.pem.read_bytes() + people + other.pem.read_bytes())
    trusted.cache_clear()
    found = " ".join(names(context("X_CA_FILE", str(bundle))))
    assert all(name in found for name in ("usual", "one", "other"))
    trusted.cache_clear()


@EACH
def test_certificates_are_verified_as_ever(tmp_path: Path, context: Make) -> None:
    made = context("X_CA_FILE", str(Authority(tmp_path).pem))
    assert made.verify_mode is ssl.CERT_REQUIRED
    assert made.check_hostname


@EACH
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot read"),
        (b"", "does not hold certificates in PEM"),
        (b"hidden", "does not hold certificates in PEM"),
        (b"\x30\x82\xff hidden", "is not text in UTF-8"),
        (
            b"-----BEGIN PRIVATE KEY-----\nhidden\n-----END PRIVATE KEY-----\n",
            "does not hold certificates in PEM",
        ),
        (
            b"-----BEGIN CERTIFICATE-----\nhidden\n-----END CERTIFICATE-----\n",
            "does not hold certificates in PEM",
        ),
        (b"hidden" * BUNDLE_BYTES_MAX, "is larger than"),
    ],
)
def test_a_file_without_authorities_is_told_in_one_line(
    tmp_path: Path, context: Make, content: bytes | None, why: str
) -> None:
    """The variable, the path and nothing of what is in it."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingError, match=f"^X_CA_FILE: .*{why}") as caught:
        context("X_CA_FILE", str(file))
    assert str(file) in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert "\n" not in str(caught.value)


@EACH
def test_a_bundle_with_one_broken_certificate_is_refused(tmp_path: Path, context: Make) -> None:
    """Rather than trusting a part of what was meant."""
    good = Authority(tmp_path).pem.read_text()
    lines = good.splitlines()
    file = tmp_path / "ca.pem"
    file.write_text(good + "\n".join([lines[0], *lines[3:]]))
    with pytest.raises(SettingError, match="X_CA_FILE"):
        context("X_CA_FILE", str(file))


def test_a_folder_is_no_file_of_authorities(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="is a directory"):
        system("X_CA_FILE", str(tmp_path))
