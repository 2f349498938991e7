#!/usr/bin/env python3
"""Tests of the scripts in Python that need neither root nor time: their examples, their command lines, and what they refuse."""

import doctest
import importlib.machinery
import importlib.util
import io
import os
import pathlib
import subprocess
import sys
import tempfile
import types
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


def run(name, *arguments, **environment):
    """Runs a script to its end."""
    return subprocess.run(
        [SCRIPTS / name, *arguments], capture_output=True, text=True, check=False, env=os.environ | environment
    )


# What is wrong, and a part of what is said of it.
BAD_OPTIONS = [
    ("bench-netns", ["--receivers", "0"], "'0' is not a whole number from 1 to"),
    ("bench-netns", ["--receivers", "1,,4"], "'' is not a whole number from 1 to"),
    ("bench-netns", ["--sizes", "0"], "'0' is not a whole number from 1 to"),
    ("bench-netns", ["--runs", "0"], "'0' is not a whole number from 1 to"),
    ("bench-netns", ["--runs", "-1"], "'-1' is not a whole number from 1 to"),
    ("bench-netns", ["--rate", "0"], "'0' is not a number from 0.001 to"),
    ("bench-netns", ["--rate", "-2"], "'-2' is not a number from 0.001 to"),
    ("bench-netns", ["--rate", "nan"], "'nan' is not a number from 0.001 to"),
    ("bench-netns", ["--rate", "inf"], "'inf' is not a number from 0.001 to"),
    ("bench-netns", ["--disk", "/nowhere"], "--disk /nowhere: does not exist"),
    ("bench-netns", ["--list", "--disk", "/nowhere"], "--disk /nowhere: does not exist"),
    ("bench-netns", ["--memory", "/dev/null"], "--memory /dev/null: is no folder"),
    ("bench-netns", ["--bin-dir", "/nowhere"], "no program iotup, iotupc, iotupd, examples/line there"),
    ("bench-netns", ["--unknown"], "unrecognized arguments: --unknown"),
    ("pacing", ["--rates", "0"], "'0' is not a number from 0.01 to"),
    ("pacing", ["--rates", "1,nan"], "'nan' is not a number from 0.01 to"),
    ("pacing", ["--seconds", "0"], "'0' is not a whole number from 1 to"),
    ("pacing", ["--engine", "steam"], "invalid choice: 'steam'"),
    ("pacing", ["--bin-dir", "/nowhere"], "no program iotupd, examples/line there"),
    ("pacing", ["--unknown"], "unrecognized arguments: --unknown"),
    ("plot", ["--unknown"], "--unknown: not understood"),
    ("plot", ["--mine", "--adopt"], "--mine --adopt: not understood"),
]


def options_of(bench, *line):
    """Options of scripts/bench-netns, on folders of two kinds."""
    options = bench.arguments(list(line))
    options.disk, options.memory = pathlib.Path("/disk"), pathlib.Path("/memory")
    return options


def cases_of(bench, options, kinds=("ext4", "tmpfs")):
    """Its rows, as if the folders were on these file systems."""
    of = dict(zip((options.disk, options.memory), kinds))
    with unittest.mock.patch.object(bench.lab, "file_system_of", of.get), unittest.mock.patch.object(bench, "say"):
        return bench.cases(options)


def partial_of(bench, *line, kinds=("ext4", "tmpfs")):
    """What makes a table of these options a part of the figures."""
    options = options_of(bench, *line)
    return bench.partial_options(options, cases_of(bench, options, kinds))


def figures(bench, goodput):
    """A run of which only the goodput matters."""
    return bench.Run(**dict.fromkeys(bench.Run.__dataclass_fields__, 0.0) | {"goodput_gbit": goodput})


def measure_all(bench, output, outcomes, *line):
    """The exit code of a table whose rows end so: a goodput, or what is raised; what it prints; how often a row was given up."""
    options = options_of(bench, "--only", "1x1GiB/*/tmpfs/fec0", "--output", str(output), *line)
    wanted, outcomes = cases_of(bench, options)[: len(outcomes)], iter(outcomes)

    def measure(_, case, known):
        outcome = next(outcomes)
        if isinstance(outcome, BaseException):
            raise outcome
        return bench.row_of(case, 1.0, figures(bench, 1.0), [(bench.Blast(10.0, 10.0), figures(bench, outcome))])

    fake = types.SimpleNamespace(ballast=bench.lab.Ballast(), bin_dir=None, give_up=unittest.mock.Mock())
    nothing = {"reason_to_skip": lambda *_: None, "make_source": lambda *_: None, "say": lambda _: None}
    made = nothing | {"measure": measure, "notes_of": lambda *_: {"machine": "a box"}}
    with unittest.mock.patch.multiple(bench, **made), unittest.mock.patch("sys.stdout", io.StringIO()) as said:
        code = bench.measure_all(fake, options, wanted)
    return code, said.getvalue(), fake.give_up.call_count


def process(exit_code, **last):
    """A program that has ended so."""
    return types.SimpleNamespace(
        exit=exit_code, events=[last] if last else [], started=0.0, ended=2.0, cpu_seconds=1.0, memory={"own": 0},
        how_it_ended=lambda: f"a program ended with {exit_code}",
    )  # fmt: skip


SERVED = {"event": "end", "data": 1, "manifest": 1, "hashes": 1, "outside": 0, "seconds": 1.0}


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

    def test_help_names_every_exit_code(self):
        for name, codes in (("bench-netns", (0, 1, 64, 69, 73, 77)), ("pacing", (0, 1, 64, 69, 73, 77)), ("plot", (0, 1, 64))):
            text = run(name, "--help").stdout.split("Exit codes: ", 1)[1]
            for code in codes:
                self.assertRegex(text, rf"(^|[;\n] ?){code} ", name)

    def test_bad_options_are_refused_in_one_line(self):
        for name, options, reason in BAD_OPTIONS:
            done = run(name, *options)
            self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (64, "", 1), (options, done.stderr))
            self.assertIn(reason, done.stderr)
            self.assertTrue(done.stderr.startswith(f"scripts/{name}: "), done.stderr)

    def test_output_that_cannot_be_written_is_refused_and_leaves_nothing(self):
        lab = load("bench_lab.py")
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            (place / "file").write_text("kept")
            for path in (place / "file" / "transfers.tsv", place):
                with self.assertRaisesRegex(lab.Trouble, f"^write {path}: .*: give another --output$") as caught:
                    lab.check_output(path)
                self.assertEqual(caught.exception.exit_code, 73)
            lab.check_output(place / "new" / "transfers.tsv")
            lab.check_output(place / "file")
            self.assertEqual(((place / "file").read_text(), list((place / "new").iterdir())), ("kept", []))

    def test_what_is_missing_has_an_exit_code(self):
        lab = load("bench_lab.py")
        with unittest.mock.patch("os.geteuid", return_value=1000), self.assertRaisesRegex(lab.Trouble, "needs root") as caught:
            lab.begin()
        self.assertEqual(caught.exception.exit_code, 77)
        with unittest.mock.patch("os.geteuid", return_value=0), unittest.mock.patch("shutil.which", return_value=None):
            with self.assertRaisesRegex(lab.Trouble, r"missing: ip \(package iproute2\)") as caught:
                lab.begin()
        self.assertEqual(caught.exception.exit_code, 69)
        with unittest.mock.patch("subprocess.run", side_effect=FileNotFoundError(2, "No such file or directory", "cargo")):
            with unittest.mock.patch.object(lab, "say"), self.assertRaisesRegex(lab.Trouble, "build: cargo: No such file") as caught:
                lab.build(ROOT)
        self.assertEqual(caught.exception.exit_code, 69)

    def test_whatever_is_refused_ends_a_script_in_one_line(self):
        lab = load("bench_lab.py")
        refused = OSError(28, "No space left on device", "/full")
        for error, code in ((refused, 1), (subprocess.CalledProcessError(3, ["ip", "netns"]), 1), (lab.Trouble("a\nb", 64), 64)):
            with unittest.mock.patch("sys.stderr", io.StringIO()) as said, self.assertRaises(SystemExit) as caught:
                lab.end_with("name", unittest.mock.Mock(side_effect=error))
            self.assertEqual((caught.exception.code, said.getvalue()), (code, f"scripts/name: {lab.one_line(error)}\n"))
            self.assertEqual(said.getvalue().count("\n"), 1)

    def test_rows_can_be_listed_before_the_first_build(self):
        with tempfile.TemporaryDirectory() as folder:
            done = run("bench-netns", "--list", CARGO_TARGET_DIR=f"{folder}/not/there")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("1x1GiB/1500/tmpfs/fec0", done.stdout.splitlines())
            self.assertEqual(list(pathlib.Path(folder).iterdir()), [])

    def test_rows_can_be_listed_and_chosen(self):
        done = run("bench-netns", "--list", "--only", "1x1GiB/*/fec0", "--disk", "/dev/shm")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.splitlines(), [f"1x1GiB/{mtu}/tmpfs/fec0" for mtu in (604, 1500, 9000)])

    def test_pattern_without_rows_is_refused_in_one_line(self):
        done = run("bench-netns", "--list", "--only", "nothing", "--disk", "/dev/shm")
        self.assertEqual(done.returncode, 64)
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
            for name in ("pacing.tsv", "transfers.tsv"):
                plot.results.write(plot.MINE / name, {"machine": "a box"}, ["a"], [{"a": 1}])
            plot.results.write(plot.MINE / "transfers.tsv", {"partial": "2 of 48 rows"}, ["a"], [{"a": 1}])
            with self.assertRaisesRegex(plot.results.BadResults, "is a part of the figures"):
                plot.adopt()
            # Nor are the others: what is kept is of one machine.
            self.assertFalse(plot.results.KEPT.exists())
            plot.results.write(plot.MINE / "transfers.tsv", {"machine": "a box"}, ["a"], [{"a": 1}])
            self.assertEqual(plot.adopt(), (["pacing.tsv", "transfers.tsv"], []))
            self.assertEqual(plot.results.read(plot.results.KEPT / "transfers.tsv"), ({"machine": "a box"}, [{"a": "1"}]))

    def test_figures_of_other_interfaces_are_not_adopted(self):
        plot = load("plot")
        with tempfile.TemporaryDirectory() as folder:
            plot.MINE, plot.results.KEPT = pathlib.Path(folder) / "mine", pathlib.Path(folder) / "kept"
            for name, interface in (("engines.tsv", "lo"), ("engines-eth0.tsv", "eth0"), ("pps_vs_pkt_delay-eth0.tsv", "eth0")):
                plot.results.write(plot.MINE / name, {"interface": f"{interface}, driver none"}, ["a"], [{"a": 1}])
            self.assertEqual(plot.adopt(), (["engines.tsv"], ["engines-eth0.tsv", "pps_vs_pkt_delay-eth0.tsv"]))
            self.assertEqual([path.name for path in plot.results.KEPT.iterdir()], ["engines.tsv"])
            # As it was called before other interfaces had names of their own.
            plot.results.write(plot.MINE / "pps_vs_pkt_delay.tsv", {"interface": "eth0, driver none"}, ["a"], [{"a": 1}])
            with self.assertRaisesRegex(plot.results.BadResults, "is of interface eth0, not lo"):
                plot.adopt()

    def test_nothing_to_adopt_is_said(self):
        plot = load("plot")
        with tempfile.TemporaryDirectory() as folder:
            plot.MINE = pathlib.Path(folder)
            with self.assertRaisesRegex(plot.results.BadResults, "measure first"):
                plot.adopt()

    def test_every_kept_table_can_be_adopted(self):
        plot = load("plot")
        self.assertEqual(sorted(plot.ADOPTED), sorted(path.name for path in (ROOT / "docs" / "results").glob("*.tsv")))
        self.assertLessEqual({source for source, _ in plot.PICTURES.values()}, set(plot.ADOPTED))

    def test_footer_of_partial_figures_fits_the_picture(self):
        plot = load("plot")
        lines = plot.wrapped(plot.footer({"machine": "a box", "partial": "why " * 1000}))
        self.assertLessEqual(len(lines), 4)
        self.assertIn("PROVISIONAL: why", lines[0])
        self.assertLessEqual(max(map(len, lines)), plot.FOOTER_LENGTH)

    def test_options_that_leave_figures_out_make_them_partial(self):
        bench = load("bench-netns")
        for line in ("", "--runs 5", "--runs 7", "--receivers 4,1", "--bin-dir /elsewhere", "--output /elsewhere"):
            self.assertEqual(partial_of(bench, *line.split()), "", line)
        for line in ("--quick", "--rate 2", "--only 1x*", "--runs 4", "--no-gro", "--sizes 1", "--receivers 4", "--quick --runs 5"):
            self.assertEqual(partial_of(bench, *line.split()), line)
        self.assertEqual(partial_of(bench, kinds=("tmpfs", "tmpfs")), "none on disk")
        self.assertEqual(partial_of(bench, kinds=("ext4", "xfs")), "none in memory")

    def test_pacing_of_another_kind_is_partial(self):
        pacing = load("pacing")
        for line in ("", "--seconds 20", "--engine auto"):
            self.assertEqual(pacing.partial_options(pacing.arguments(line.split())), "", line)
        for line in ("--seconds 9", "--engine uring", "--rates 1,10"):
            self.assertEqual(pacing.partial_options(pacing.arguments(line.split())), line)

    def test_table_is_partial_until_its_last_row(self):
        bench = load("bench-netns")
        with tempfile.TemporaryDirectory() as folder:
            output = pathlib.Path(folder) / "transfers.tsv"
            with self.assertRaises(KeyboardInterrupt):
                measure_all(bench, output, [1.0, 2.0, KeyboardInterrupt()])
            notes, rows = bench.results.read(output)
            self.assertEqual((notes["partial"].split(";")[0], len(rows)), ("2 of 3 rows", 2))
            code, _, _ = measure_all(bench, output, [1.0, 2.0, 3.0])
            notes, rows = bench.results.read(output)
            self.assertEqual((code, notes["partial"].split()[0], len(rows)), (0, "--only", 3))

    def test_failed_row_does_not_end_the_table(self):
        bench = load("bench-netns")
        refused = OSError(28, "No space left on device", "/full")
        with tempfile.TemporaryDirectory() as folder:
            output = pathlib.Path(folder) / "transfers.tsv"
            for trouble in (bench.Trouble("iotupc was killed"), refused, subprocess.CalledProcessError(1, ["ip"])):
                code, said, given_up = measure_all(bench, output, [1.0, trouble, 3.0])
                notes, rows = bench.results.read(output)
                self.assertEqual((code, given_up, [row["goodput_gbit"] for row in rows]), (1, 1, ["1", "3"]))
                self.assertEqual(notes["partial"].split(";")[0], "2 of 3 rows")
                self.assertIn(f"FAILED 1x1GiB/1500/tmpfs/fec0: {bench.lab.one_line(trouble)}\n", said)
                output.unlink()
            self.assertEqual(measure_all(bench, output, [refused])[0], 1)
            self.assertFalse(output.exists())

    def test_copy_that_differs_ends_the_table(self):
        bench = load("bench-netns")
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            (place / "source").write_text("noise")
            (place / "same").write_text("noise")
            (place / "other").write_text("moise")
            bench.compare(place / "source", place / "same", True)
            bench.compare(place / "source", place / "missing", False)
            for copy, is_verified in (("other", True), ("other", False), ("missing", True)):
                with self.assertRaises(bench.Differs):
                    bench.compare(place / "source", place / copy, is_verified)
            with self.assertRaises(bench.Differs):
                measure_all(bench, place / "transfers.tsv", [1.0, bench.Differs("a copy"), 3.0])

    def test_receiver_that_was_killed_is_a_row_that_failed(self):
        bench = load("bench-netns")
        case = cases_of(bench, options_of(bench))[0]
        done = process(0, event="end", transfer_seconds=1.0, senders=[])
        self.assertGreater(bench.judge(case, process(0, **SERVED), [done]).goodput_gbit, 8)
        self.assertEqual(bench.judge(case, process(0, **SERVED), [done, process(75, event="end", senders=[])]).goodput_gbit, 0)
        for code in (-9, 74):
            with self.assertRaisesRegex(bench.Trouble, f"ended with {code}"):
                bench.judge(case, process(0, **SERVED), [done, process(code)])

    def test_ratio_is_the_median_of_those_of_runs_and_blasts_in_turn(self):
        bench = load("bench-netns")
        options = options_of(bench, "--rate", "2", "--runs", "3")
        case, done = cases_of(bench, options)[0], []
        # The machine becomes slower and slower; the medians alone would make the ratio 5 / 20.
        blasts, runs = iter([40.0, 20.0, 16.0]), iter([8.0, 5.0, 2.0])

        def run(_, rate, is_digest_known=True, is_compared=False):
            done.append("run" if is_digest_known else "no digest")
            return figures(bench, next(runs) if is_digest_known else 1.0)

        def blast(_):
            done.append("blast")
            sent = next(blasts)
            return bench.Blast(sent, sent - 1)

        row = bench.measure(types.SimpleNamespace(options=options, run=run, blast=blast, know_digest=lambda _: None), case, {})
        self.assertEqual(done, ["no digest"] + ["blast", "run"] * 3)
        self.assertEqual((row["blast_gbit"], row["blast_taken_gbit"], row["goodput_gbit"], row["runs"]), (20.0, 19.0, 5.0, 3))
        self.assertAlmostEqual(row["ratio"], 0.2)

    def test_table_that_cannot_be_written_leaves_the_one_before(self):
        results = load("bench_results.py")
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "table.tsv"
            results.write(path, {}, ["a"], [{"a": 1}])

            def fill_the_disk(self, text):
                with self.open("w") as file:
                    file.write(text[:1])
                raise OSError(28, "No space left on device")

            with unittest.mock.patch.object(pathlib.Path, "write_text", fill_the_disk), self.assertRaises(OSError):
                results.write(path, {}, ["a"], [{"a": 2}])
            self.assertEqual((path.read_text(), os.listdir(folder)), ("a\n1\n", ["table.tsv"]))
            results.write(path, {}, ["a"], [{"a": 3}])
            self.assertEqual((path.read_text(), os.listdir(folder)), ("a\n3\n", ["table.tsv"]))

    def test_figures_of_something_else_are_refused(self):
        plot = load("plot")
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "pps_vs_pkt_delay.tsv"
            plot.results.write(path, {"machine": "a box"}, ["a"], [{"a": 1}])
            with self.assertRaisesRegex(plot.results.BadResults, "not figures of pps.svg"):
                plot.draw_results(pathlib.Path(folder))


if __name__ == "__main__":
    unittest.main()
