"""Text files of runs, as a stranger or a bad disk may leave them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.mistake import Mistake
from reverie.text import one_line, printable
from reverie.training.stored import LARGEST_SETTINGS, read_record, read_settings, write_settings

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{here}: &{here} [{', '.join([f'*{above}'] * 9)}]\n"
    for above, here in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "anchors and aliases"),
        ("a: &x 1", "anchors"),
        ("<<: *x", "aliases"),
        ("a: " + "[" * 100_000, "levels deep"),
        ("".join(" " * level + "a:\n" for level in range(500)), "levels deep"),
        ("a: !!python/object/apply:os.system [touch x]", "the tag"),
        ("a: !!binary aGVsbG8=", "the tag"),
        ("a: 2001-01-01", "a date"),
        ("a: 2001-99-99", "month"),
        ("a: " + "9" * 100, "64 bits"),
        ("a: " + "9" * 10_000, "limit"),
        ("a: 1" + ":1" * 3000 + ".5", "too large"),
        ("a: 1\na: 2", "'a' twice"),
        ("1: 2", "no text"),
        ("? [a]\n: b", "unhashable"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: b: c", "in line 1"),
        ("a: [1", "in line 1"),
        ("", "it holds nothing"),
        ("[1, 2]", "it holds a list"),
        ("abc", "it holds a str"),
        ("a: \0", "special characters"),
        ("a: " + "x" * LARGEST_SETTINGS, "more than 300,000 bytes"),
        (b"a: \xff", "utf-8"),
    ],
)
def test_settings_that_are_none_are_refused_at_once(tmp_path, text, reason):
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    begun = time.monotonic()
    with pytest.raises(Mistake) as caught:
        read_settings(path, "restore it")
    assert time.monotonic() - begun < 2
    message = str(caught.value)
    assert message.startswith(f"{path} is damaged (") and reason in message
    assert message.endswith("); restore it") and "\n" not in message and len(message) < 500


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested without end"),
        ('{"a":' * 900 + "1" + "}" * 900, "levels deep"),
        ('{"a": NaN}', "number NaN"),
        ('{"a": 1e999}', "number 1e999"),
        ('{"a": ' + "9" * 50 + "}", "64 bits"),
        ('{"a": ' + "9" * 5000 + "}", "limit"),
        ('{"a": 1, "a": 2}', "'a' twice"),
        ('{"a":', "Expecting value"),
        ("", "Expecting value"),
        ("[]", "it holds a list"),
        (b'{"a": "\xff"}', "utf-8"),
    ],
)
def test_records_that_are_none_are_refused(tmp_path, text, reason):
    path = tmp_path / "summary.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Mistake) as caught:
        read_record(path)
    assert str(caught.value).startswith(f"{path} is damaged (") and reason in str(caught.value)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    with pytest.raises(Mistake, match=r"x does not exist; restore it"):
        read_record(tmp_path / "x")
    with pytest.raises(Mistake, match="does not exist"):
        read_settings(tmp_path)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(), below, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), plain, max_size=4))
def test_settings_come_back_as_they_were(tmp_path_factory, settings):
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    shared = [1, 2]
    settings = {**settings, "shared": [shared, shared]}  # YAML would repeat it by an alias
    path.write_text(write_settings(settings), encoding="utf-8")
    assert read_settings(path) == settings


def test_text_that_is_shown_controls_nothing():
    assert printable("plain") == "plain" and printable("a\nb\tc") == "a\nb c"
    assert printable("\x1b[31m\u202e\ud800\x00") == "\\x1b[31m\\u202e\\ud800\\x00"
    assert one_line("a\n\n b\r\n") == "a b" and one_line("x" * 9, 3) == "xxx..."
