"""Counts what the tiers ran, from their JUnit reports: too few, skipped or failed is a failure. Ends with the sum."""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

REPORTS = Path(__file__).resolve().parent.parent / "build/reports"


def counted(tier: str) -> tuple[int, int]:
    """Passed and not passed of one tier; a report that is not there counts as one failure."""
    report = REPORTS / f"{tier}.xml"
    if not report.exists():
        return 0, 1
    passed = failed = 0
    for case in ElementTree.parse(report).iter("testcase"):
        bad = any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))
        passed, failed = (passed, failed + 1) if bad else (passed + 1, failed)
    return passed, failed


def main() -> int:
    """Arguments are `tier=minimum`."""
    passed = failed = too_few = 0
    for word in sys.argv[1:]:
        tier, _, minimum = word.partition("=")
        good, bad = counted(tier)
        passed, failed = passed + good, failed + bad
        print(f"tier {tier}: {good} passed of at least {minimum}, {bad} failed or skipped")
        if good < int(minimum):
            print(f"tier {tier} ran too few tests")
            too_few += 1
    print(f"{passed} passed, {failed + too_few} failed")
    return 1 if failed or too_few else 0


if __name__ == "__main__":
    sys.exit(main())
