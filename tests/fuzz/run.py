"""Fuzzes the readers of weights, layouts and images.

`python tests/fuzz/run.py [--reader NAME] [--seconds N] [--jobs N] [--engine NAME] [--found FOLDER]`

Without `--reader`, all of them, `--seconds` each, `--jobs` at once: half of that by hypothesis, which changes valid
files blindly and with knowledge of their structure, half by atheris, which looks for changes that reach new code.

- In CI: `python tests/fuzz/run.py --seconds 60 --jobs 2` (four minutes on two cores).
- The long run: `nice python tests/fuzz/run.py --seconds 600 --jobs 2` (forty minutes).

Exit status 1 where a file breaks a property (`properties.py`); it lies in FOLDER, a new temporary one by default, and
`python tests/fuzz/run.py --reader NAME --file FILE` tries it again. What was found once is built again by
`tests/test_fuzz_regressions.py`. atheris is no dependency (`pip install atheris`; Linux): it is said where it lacks,
and hypothesis has all the time.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from random import Random

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

ENGINES = ("hypothesis", "atheris")
# atheris keeps what reaches new code; beyond this a file is only slower.
LARGEST = 1 << 18
EXAMPLES_OF_A_ROUND = 100
# How the lines begin that are worth reading where nothing was found: hypothesis' count of files, and libFuzzer's.
HYPOTHESIS_SUMMARY = "files tried: "
SUMMARIES = (HYPOTHESIS_SUMMARY, "stat::number_of_executed_units")


def main() -> int:
    """Runs what the arguments ask for; returns the exit status."""
    from fuzz.readers import READERS

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reader", choices=READERS, help="only this one")
    parser.add_argument("--seconds", type=int, default=60, help="for each reader")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once")
    parser.add_argument("--engine", choices=ENGINES, help="only this one")
    parser.add_argument("--found", type=Path, help="folder for files that break a property")
    parser.add_argument("--file", type=Path, help="only try this file, which needs --reader")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.file:
        print("read" if READERS[asked.reader].hold(asked.file) else "refused")
        return 0
    found = asked.found or Path(tempfile.mkdtemp(prefix="fuzz-found-"))
    found.mkdir(parents=True, exist_ok=True)
    if asked.work:
        engine = with_atheris if asked.engine == "atheris" else with_hypothesis
        return engine(asked.reader, asked.seconds, found, asked.work)
    engines = [asked.engine] if asked.engine else list(ENGINES)
    if "atheris" in engines and importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: hypothesis alone")
        engines = ["hypothesis"]
    failed = []
    with ThreadPoolExecutor(asked.jobs) as jobs:
        seconds = asked.seconds // len(engines)
        readers = [asked.reader] if asked.reader else list(READERS)
        runs = {
            jobs.submit(in_a_process, reader, engine, seconds, found): f"{reader} ({engine})"
            for reader in readers
            for engine in engines
        }
        for run in as_completed(runs):
            status, output = run.result()
            if status:
                failed.append(runs[run])
            else:
                output = "".join(line for line in output.splitlines(keepends=True) if line.startswith(SUMMARIES))
            print(f"== {runs[run]}\n{output}", end="", flush=True)
    if not failed and asked.found is None:
        found.rmdir()
    print(f"found in {', '.join(failed)}: see {found}" if failed else "nothing found")
    return bool(failed)


def in_a_process(reader: str, engine: str, seconds: int, found: Path) -> tuple[int, str]:
    """One engine's run over one reader, its exit status and all that it printed.

    A process each: atheris ends its own, and what one leaves behind is not another's.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz-work-") as work:
        options = ["--engine", engine, "--seconds", str(seconds), "--found", str(found), "--work", work]
        command = [sys.executable, __file__, "--reader", reader, *options]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout


def with_hypothesis(name: str, seconds: int, found: Path, work: Path) -> int:
    """Rounds of changed files until the time is over or one breaks a property, which is then made small and kept."""
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st

    from fuzz.readers import READERS

    reader, end, outcomes = READERS[name], time.monotonic() + seconds, {True: 0, False: 0}
    path = work / f"current{reader.suffix}"

    @settings(
        max_examples=EXAMPLES_OF_A_ROUND,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, len(reader.seeds) - 1), st.randoms(use_true_random=False))
    def round_of_files(number: int, chance: Random) -> None:
        path.write_bytes(reader.changed(reader.seeds[number], chance))
        outcomes[reader.hold(path)] += 1

    while time.monotonic() < end:
        try:
            seed(time.time_ns())(round_of_files)()
        except Exception as error:  # whatever it is, it is a finding
            kept = found / f"{name}-{time.time_ns()}{reader.suffix}"
            shutil.copyfile(path, kept)
            traceback.print_exc()
            print(f"{kept}: {type(error).__name__}: {str(error)[:400]}")
            return 1
    print(f"{HYPOTHESIS_SUMMARY}{sum(outcomes.values())}, of which {outcomes[True]} were read and the others refused")
    return 0


def with_atheris(name: str, seconds: int, found: Path, work: Path) -> int:
    """libFuzzer on the coverage of denseport alone; it ends the process itself where it finds something."""
    import atheris

    # Imported anew, with instrumentation, before anything else of it is.
    for module in [module for module in sys.modules if module.split(".")[0] in ("denseport", "fuzz", "densenets")]:
        del sys.modules[module]
    with atheris.instrument_imports(include=["denseport"]):
        import denseport.formats.keras.archive
        import denseport.formats.keras.legacy
        import denseport.formats.pth
        import denseport.formats.safetensors  # noqa: F401
        from fuzz.readers import READERS

    reader = READERS[name]
    corpus, path = work / "corpus", work / f"current{reader.suffix}"
    corpus.mkdir()
    for number, data in enumerate(reader.seeds):
        (corpus / str(number)).write_bytes(data)

    def one(data: bytes) -> None:
        path.write_bytes(data)
        reader.hold(path)

    def mutate(data: bytes, largest: int, number: int) -> bytes:
        chance = Random(number)
        if chance.randrange(4) == 0:
            return bytes(atheris.Mutate(data, largest))
        return reader.changed(data, chance)[:largest]

    limits = [f"-max_total_time={seconds}", f"-max_len={LARGEST}", "-timeout=60", "-rss_limit_mb=4096"]
    quiet = ["-verbosity=0", "-print_final_stats=1", f"-artifact_prefix={found}/{name}-"]
    atheris.Setup([sys.argv[0], *limits, *quiet, str(corpus)], one, custom_mutator=mutate)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
