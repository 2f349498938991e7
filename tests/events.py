#!/usr/bin/env python3
"""Checks events, one a line on standard input, against docs/events.schema.json; answers each with a line: `ok`, or what is wrong.

The end-to-end tests run it once and hand it every event that they see. Without input: `tests/events.py < /dev/null` checks the
schema itself.

>>> check = checker()
>>> check('{"schema": 1, "event": "hashing", "done": 1, "size": 2}')
'ok'
>>> check('{"schema": 1, "event": "hashing", "done": 1, "size": 2, "more": 3}')
"Additional properties are not allowed ('more' was unexpected)"
>>> check('{"schema": 1, "event": "hashing", "done": -1, "size": 2}')
'done: -1 is less than the minimum of 0'
>>> check('{"schema": 1, "event": "novel"}').startswith("event: 'novel' is not one of")
True
>>> check('{"schema": 1, "event": "end", "exit": 0}').endswith("is not valid under any of the given schemas")
True
>>> check('oops').startswith("not JSON")
True
"""

import json
import pathlib
import sys

import jsonschema

SCHEMA = pathlib.Path(__file__).resolve().parent.parent / "docs" / "events.schema.json"


def checker():
    """A function that says what is wrong with a line."""
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)

    def check(line):
        try:
            event = json.loads(line)
        except ValueError as error:
            return f"not JSON: {error}"
        error = next(validator.iter_errors(event), None)
        if error is None:
            return "ok"
        where = ".".join(map(str, error.absolute_path))
        return f"{where}: {error.message}" if where else error.message

    return check


def main():
    check = checker()
    for line in sys.stdin:
        print(check(line).replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
