"""Text files of a run read as plain values, as untrusted input.

Nothing in them is expanded, so that a small file cannot become a large one; what is damaged is
said in one line that names the file.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from reverie.mistake import Mistake
from reverie.text import one_line
from reverie.training.files import DIGEST, digest_of

LARGEST_SETTINGS = 300_000
"""Bytes of a YAML file; those of ours have some thousands."""
LARGEST_RECORD = 64_000_000
"""Bytes of a JSON file."""
DEEPEST = 32
"""Levels of nesting."""
_INTEGERS = 2**63


class _Refused(ValueError):
    """The contents of a file are not what we write."""


def read_settings(path: Path, remedy: str = "restore it") -> dict[str, Any]:
    """A YAML file of settings: a mapping of plain values, without aliases, anchors and tags.

    Args:
        remedy: what to do about a damaged file; end of the message.

    Raises:
        Mistake: the file is missing, cannot be read, or holds anything else.
    """
    return _read(path, LARGEST_SETTINGS, remedy, lambda text: yaml.load(text, _PlainLoader))


def read_optional(
    path: Path, complain: Callable[[Mapping[str, Any]], str | None]
) -> dict[str, Any]:
    """A file that a run may lack; damaged ones are named.

    Raises:
        Mistake: the file is damaged.
    """
    if not path.is_file():
        return {}
    remedy = "restore it, or delete it to do without"
    record = read_record(path, remedy)
    wrong = complain(record)
    if wrong is not None:
        raise damaged(path, wrong, remedy)
    return record


def read_record(path: Path, remedy: str = "restore it") -> dict[str, Any]:
    """A JSON file of ours: an object whose numbers are finite and of 64 bits.

    Args:
        remedy: what to do about a damaged file; end of the message.

    Raises:
        Mistake: the file is missing, cannot be read, or holds anything else; it tells the digest
            of its values, and the digest is another.
    """
    record = _read(path, LARGEST_RECORD, remedy, _parse_record)
    told = record.pop(DIGEST, None)
    if told not in (None, digest_of(record)):
        raise damaged(path, "its values are not those that were written", remedy)
    return record


def write_settings(settings: Mapping[str, Any]) -> str:
    """Settings as the text that `read_settings` reads."""
    return yaml.dump(dict(settings), Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)


def damaged(path: Path, reason: object, remedy: str) -> Mistake:
    """The mistake that a file of a run cannot be used as it is."""
    return Mistake(f"{path} is damaged ({one_line(str(reason), 200)}); {remedy}")


@contextmanager
def contents_of(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Let parts that are none of `what`, which somebody else has written, be a mistake.

    For the lines that take a file apart, and no others: what they raise is the file's fault.
    """
    try:
        yield
    except Mistake:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = f"its contents are not those of {what}: {type(error).__name__} {error}"
        raise damaged(path, reason, remedy) from error


def _read(path: Path, largest: int, remedy: str, parse: Callable[[str], Any]) -> dict[str, Any]:
    if not path.is_file():  # nor a pipe, which would not end
        raise Mistake(f"{path} does not exist; {remedy}")
    try:
        if path.stat().st_size > largest:
            raise _Refused(f"it has more than {largest:,} bytes")
        found = parse(path.read_bytes().decode())
        _require_plain(found)
    except OSError as error:
        raise Mistake(
            f"{path} cannot be read ({error.strerror or error}); give yourself the right to"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" in line {mark.line + 1}" if mark is not None else ""
        raise damaged(path, f"{error.problem}{place}", remedy) from error
    except RecursionError as error:
        raise damaged(path, "it is nested without end", remedy) from error
    except (ValueError, OverflowError, yaml.YAMLError) as error:  # of text, numbers, dates too
        raise damaged(path, error, remedy) from error
    if not isinstance(found, dict):
        what = "nothing" if found is None else f"a {type(found).__name__} and no names"
        raise damaged(path, f"it holds {what}", remedy)
    return found


class _PlainLoader(yaml.SafeLoader):
    """Refuses all YAML features that expand a text."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _Refused("it repeats parts by anchors and aliases, which no file of ours does")
        if event.tag is not None:
            raise _Refused(f"it holds the tag {event.tag}, which no file of ours does")
        if self.depth > DEEPEST:
            raise _Refused(f"it is nested more than {DEEPEST} levels deep")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        _require_different(keys)
        return super().construct_mapping(node, deep)


class _PlainDumper(yaml.SafeDumper):
    """Writes repeated values in full, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> Any:
        # Unquoted, other line breaks than the usual one come back as spaces.
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_PlainDumper.add_representer(str, _PlainDumper.represent_str)


def _parse_record(text: str) -> Any:
    return json.loads(
        text, object_pairs_hook=_object, parse_float=_finite, parse_constant=_refuse_constant
    )


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise _Refused(f"it holds the number {text}")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _require_different([key for key, _ in pairs])
    return dict(pairs)


def _refuse_constant(name: str) -> None:
    raise _Refused(f"it holds the number {name}")


def _require_different(keys: list[Any]) -> None:
    known: set[str] = set()
    for key in map(str, keys):
        if key in known:
            raise _Refused(f"it says {key!r} twice")
        known.add(key)


def _require_plain(value: Any) -> None:
    """Refuse keys that are no text, numbers beyond 64 bits, dates, and endless nesting."""
    level = [value]
    for _ in range(DEEPEST + 1):
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                for key in each:
                    if not isinstance(key, str):
                        raise _Refused(f"its key {key!r} is no text")
                below += each.values()
            elif isinstance(each, list):
                below += each
            elif isinstance(each, int) and abs(each) >= _INTEGERS:
                raise _Refused("it holds an integer of more than 64 bits")
            elif not (each is None or isinstance(each, str | int | float)):
                raise _Refused(f"it holds a {type(each).__name__}, {each}")
        level = below
        if not level:
            return
    raise _Refused(f"it is nested more than {DEEPEST} levels deep")
