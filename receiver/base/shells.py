"""Completion in shells: a script that has the program itself say what may come next."""

from typing import Annotated, Final, Literal, TypeAlias

import typer

from receiver.base.options import command

Shell: TypeAlias = Literal["bash", "zsh", "fish"]

# Each asks the program, which answers as typer does where it finds this variable.
_SCRIPTS: Final[dict[Shell, str]] = {
    "bash": """\
_{program}_completion() {
    local IFS=$'\\n'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD \\
                   _{variable}_COMPLETE=complete_bash "$1" 2>/dev/null ) )
    return 0
}
complete -o default -F _{program}_completion {program}
""",
    "zsh": """\
#compdef {program}
_{program}_completion() {
    eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" \\
           _{variable}_COMPLETE=complete_zsh {program} 2>/dev/null)
}
compdef _{program}_completion {program}
""",
    "fish": """\
function __{program}_completion
    env _{variable}_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \\
        _TYPER_COMPLETE_ARGS=(commandline -cp) {program} 2>/dev/null
end
complete --command {program} --no-files --condition '__{program}_completion is-args' \\
    --arguments '(__{program}_completion get-args)'
""",
}
_LINES: Final = {
    "bash": "echo 'eval \"$({program} completion bash)\"' >> ~/.bashrc",
    "zsh": "{program} completion zsh > ~/.zfunc/_{program}   # a folder of $fpath",
    "fish": "{program} completion fish > ~/.config/fish/completions/{program}.fish",
}


def script(program: str, shell: Shell) -> str:
    """Return what a shell reads to complete the words of `program`."""
    text = _SCRIPTS[shell].replace("{program}", program)
    return text.replace("{variable}", program.upper())


def completion(program: str) -> typer.Typer:
    """Return the command that prints it."""
    app = typer.Typer()
    shown = [line.replace("{program}", program) for line in _LINES.values()]

    @command(app, "completion", *shown)
    def completion_command(
        shell: Annotated[Shell, typer.Argument(help="Which shell.", show_default=False)],
    ) -> None:
        """Print what a shell needs to complete commands, options and their words."""
        typer.echo(script(program, shell), nl=False)

    return app
