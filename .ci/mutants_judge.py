"""Judge mutants: mutmut makes them and learns which test runs what; here each meets its tests.

The tests are collected once; every mutant is a fork of that process, with every price cache empty.
mutmut's own runner forks from a process that has run all tests, whose caches answer for the mutant.
Tests that killed a neighbour go first, then the quick ones. A function that runs at import is known
to one test at most and was run before the fork: its survivors are judged once more, in a process of
their own, by every test of the module. A child without any mutant must pass first, and no verdict
is kept before the tests that killed have passed without a mutant again: what breaks on the way, be
it a disk or a folder, must never count as a kill.

    mutants_judge.py prepare            in the mutants' house
    mutants_judge.py judge [name …]     in its folder `mutants`; names may have *
"""

from __future__ import annotations

import fnmatch
import gc
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from mutants_wording import only_wording
from mutmut.mutation.trampoline import set_mutant_under_test

HERE = Path.cwd()
FAILED, PASSED, UNTESTED, BROKEN = 1, 0, 33, 77
ROOMS = ("accounting", "kit", "privacy_gateway")
OPTIONS = ("--rootdir=.", "-q", "-s")
NOBODY = "none.none"
TOGETHER = 25
END = time.monotonic() + float(os.environ.get("MUTANTS_SECONDS", "7200"))


def prepare() -> None:
    """Let mutmut make the mutants, and learn which tests run which function for how long."""
    from mutmut import __main__ as mutmut

    set_mutant_under_test("mutant_generation")
    (HERE / "mutants").mkdir(exist_ok=True)
    mutmut.copy_src_dir()
    mutmut.copy_also_copy_files()
    mutmut.setup_source_paths()
    mutmut.create_mutants(1)
    forget_stale(HERE / "mutants")
    mutmut.collect_or_load_stats(mutmut.get_mutant_runner(1), apply_config_invalidation=True)


def forget_stale(folder: Path) -> None:
    """Mutmut learns what new tests run; what a changed one runs it would not ask again."""
    files = sorted((HERE / "tests").rglob("*.py"))
    text = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    known = folder / "tests.sha256"
    if not known.exists() or known.read_text(encoding="utf-8") != text:
        (folder / "mutmut-stats.json").unlink(missing_ok=True)
    known.write_text(text, encoding="utf-8")


class Known:
    """What mutmut learned: tests by function, seconds by test; and the verdicts so far."""

    def __init__(self) -> None:
        learned = json.loads((HERE / "mutmut-stats.json").read_text(encoding="utf-8"))
        self.tests: dict[str, list[str]] = learned["tests_by_mangled_function_name"]
        self.seconds: dict[str, float] = learned["duration_by_test"]
        self.killers: dict[str, Counter[str]] = defaultdict(Counter)

    def order(self, key: str, present: dict[str, pytest.Item]) -> list[pytest.Item]:
        """The function's tests, likeliest killers first."""
        function, module = function_of(key), module_of(key)

        def rank(name: str) -> tuple[int, float]:
            wins = self.killers[module][name]
            return -self.killers[function][name], self.seconds.get(name, 1.0) / (1 + wins)

        names = [name for name in self.tests.get(function, ()) if name in present]
        return [present[name] for name in sorted(names, key=rank)]

    def one_a_file(self, items: list[pytest.Item]) -> list[pytest.Item]:
        """The quickest test of every file."""
        slow_first = sorted(items, key=lambda one: -self.seconds.get(one.nodeid, 1.0))
        return list({one.path: one for one in slow_first}.values())

    def of_module(self, key: str) -> list[str]:
        """Every test that runs any function of the mutant's module, quick ones first."""
        module = module_of(key) + "."
        names = {
            test
            for function, tests in self.tests.items()
            if function.startswith(module)
            for test in tests
        }
        return sorted(names, key=lambda name: self.seconds.get(name, 1.0))


class Judge:
    """A pytest plugin that judges instead of running the tests."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.known, self.tally = names, Known(), Counter[str]()
        self.pending: list[tuple[str, int, float, str]] = []
        self.sound: set[str] = set()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Every chosen mutant without a verdict, and those that survived, in random order."""
        present = {item.nodeid: item for item in session.items}
        warm_up(session)
        gc.collect()
        gc.freeze()
        self.demand_clean(self.known.one_a_file(session.items), session)
        todo = chosen(self.names)
        random.Random(7).shuffle(todo)  # noqa: S311 (an order, no secret)
        for key in sorted(todo, key=self.rank):
            if time.monotonic() > END:
                break
            started = time.monotonic()
            tests = self.known.order(key, present)
            code, killer = self.forked(key, tests, session) if tests else (UNTESTED, "")
            if code in (PASSED, UNTESTED) and len(tests) <= 1:
                code = self.alone(key, code)
            self.pending.append((key, code, time.monotonic() - started, killer))
            if len(self.pending) == TOGETHER:
                self.keep(session, present)
        self.keep(session, present)
        return True

    def keep(self, session: pytest.Session, present: dict[str, pytest.Item]) -> None:
        """Record the verdicts, once every test that killed has passed without a mutant."""
        killers = {killer for *_, killer in self.pending if killer}
        for name in killers - self.sound:
            self.demand_clean([present[name]], session)
        self.sound |= killers
        self.demand_clean([present[name] for name in sorted(killers)], session)
        for key, code, seconds, _ in self.pending:
            record(key, code, seconds)
            self.tally[str(code)] += 1
            if code != FAILED:
                print(key, code, flush=True)
        print(dict(self.tally), flush=True)
        self.pending.clear()

    def demand_clean(self, tests: list[pytest.Item], session: pytest.Session) -> None:
        """End everything when a test fails that should not."""
        if not tests:
            return
        code, name = self.forked(NOBODY, tests, session)
        if code != PASSED:
            pytest.exit(f"{name or code}: fails without any mutant", returncode=BROKEN)

    def alone(self, key: str, otherwise: int) -> int:
        """Exit code of a process that was the mutant from its first import on."""
        tests = self.known.of_module(key)
        if not tests:
            return otherwise
        code = alone(key, tests)
        if code == FAILED and module_of(key) not in self.sound:
            if alone(NOBODY, tests) != PASSED:
                pytest.exit(f"{module_of(key)}: fails without any mutant", returncode=BROKEN)
            self.sound.add(module_of(key))
        return code

    def rank(self, key: str) -> int:
        """Names are judged in the order in which they were given."""
        hits = (at for at, name in enumerate(self.names) if fnmatch.fnmatch(key, name))
        return next(hits, 0)

    def forked(
        self, key: str, tests: list[pytest.Item], session: pytest.Session
    ) -> tuple[int, str]:
        """Exit code of a child that is the mutant, and the test that killed it."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            os._exit(self.run(key, tests, session, write))
        os.close(write)
        with os.fdopen(read, encoding="utf-8") as pipe:
            killer = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        shutil.rmtree(own_folder(session, child), ignore_errors=True)
        if code == FAILED:
            self.known.killers[function_of(key)][killer] += 1
            self.known.killers[module_of(key)][killer] += 1
        return code, killer

    def run(self, key: str, tests: list[pytest.Item], session: pytest.Session, pipe: int) -> int:
        """In the child: all tests until one fails; a test that takes far too long ends it."""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        set_mutant_under_test(key)
        forget()
        folder = own_folder(session, os.getpid())
        folder.mkdir(parents=True)
        factory_of(session)._basetemp = folder  # noqa: SLF001 (it has no setter)
        for item, following in zip(tests, [*tests[1:], None], strict=True):
            usual = self.known.seconds.get(item.nodeid, 2.0)
            signal.setitimer(signal.ITIMER_PROF, 15 + 12 * usual)
            signal.alarm(int(120 + 100 * usual))
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.testsfailed:
                os.write(pipe, item.nodeid.encode())
                return FAILED
        return PASSED


def warm_up(session: pytest.Session) -> None:
    """Make the file with every table once, not in every child."""
    users = [one for one in session.items if "_sqlite_template" in getattr(one, "fixturenames", ())]
    if users:
        # What stays set up is an ancestor of both, and so of whatever test a child begins with.
        folder = users[0].path.parent
        other = next((one for one in session.items if one.path.parent != folder), None)
        users[0].config.hook.pytest_runtest_protocol(item=users[0], nextitem=other)


def forget() -> None:
    """Empty every cache of the rooms that are mutated."""
    rooms = [module for name, module in sys.modules.items() if name.split(".")[0] in ROOMS]
    values: list[Any] = [value for room in rooms for value in vars(room).values()]
    values += [
        inner for value in values if isinstance(value, type) for inner in vars(value).values()
    ]
    for value in values:
        if hasattr(value, "cache_clear") and hasattr(value, "cache_info"):
            value.cache_clear()


def alone(key: str, tests: list[str]) -> int:
    """Exit code of these tests in a process of their own."""
    command = [sys.executable, "-m", "pytest", *OPTIONS, "-x", *settings()["pytest_add_cli_args"]]
    longest = 600 + 20 * len(tests)
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        try:
            done = subprocess.run(
                [*command, f"--basetemp={folder}/alone", *tests],
                env=os.environ | {"MUTANT_UNDER_TEST": key},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=longest,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return -signal.SIGALRM
    # 2 and 4: it cannot even be imported.
    return PASSED if done.returncode == PASSED else FAILED


def own_folder(session: pytest.Session, process: int) -> Path:
    """Where a child's tests write; gone with it."""
    base = factory_of(session).getbasetemp()
    return base.parent / f"{base.name}-{process}"


def factory_of(session: pytest.Session) -> pytest.TempPathFactory:
    """What gives tests their folders."""
    return session.config._tmp_path_factory  # type: ignore[attr-defined,no-any-return] # noqa: SLF001


def chosen(names: list[str]) -> list[str]:
    """Mutants of these names that have no verdict or survived, and change more than wording."""
    found: list[str] = []
    for meta in sorted(HERE.glob("*/*.py.meta")):
        verdicts = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
        found += [
            key
            for key, code in verdicts.items()
            if code in (None, PASSED, UNTESTED)
            and (not names or any(fnmatch.fnmatch(key, one) for one in names))
            and not only_wording(meta, key)
        ]
    return found


def record(key: str, code: int, seconds: float) -> None:
    """Keep a verdict where mutmut keeps it."""
    meta = HERE / (module_of(key).replace(".", "/") + ".py.meta")
    known = json.loads(meta.read_text(encoding="utf-8"))
    known["exit_code_by_key"][key] = code
    known.setdefault("durations_by_key", {})[key] = seconds
    new = meta.with_suffix(".new")
    new.write_text(json.dumps(known, indent=4), encoding="utf-8")
    new.replace(meta)


def function_of(key: str) -> str:
    """Name, as mutmut has it, of the function a mutant is of."""
    return key.rpartition("__mutmut_")[0]


def module_of(key: str) -> str:
    """The module a mutant is of."""
    return key.rpartition(".")[0]


def settings() -> dict[str, Any]:
    """Settings of mutmut."""
    text = (HERE / "pyproject.toml").read_text(encoding="utf-8")
    return dict(tomllib.loads(text)["tool"]["mutmut"])


def judge(names: list[str]) -> int:
    """Collect the tests once, judge the mutants."""
    set_mutant_under_test("")
    sys.path.insert(0, str(HERE))
    chosen_tests = settings()["pytest_add_cli_args_test_selection"]
    arguments = [*OPTIONS, *settings()["pytest_add_cli_args"], *chosen_tests]
    # Not pytest's own numbered folder: any other session that ends may delete that.
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        arguments.append(f"--basetemp={folder}/judge")
        return int(pytest.main(arguments, plugins=[Judge(names)]))


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare()
    else:
        sys.exit(judge(sys.argv[2:]))
