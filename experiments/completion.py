"""``ntp-bench completion``: what Bash and Zsh offer where Tab is pressed, as a script that needs no Python to run."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_type_hints

import tyro

from agents import agent_names
from experiments.evaluation import EvaluateSettings
from experiments.explore import ExploreSettings
from experiments.info import InfoSettings
from experiments.play import PlaySettings
from experiments.studies import load_study, study_names
from ntp_envs import task_names

SCRIPT = """\
_ntp_bench() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} command="${{COMP_WORDS[1]}}" option="" place offered=""
    [[ $command == run && $COMP_CWORD -gt 2 ]] && command="run ${{COMP_WORDS[2]}}"
    for ((place = COMP_CWORD - 1; place > 1; place--)); do
        [[ ${{COMP_WORDS[place]}} == -* ]] && {{ option=${{COMP_WORDS[place]}}; break; }}
    done
    case "$COMP_CWORD $word" in
        1\\ *) offered={commands} ;;
        *\\ -*) case "$command" in
{options}
        esac ;;
        *) case "$command $option" in
{values}
        esac ;;
    esac
    COMPREPLY=($(compgen -W "$offered" -- "$word"))
}}
complete -o bashdefault -o default -F _ntp_bench ntp-bench
"""
ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"
#: what an option of this name takes, whatever the study
NAMED = {"agents": agent_names, "baseline": agent_names, "add": agent_names, "tasks": task_names}


@dataclass(frozen=True)
class CompletionSettings:
    """Print a completion script."""

    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional, tyro.conf.arg(metavar="SHELL")]
    """bash or zsh."""


def script(words: list[str], commands: Iterable[str], run_settings: Any) -> str:
    """The script for a shell: commands, studies, tasks and agents, options, and the values of those that are names.

    Args:
        words: after ``ntp-bench completion``.
        commands: that there are.
        run_settings: the dataclass of the options that every study has.
    """
    shell = tyro.cli(CompletionSettings, args=words, prog="ntp-bench completion").shell
    options: dict[str, list[str]] = {}
    values: dict[str, Iterable[str]] = {}

    def take(command: str, kind: Any) -> None:
        hints = get_type_hints(kind)
        for field in dataclasses.fields(kind):
            flag = f"--{field.name.replace('_', '-')}"
            options.setdefault(command, []).append(flag)
            taken = NAMED[field.name]() if field.name in NAMED else field.metadata.get("choices") or ()
            if taken := list(taken or get_args(hints[field.name]) * (type(field.default) is str)):
                values[f"{command} {flag}"] = [str(one) for one in taken if isinstance(one, str)]

    for name in study_names():
        take(f"run {name}", run_settings)
        take(f"run {name}", load_study(name).options)
    take("evaluate", EvaluateSettings)
    take("info", InfoSettings)
    take("play", PlaySettings)
    take("explore", ExploreSettings)
    values |= {"run ": study_names(), "play ": task_names(), "evaluate ": [*task_names(), *agent_names()]}
    values |= {"info ": [*study_names(), *task_names(), *agent_names()], "completion ": ["bash", "zsh"]}
    body = SCRIPT.format(commands=shlex.quote(" ".join(commands)), options=_cases(options), values=_cases(values))
    return (ZSH if shell == "zsh" else "") + body


def _cases(found: dict[str, Any]) -> str:
    return "\n".join(
        f"            {shlex.quote(case)}) offered={shlex.quote(' '.join(words))} ;;" for case, words in found.items()
    )
