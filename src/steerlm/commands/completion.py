"""Print the shell's code for completion with the Tab key."""

from __future__ import annotations

import argparse

_EPILOG = """\
  bash   eval "$(steerlm completion bash)"             in ~/.bashrc
  zsh    eval "$(steerlm completion zsh)"              in ~/.zshrc, after compinit
  fish   steerlm completion fish | source              in ~/.config/fish/config.fish
"""


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell")


def run(arguments: argparse.Namespace) -> int:
    from argcomplete.shell_integration import shellcode

    print(shellcode(["steerlm"], shell=arguments.shell))
    return 0
