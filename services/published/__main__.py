"""`python -m services.published [--release]`, in the root of the repository; see the package."""

import sys

from services.published.documents import BASELINE, FOLDER, VERSION, generated, release, write


def main(arguments: list[str]) -> int:
    """Write the documents; with `--release` the baseline too. Returns the exit status."""
    if arguments not in ([], ["--release"]):
        sys.stderr.write("usage: python -m services.published [--release]\n")
        return 2
    documents = generated()
    write(documents, FOLDER)
    if arguments:
        release(documents, BASELINE)
    sys.stdout.write(f"{FOLDER}: {len(documents)} documents, version {VERSION}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
