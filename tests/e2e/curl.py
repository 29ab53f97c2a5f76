"""As much of curl as the README uses, for machines that have none: the tests must run there too."""

from __future__ import annotations

import argparse
import sys

import requests


def main() -> int:
    """Send one request and write the answer as it comes; 22 for a status of 400 and above."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("-X", dest="method")
    parser.add_argument("-d", dest="data")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("-s", "-S", "-N", "-sS", "--fail-with-body", action="store_true", dest="_")
    asked = parser.parse_args()
    url = asked.url if "://" in asked.url else f"http://{asked.url}"
    with requests.request(
        asked.method or ("POST" if asked.data else "GET"),
        url,
        data=asked.data,
        headers=dict(header.split(": ", 1) for header in asked.headers),
        stream=True,
        timeout=600,
    ) as answer:
        for piece in answer.iter_content(None):
            sys.stdout.buffer.write(piece)
        return 0 if answer.ok else 22


if __name__ == "__main__":
    sys.exit(main())
