"""Shell completion: shtab's script, with flags written --flag=value as well as --flag value."""

import argparse
import re

FILES = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}  # what completes a path, for shtab
_BASH = """\
_vitjax() {
  # Bash splits --flag=value at the sign; the function above knows words between spaces.
  local i words=() at=$COMP_CWORD
  for i in "${!COMP_WORDS[@]}"; do
    if [[ ${COMP_WORDS[i]} != "=" ]]; then
      words+=("${COMP_WORDS[i]}")
    elif [[ $i -eq $COMP_CWORD ]]; then
      words+=("")
    elif [[ $i -lt $COMP_CWORD ]]; then
      at=$((at - 1))
    fi
  done
  local COMP_WORDS=("${words[@]}") COMP_CWORD=$at
  _shtab_vitjax
}

complete -o bashdefault -F _vitjax vitjax"""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """What a shell sources to complete the command.

    Args:
        parser: of the command; an argument's attribute `complete` names what completes it, such as `FILES`.
        shell: bash, zsh or tcsh.
    """
    import shtab

    text = shtab.complete(parser, shell=shell)
    if shell == "bash":
        return text.replace("complete -o bashdefault -F _shtab_vitjax vitjax", _BASH)
    if shell == "zsh":  # an option that takes a value: its description is followed by that
        return re.sub(r'^(  "--[\w.-]+)(\[.*\]:)', r"\1=\2", text, flags=re.MULTILINE)
    return text
