"""Write the manual page and the completion of peer-relay from its parsers: python tests/checks/manual.py [--check]

They are files of the repository, so that a target needs no library for them, and Tab starts no Python.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

SERVICES = Path(__file__).resolve().parents[2] / "services"
sys.path.insert(0, str(SERVICES))

import peer_agent.__main__ as agent
from peer_agent import settings as agent_settings
from peer_relay import cli as relay
from peer_relay import settings as relay_settings

HEAD = "Made from the parsers by make reference."
PROGRAMS = {"peer-relay": relay, "peer-relay agent": agent}


def subcommands(parser: argparse.ArgumentParser) -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """Return the help and the parser of each command, by name."""
    return {
        choice.dest: (choice.help or "", action.choices[choice.dest])
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for choice in action._choices_actions
    }


def arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return what a parser takes, --help and commands left out."""
    hidden = (argparse._HelpAction, argparse._SubParsersAction)
    return [action for action in parser._actions if not isinstance(action, hidden)]


def value(action: argparse.Action) -> str:
    """Return the name of an argument's value, "" for one that has none."""
    if action.nargs == 0:
        return ""
    return str(action.metavar or (action.dest.upper() if action.option_strings else action.dest))


def usage(parser: argparse.ArgumentParser) -> str:
    """Return a command as it is typed, with its own arguments."""
    words = [f"\\fB{escape(parser.prog)}\\fR"]
    grouped = {action: group for group in parser._mutually_exclusive_groups for action in group._group_actions}
    for action in arguments(parser):
        if isinstance(action, argparse._VersionAction):
            continue
        group = grouped.get(action)
        if group and action is not group._group_actions[0]:
            continue
        forms = [typed(member) for member in (group._group_actions if group else [action])]
        words.append(f"[{' | '.join(forms)}]" if action.option_strings else forms[0])
    return " ".join([*words, "\\fICOMMAND\\fR"] if subcommands(parser) else words)


def typed(action: argparse.Action) -> str:
    """Return an argument with its value, in the manual's letters."""
    parts = [f"\\fB{escape(action.option_strings[-1])}\\fR"] if action.option_strings else []
    return " ".join([*parts, *([f"\\fI{escape(value(action))}\\fR"] if value(action) else [])])


def escape(text: str) -> str:
    """Return text as troff prints it."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def sentence(text: str) -> str:
    """Return a help text as a sentence of the manual."""
    return escape(f"{text[:1].upper()}{text[1:]}.")


def items(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield an entry for each argument."""
    for action in arguments(parser):
        text = "print the version" if isinstance(action, argparse._VersionAction) else action.help
        yield from (".TP", typed(action), sentence(text % {"default": action.default}))


def manual() -> str:
    """Return the manual page."""
    lines = [f'.\\" {HEAD}', '.TH PEER\\-RELAY 1 "" "homelab.peer_relay"', ".SH NAME"]
    lines.append("peer\\-relay \\- relay for stock WireGuard devices, and path agent of a device")
    parsers = {name: program._parser() for name, program in PROGRAMS.items()}
    lines.append(".SH SYNOPSIS")
    lines.append("\n.br\n".join(usage(parser) for parser in parsers.values()))
    for name, parser in parsers.items():
        of_agent = name != "peer-relay"
        lines += [f".SH {'ON A DEVICE: PEER-RELAY AGENT' if of_agent else 'ON A RELAY'}", escape(parser.description)]
        lines += items(parser)
        for text, command in subcommands(parser).values():
            lines += [".TP", usage(command), sentence(text), ".RS", *items(command), ".RE"]
    lines.append(".SH EXIT STATUS")
    for name, program in PROGRAMS.items():
        codes = " ".join(program.__doc__.partition("Exit codes: ")[2].split())
        lines += [".TP", f"\\fB{escape(name)}\\fR", escape(codes)]
    lines.append(".SH FILES")
    for path, text in (
        (relay_settings.DEFAULT_FILE, "settings of the relay"),
        (agent_settings.FOLDER / "INTERFACE.toml", "settings of the path agent, for each WireGuard interface"),
    ):
        lines += [".TP", f"\\fI{escape(str(path))}\\fR", sentence(text)]
    lines += [".SH SEE ALSO", ".BR wg (8),", ".BR journalctl (1)"]
    return "\n".join(lines) + "\n"


def walk(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield each command with all words in front of it, and its parser."""
    yield name, parser
    for word, (_, command) in subcommands(parser).items():
        yield from walk(command, f"{name} {word}")


def completion() -> str:
    """Return what bash sources when somebody completes peer-relay for the first time."""
    commands = [found for name, program in PROGRAMS.items() for found in walk(program._parser(), name)]
    options = [action for _, parser in commands for action in arguments(parser) if action.option_strings]
    with_value = sorted({option for action in options if value(action) for option in action.option_strings})
    lines = [
        f"# {HEAD} bash sources it at the first Tab after the command.",
        "_peer_relay() {",
        '    local word=${COMP_WORDS[COMP_CWORD]} command=peer-relay words="" index',
        "    COMPREPLY=()",
        "    for ((index = 1; index < COMP_CWORD; index++)); do",
        '        case "$command ${COMP_WORDS[index]}" in',
        f"            {' | '.join(repr(name) for name, _ in commands[1:])})",
        '                command+=" ${COMP_WORDS[index]}" ;;',
        f"            {' | '.join(f'*{chr(39)} {option}{chr(39)}' for option in with_value)})",
        "                # What follows is its value: a file, as far as bash can tell.",
        "                ((++index < COMP_CWORD)) || return 0 ;;",
        "        esac",
        "    done",
        "    case $command in",
    ]
    for name, parser in commands:
        words = [*subcommands(parser), *(["agent"] if name == "peer-relay" else [])]
        words += [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
        lines.append(f"        {name!r}) words={' '.join(words)!r} ;;")
    lines += [
        "    esac",
        '    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")',
        "}",
        "# Files where it has nothing to say.",
        "complete -o default -F _peer_relay peer-relay",
    ]
    return "\n".join(lines) + "\n"


MADE = {"peer-relay.1": manual, "peer-relay.bash": completion}


def main(options: list[str]) -> int:
    """Rewrite the files, or only tell which ones need it."""
    stale = 0
    for name, make in MADE.items():
        file = SERVICES / name
        content = make()
        if file.exists() and content == file.read_text(encoding="utf-8"):
            continue
        if options == ["--check"]:
            print(f"services/{name}: not what the parsers say: run make reference", file=sys.stderr)
            stale = 1
        else:
            file.write_text(content, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
