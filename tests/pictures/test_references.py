"""References judged by their text alone, in the ways of POSIX and of Windows."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_mcp.pictures.ids import uri_of
from inference_mcp.pictures.references import (
    MAX_DATA_CHARS,
    DataReference,
    PathReference,
    StoredReference,
    decode_data_uri,
    judge,
    label_of,
    system_folder,
)
from inference_mcp.pictures.rules import MAX_FILE_BYTES, PictureFlawError
from tests.pictures.samples import data_uri

ID = "20261103T141516123Z-txt2img-abc234"


@pytest.mark.parametrize("windows", [False, True])
def test_an_id_and_its_uri_name_a_stored_picture(windows: bool) -> None:
    """Both forms, on every system."""
    assert judge(ID, windows=windows) == StoredReference(ID)
    assert judge(uri_of(ID), windows=windows) == StoredReference(ID)


@pytest.mark.parametrize(
    ("path", "windows"),
    [
        ("/home/ada/Pictures/x.png", False),
        ("/home/ada/con.png", False),
        ("/home/ada/with space/ä.png", False),
        ("/devices/x.png", False),
        (r"C:\Users\ada\Pictures\x.png", True),
    ],
)
def test_an_absolute_path_passes(path: str, windows: bool) -> None:
    """A path of the system's own kind is handed on unchanged."""
    assert judge(path, windows=windows) == PathReference(path)


HOSTILE = [
    ("", "empty"),
    ("   ", "empty"),
    ("http://example.org/x.png", "fetches nothing"),
    ("HTTPS://169.254.169.254/latest", "fetches nothing"),
    ("ftp://example.org/x.png", "fetches nothing"),
    ("attachment://1", "fetches nothing"),
    ("file:///etc/passwd", "file: URL"),
    ("FILE://server/share/x.png", "file: URL"),
    (r"\\server\share\x.png", "network share"),
    ("//server/share/x.png", "network share"),
    (r"/\server\share\x.png", "network share"),
    (r"\\.\PhysicalDrive0", "device path"),
    (r"\\?\C:\x.png", "device path"),
    ("//?/C:/x.png", "device path"),
    ("\\??\\C:\\x.png", "device path"),
    ("CON", "device"),
    ("nul", "device"),
    ("COM1", "device"),
    ("com1.png", "device"),
    ("CON:", "device"),
    ("~/x.png", "~"),
    ("~root/x.png", "~"),
    ("x.png", "absolute path"),
    ("./x.png", "absolute path"),
    ("../x.png", "absolute path"),
    ("the picture above", "absolute path"),
    (ID + ".png", "absolute path"),
    ("/srv/a\0.png", "control character"),
    ("/srv/a\n.png", "control character"),
    ("/srv/a\x1b[2J.png", "control character"),
    ("/srv/a\ud800.png", "control character"),
    ("/srv/" + "a" * 5000, "characters"),
    ("inference://queue", "URI of an earlier picture"),
    ("inference://images/../../etc/passwd", "URI of an earlier picture"),
    (f"inference://images/{ID}/..", "URI of an earlier picture"),
]


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize(("text", "reason"), HOSTILE)
def test_a_hostile_or_mistaken_text_is_refused_with_its_reason(
    text: str, reason: str, windows: bool
) -> None:
    """The same texts are refused on every system, before any file is looked at."""
    with pytest.raises(PictureFlawError) as caught:
        judge(text, windows=windows)
    assert reason in caught.value.flaw
    assert not caught.value.flaw.endswith(".")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("/dev/stdin", "/dev"),
        ("/proc/self/environ", "/proc"),
        ("/sys/power/state", "/sys"),
        ("/srv/../dev/zero", "/dev"),
        ("/./proc//self/fd/0", "/proc"),
        (r"C:\Users\x.png", "Windows path"),
        ("C:/Users/x.png", "Windows path"),
    ],
)
def test_paths_that_posix_refuses(text: str, reason: str) -> None:
    """System folders by any spelling, and paths of the other system."""
    with pytest.raises(PictureFlawError, match=reason):
        judge(text, windows=False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("C:x.png", "absolute path with its drive"),
        (r"\x.png", "absolute path with its drive"),
        ("/etc/passwd", "absolute path with its drive"),
        (r"C:\pictures\nul", "device"),
        (r"C:\pictures\COM1 .png", "device"),
        (r"C:\aux\x.png", "device"),
        ("C:\\LPT²\\x.png", "device"),
        (r"C:\x.png:hidden", "colon"),
        (r"C:\x.png::$DATA", "colon"),
    ],
)
def test_paths_that_windows_refuses(text: str, reason: str) -> None:
    """Devices in any folder, streams beside a file, and paths that lean on a current drive."""
    with pytest.raises(PictureFlawError, match=reason):
        judge(text, windows=True)


@given(st.text(max_size=60), st.booleans())
def test_any_text_is_one_of_the_forms_or_a_flaw(text: str, windows: bool) -> None:
    """No text makes the judgement fail in another way, and a path that passes is absolute."""
    try:
        found = judge(text, windows=windows)
    except PictureFlawError:
        return
    if isinstance(found, PathReference):
        assert found.path[0] == "/" or found.path[1:3] in (":\\", ":/")
        assert system_folder(found.path) is None or windows


@pytest.mark.parametrize(
    "uri",
    [
        data_uri(b"abcd"),
        "DATA:image/png;base64,YWJjZA==",
        "data:;base64,YWJjZA==",
        "data:image/png;charset=utf-8;BASE64,YWJjZA==",
        "data:image/png;base64, YWJj\r\n  ZA==\n",
    ],
)
def test_data_uris_are_decoded_in_all_their_spellings(uri: str) -> None:
    """Case, parameters and white space do not matter."""
    assert judge(uri) == DataReference(uri)
    assert decode_data_uri(uri) == b"abcd"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("data:image/png;base64", "comma"),
        ("data:" + "x" * 300 + ";base64,YWJj", "comma"),
        ("data:image/svg+xml,%3Csvg/%3E", "not base64"),
        ("data:image/png,YWJj", "not base64"),
        ("data:image/png;base64,YWJ", "valid base64"),
        ("data:image/png;base64,YW-_", "valid base64"),
        ("data:image/png;base64,YWJjé", "valid base64"),
    ],
)
def test_a_broken_data_uri_is_refused(uri: str, reason: str) -> None:
    """What cannot be decoded for certain is not guessed at."""
    with pytest.raises(PictureFlawError, match=reason):
        decode_data_uri(uri)


def test_a_data_uri_is_measured_before_it_is_decoded() -> None:
    """Its text alone says that it is above 20 MB; the exact limit is checked afterwards."""
    with pytest.raises(PictureFlawError, match="larger than 20 MB"):
        judge("data:image/png;base64," + "A" * MAX_DATA_CHARS)
    body = base64.b64encode(bytes(MAX_FILE_BYTES + 1)).decode()
    with pytest.raises(PictureFlawError, match="larger than 20 MB"):
        decode_data_uri("data:image/png;base64," + body)


def test_a_label_is_short_printable_and_never_a_data_uri() -> None:
    """An error may be shown in a terminal, and must not carry megabytes back."""
    assert label_of(data_uri(bytes(1000))) == "in the data: URI"
    assert label_of("/srv/x.png") == '"/srv/x.png"'
    assert label_of("https://me:secret@x/y.png?token=secret") == '"https:…"'
    assert label_of("a\x1b\nb") == '"a��b"'
    assert len(label_of("a" * 10_000)) < 200
