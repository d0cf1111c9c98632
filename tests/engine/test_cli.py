"""The console command: subcommands are the code of tools/, and say so under their own name."""

import subprocess
import sys

import pytest

from erq_mm import __version__
from erq_mm.cli import COMMANDS, main


@pytest.fixture(autouse=True)
def _argv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put sys.argv back afterwards: a subcommand gets one of its own."""
    monkeypatch.setattr(sys, 'argv', ['erq-mm'])


def _end(*arguments: str) -> int:
    with pytest.raises(SystemExit) as raised:
        main(list(arguments))
    return raised.value.code


def test_help_lists_the_commands() -> None:
    run = [sys.executable, '-m', 'erq_mm.cli', '--help']
    printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert all(f'  {name} ' in printed and command.summary in printed for name, command in COMMANDS.items())


@pytest.mark.parametrize('name', COMMANDS)
def test_help_of_a_command(name: str, capsys: pytest.CaptureFixture) -> None:
    assert _end(name, '--help') == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f'usage: erq-mm {name} [-h]')
    assert COMMANDS[name].summary in printed and f'erq-mm {name} ' in printed.partition('\n\n')[2]


def test_a_wrong_command_is_named(capsys: pytest.CaptureFixture) -> None:
    assert _end('tets') == 2
    message = capsys.readouterr().err
    assert "'tets'" in message and all(name in message for name in COMMANDS)
    assert _end() == 2


def test_version(capsys: pytest.CaptureFixture) -> None:
    assert _end('--version') == 0
    assert capsys.readouterr().out.strip() == f'erq_mm {__version__}'


def test_arguments_reach_the_command(capsys: pytest.CaptureFixture) -> None:
    assert _end('test', 'config.py', 'file.pth', '--recipe', 'erq_w9a4') == 2
    message = capsys.readouterr().err
    assert 'erq-mm test: error' in message and 'weight bits must be 2 to 8, got 9' in message
    assert 'erq-mm benchmark: ' in str(_end('benchmark', '--recipes', 'erq', '--jobs', '0'))
