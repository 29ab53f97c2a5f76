"""The command line: `python -m workers.provision engine | model | venv`."""

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from workers.provision.engine import provide_engine
from workers.provision.errors import ProvisionError, UsageError
from workers.provision.flavor import Flavor, choose_flavor, gpu_is_here
from workers.provision.models import CATALOGUE, find_models, provide_model
from workers.provision.places import REQUIREMENTS, Places, shown
from workers.provision.plan import EnginePlan
from workers.provision.progress import Progress
from workers.provision.venv import provide_venv

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Do what `argv` asks and return the exit status; a failure prints a line, no traceback."""
    words = parser().parse_args(argv)
    try:
        _provide(words, Places.from_environ(environ), Progress(sys.stdout))
    except UsageError as error:
        print(f"provision: {error}", file=sys.stderr)
        return EXIT_USAGE
    except ProvisionError as error:
        _report(error)
        return EXIT_FAILED
    except OSError as error:  # a full disk, a folder that may not be written: it names the file
        print(f"provision: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("provision: interrupted; the next run starts afresh", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; without a command it prints usage and exits with 2."""
    top = argparse.ArgumentParser(
        prog="python -m workers.provision",
        description="Make the engine environment and the demo models.",
        epilog="ENGINE_PIP_ARGS: extra words for pip. MODELS_DIR: where models go (.models).",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="engine|model|venv")

    engine = commands.add_parser("engine", help="make the vLLM environment in .engines/")
    engine.add_argument("--flavor", choices=["auto", *Flavor], default="auto")
    engine.add_argument("--version", help="instead of the pinned one; several stand side by side")

    model = commands.add_parser("model", help="make demo models in .models/")
    model.add_argument("names", nargs="+", metavar="NAME", help=", ".join(CATALOGUE))

    venv = commands.add_parser("venv", help="make a virtual environment")
    venv.add_argument("path", type=Path, metavar="PATH")
    return top


def _provide(words: argparse.Namespace, places: Places, progress: Progress) -> None:
    if words.command == "engine":
        flavor = choose_flavor(words.flavor, gpu_is_here)
        plan = EnginePlan.read(REQUIREMENTS, flavor, words.version)
        provide_engine(plan, places, progress)
    elif words.command == "model":
        for model in find_models(words.names):
            provide_model(model, places, progress)
    else:
        provide_venv(words.path, places, progress)


def _report(error: ProvisionError) -> None:
    print(f"provision: {error}", file=sys.stderr)
    for line in error.tail:
        print(f"  {line}", file=sys.stderr)
    if error.log is not None:
        print(f"full log: {shown(error.log)}", file=sys.stderr)


if __name__ == "__main__":
    # As Ctrl-C: the command that runs is ended too, instead of going on alone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:], os.environ))
