#!/usr/bin/env python3
"""Tests of the scripts in Python that need neither root nor time: their examples, their command lines, and what they refuse."""

import doctest
import importlib.machinery
import importlib.util
import pathlib
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

sys.dont_write_bytecode = True

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
MODULES = ["bench_lab.py", "bench_results.py", "bench-netns", "pacing", "plot"]

sys.path.insert(0, str(SCRIPTS))


def load(name):
    """A script as a module; its main() does not run."""
    loader = importlib.machinery.SourceFileLoader(name.removesuffix(".py").replace("-", "_"), str(SCRIPTS / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


def run(name, *arguments):
    """Runs a script to its end."""
    return subprocess.run([SCRIPTS / name, *arguments], capture_output=True, text=True, check=False)


class Scripts(unittest.TestCase):
    """One test for each fact."""

    def test_examples_hold(self):
        for name in MODULES:
            outcome = doctest.testmod(load(name))
            self.assertEqual(outcome.failed, 0, name)

    def test_help_says_how_to_use_it(self):
        for name in ("bench-netns", "pacing"):
            done = run(name, "--help")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(f"usage: scripts/{name}", done.stdout)

    def test_help_names_every_option(self):
        for name in ("bench-netns", "pacing"):
            source, text = (SCRIPTS / name).read_text(), load(name).__doc__
            for line in source.splitlines():
                if "add_argument(" in line and "--help" not in line:
                    option = line.split('"')[1]
                    self.assertIn(f"  {option} ", text, name)

    def test_unknown_option_is_refused(self):
        for name in ("bench-netns", "pacing", "plot"):
            self.assertNotEqual(run(name, "--unknown").returncode, 0, name)

    def test_rows_can_be_listed_and_chosen(self):
        done = run("bench-netns", "--list", "--only", "1x1GiB/*/fec0", "--disk", "/dev/shm")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.splitlines(), [f"1x1GiB/{mtu}/tmpfs/fec0" for mtu in (604, 1500, 9000)])

    def test_pattern_without_rows_is_refused_in_one_line(self):
        done = run("bench-netns", "--list", "--only", "nothing", "--disk", "/dev/shm")
        self.assertEqual(done.returncode, 1)
        self.assertIn("no row is called nothing: see --list", done.stderr.splitlines()[-1])

    def test_pictures_are_those_of_the_kept_figures(self):
        done = run("plot", "--check")
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_pictures_of_this_machine_are_drawn_from_its_own_figures(self):
        plot = load("plot")
        with tempfile.TemporaryDirectory() as folder, unittest.mock.patch.object(sys, "argv", ["plot", "--mine"]):
            plot.MINE = pathlib.Path(folder)
            for source, _ in plot.PICTURES.values():
                (plot.MINE / source).write_bytes((ROOT / "docs" / "results" / source).read_bytes())
            plot.main()
            for name in plot.PICTURES:
                self.assertEqual((plot.MINE / name).read_text(), (ROOT / "docs" / name).read_text(), name)

    def test_partial_figures_are_not_adopted(self):
        plot = load("plot")
        with tempfile.TemporaryDirectory() as folder:
            plot.MINE, plot.results.KEPT = pathlib.Path(folder) / "mine", pathlib.Path(folder) / "kept"
            plot.results.write(plot.MINE / "a.tsv", {"machine": "a box", "partial": "--quick"}, ["a"], [{"a": 1}])
            with self.assertRaisesRegex(plot.results.BadResults, "is a part of the figures"):
                plot.adopt()
            plot.results.write(plot.MINE / "a.tsv", {"machine": "a box"}, ["a"], [{"a": 1}])
            plot.adopt()
            self.assertEqual(plot.results.read(plot.results.KEPT / "a.tsv"), ({"machine": "a box"}, [{"a": "1"}]))

    def test_figures_of_something_else_are_refused(self):
        plot = load("plot")
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "pps_vs_pkt_delay.tsv"
            plot.results.write(path, {"machine": "a box"}, ["a"], [{"a": 1}])
            with self.assertRaisesRegex(plot.results.BadResults, "not figures of pps.svg"):
                plot.draw_results(pathlib.Path(folder))


if __name__ == "__main__":
    unittest.main()
