"""The tests that need a CUDA device: how many passed, failed and were skipped."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

TESTS = Path(__file__).parents[2] / "tests"
MARK = "pytest.mark.skipif(not torch.cuda.is_available()"


def main(arguments: list[str] | None = None) -> int:
    """Run the files that have such tests, those that name a device; print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args(arguments)
    files = [str(path) for path in sorted(TESTS.glob("test_*.py")) if MARK in path.read_text()]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        chosen = ["-k", "cuda or device or half_precision", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *files, *chosen], capture_output=True, text=True, cwd=TESTS.parent
        )
        if not report.exists():
            sys.exit(done.stdout[-500:] + done.stderr[-500:])
        suite = next(ElementTree.parse(report).iter("testsuite"))
        failed = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    print(json.dumps({"passed": passed, **counts, "failed": failed}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
