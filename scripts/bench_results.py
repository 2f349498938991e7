"""Files of results: tab-separated tables below notes that name the machine.

    # what: packets per second ...
    # machine: 2 x ...
    engine<TAB>pkt_delay_us<TAB>...
    uring<TAB>5<TAB>...

`cargo bench`, scripts/bench-netns and scripts/pacing write them; scripts/plot reads them.
"""

import errno
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
KEPT = ROOT / "docs/results"


class BadResults(Exception):
    """A file of results that cannot be understood."""


def parse(text):
    """The notes by name, and the rows, each a value by column.

    >>> notes, rows = parse("# machine: a box\\nrate\\terror\\n1\\t0.5\\n2\\t\\n")
    >>> notes
    {'machine': 'a box'}
    >>> rows
    [{'rate': '1', 'error': '0.5'}, {'rate': '2', 'error': ''}]
    >>> parse("# machine: a box\\nrate\\terror\\n1\\n")
    Traceback (most recent call last):
    bench_results.BadResults: line 3 has 1 values for 2 columns
    >>> parse("# machine: a box\\n")
    Traceback (most recent call last):
    bench_results.BadResults: no table
    """
    notes, columns, rows = {}, None, []
    for number, line in enumerate(text.splitlines(), 1):
        if columns is None and line.startswith("#"):
            name, _, value = line[1:].partition(":")
            notes[name.strip()] = value.strip()
        elif columns is None:
            columns = line.split("\t")
        else:
            values = line.split("\t")
            if len(values) != len(columns):
                raise BadResults(f"line {number} has {len(values)} values for {len(columns)} columns")
            rows.append(dict(zip(columns, values)))
    if columns is None:
        raise BadResults("no table")
    return notes, rows


def to_text(notes, columns, rows):
    """What parse() understands.

    >>> parse(to_text({"machine": "a box"}, ["a", "b"], [{"a": 1, "b": "x"}]))
    ({'machine': 'a box'}, [{'a': '1', 'b': 'x'}])
    """
    lines = [f"# {name}: {value}" for name, value in notes.items()]
    lines.append("\t".join(columns))
    lines += ["\t".join(str(row[column]) for column in columns) for row in rows]
    return "\n".join(lines) + "\n"


def read(path):
    """The notes and rows of a file."""
    try:
        return parse(path.read_text())
    except BadResults as error:
        raise BadResults(f"{path}: {error}") from None


def write(path, notes, columns, rows):
    """Writes a file, and its folder if need be. What is new belongs to who is behind sudo. Whatever goes wrong, what was there is there
    as long as the new is not."""
    make_folder(path.parent)
    if path.exists() and not path.is_file():
        # A device or a pipe: nothing is to be put in its place.
        path.write_text(to_text(notes, columns, rows))
        return
    new = path.with_name(f".{path.name}.new")
    owner = path.stat() if path.exists() else None
    try:
        new.write_text(to_text(notes, columns, rows))
        if owner is None:
            give_to_user(new)
        else:
            os.chown(new, owner.st_uid, owner.st_gid)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def make_folder(folder):
    """Makes a folder, and those that it is in, if need be. What is new belongs to who is behind sudo."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    give_to_user(*missing)


def give_to_user(*paths):
    """Gives files and folders to who is behind sudo."""
    if "SUDO_UID" in os.environ:
        for path in paths:
            os.chown(path, int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", -1)))


def check_writable(path):
    """Raises OSError if write() could not write this file."""
    make_folder(path.parent)
    was_there = path.exists()
    path.open("a").close()
    if not was_there:
        path.unlink()


def with_partial(notes, done, wanted, options):
    """The notes, and that they are of a part of the figures, if they are: rows that are missing, options that make it one.

    >>> with_partial({"a": "b"}, 3, 3, "")
    {'a': 'b'}
    >>> with_partial({}, 2, 3, "")
    {'partial': '2 of 3 rows'}
    >>> with_partial({}, 2, 3, "--quick")
    {'partial': '2 of 3 rows; --quick'}
    """
    parts = [f"{done} of {wanted} rows"] if done < wanted else []
    parts += [options] if options else []
    return notes | ({"partial": "; ".join(parts)} if parts else {})
