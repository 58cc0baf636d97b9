"""What `failed.json` says of a crash, whatever became of the file."""

import pytest

from reverie.training.files import write_json
from reverie.training.launch.failures import reason
from reverie.training.run_directory import FAILED


def test_a_reason_is_one_harmless_line(tmp_path):
    assert reason(tmp_path) is None
    write_json(tmp_path / FAILED, {"reason": "a\n\x1b[31mb", "defect": True})
    assert reason(tmp_path) == f"a \\x1b[31mb; {tmp_path / FAILED} keeps its traceback"


@pytest.mark.parametrize(
    "text", [b"", b"\xff", b"[]", b'{"reason": 3}', b"{}", b"[" * 100_000, b'{"reason": NaN}']
)
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / FAILED).write_bytes(text)
    assert reason(tmp_path) == f"{tmp_path / FAILED} is damaged, so the reason is unknown"
