"""Runs in the engine environment, beside vLLM: tells its flags, and what it makes of command lines.

Answers each line of its input with one of its output, both JSON:

    null               {"version", "options": {option: dest}, "booleans", "objects"}
    [words]            those after `vllm serve`: {dest: value} of what differs from the defaults;
                       null: refused

Not imported by the tests: their environment has no vLLM.
"""

# mypy: ignore-errors
# ruff: noqa: T201 - its output is its answer

import argparse
import contextlib
import dataclasses
import io
import json
import logging
import sys
import typing

from vllm.engine.arg_utils import AsyncEngineArgs, is_dict_subclass
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.version import __version__

NOT_FLAGS = ("subparser", "dispatch_function")
FRONTEND_OBJECTS = ("default_chat_template_kwargs",)  # typed by hand in vLLM's cli_args


def main() -> None:
    """Answer until the input ends."""
    parser, serve = parsers()
    logging.disable()
    for line in sys.stdin:
        words = json.loads(line)
        answer = flags(serve) if words is None else meaning(parser, serve, words)
        print(json.dumps(answer, default=repr), flush=True)


def parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Return the parser that `vllm` makes, and the one of `serve` in it."""
    parser = FlexibleArgumentParser(description="vLLM CLI")
    serve = ServeSubcommand().subparser_init(parser.add_subparsers(dest="subparser"))
    return parser, serve


def flags(serve: argparse.ArgumentParser) -> dict[str, object]:
    """Return every option string with the destination it sets, and what kind it is of."""
    hints = {field.name: parts(field.type) for field in dataclasses.fields(AsyncEngineArgs)}
    options, booleans, objects = {}, set(), set(FRONTEND_OBJECTS)
    for action in serve._actions:  # noqa: SLF001 - argparse has no other list of them
        options |= dict.fromkeys(action.option_strings, action.dest)
        if any(option.startswith("--no-") for option in action.option_strings):
            booleans.add(action.dest)
        if any(map(is_object, hints.get(action.dest, ()))):
            objects.add(action.dest)
    kinds = {"booleans": sorted(booleans), "objects": sorted(objects)}
    return {"version": __version__, "options": options, **kinds}


def parts(hint: object) -> list[object]:
    """Return a type hint and all that it is made of."""
    return [hint, *(inner for arg in typing.get_args(hint) for inner in parts(arg))]


def is_object(hint: object) -> bool:
    """Tell whether JSON objects become this type; a hint may be its source text."""
    if isinstance(hint, str):
        return "dict[" in hint
    origin = typing.get_origin(hint) or hint
    return origin is dict or is_dict_subclass(origin) or dataclasses.is_dataclass(hint)


def meaning(
    parser: argparse.ArgumentParser, serve: argparse.ArgumentParser, words: list[str]
) -> dict[str, object] | None:
    """Return what a command line sets; None if vLLM refuses it."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            found = vars(parser.parse_args(["serve", *words]))
    except (SystemExit, Exception):  # noqa: BLE001 - whatever it raises, it starts no engine
        return None
    if found["model_tag"] == words[0]:
        del found["model_tag"]
    return {
        dest: value
        for dest, value in found.items()
        if dest not in NOT_FLAGS and value != serve.get_default(dest)
    }


main()
