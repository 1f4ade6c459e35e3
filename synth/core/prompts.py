"""Renders prompts: Jinja2 templates with front matter, sandboxed; text from data is a value.

A template opens with front matter between two lines of `---`, then holds the turns:

    ---
    description: One line on what it is for.
    version: 1
    variables:
      question: what the variable is
    ---
    {% call system() %}Be brief.{% endcall %}
    {% call user() %}{{ question }}{% endcall %}

A template without such calls is one user turn. The roles come from the template's structure, never
from the rendered text, so no question can forge a turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from synth.core.errors import UserError, nearest
from synth.core.record import Message, Task

ROLES = ("system", "user", "assistant")
_FRONT_MATTER = ("description", "version", "variables")


class _Question(str):
    """A question with blanks at its ends. They belong to it, and code may begin with them."""

    __slots__ = ("edge",)
    edge: str  # a character that is not in it


def _with_edges(value: Any) -> Any:
    """Marks where a question begins and ends, so that blanks of the template alone are cut off."""
    return f"{value.edge}{value}{value.edge}" if isinstance(value, _Question) else value


_environment = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined,
    autoescape=False,  # prompts are not HTML; the report escapes on its own
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=_with_edges,
)
_environment.globals.clear()  # no lipsum, no cycler: a template has its variables and nothing else
_environment.globals["range"] = range


def shipped(folder: str) -> Path:
    """Returns where a folder that ships with the package lies: in the wheel, or in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / f"_{folder}"
    return inside if inside.is_dir() else package.parent / folder


def prompt_names() -> list[str]:
    """Lists the prompts that come with the package, by the names that a config uses."""
    root = shipped("prompts")
    return sorted(str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.jinja"))


@dataclass(frozen=True)
class Prompt:
    """A template ready to render."""

    name: str  # as the config names it
    description: str
    version: int
    variables: dict[str, str]  # name and meaning
    source: str  # the whole file
    body: str  # without the front matter

    @property
    def hash(self) -> str:
        """Returns the SHA-256 of the file: another text is another prompt."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @cached_property
    def _template(self) -> jinja2.Template:
        return _environment.from_string(self.body)

    def render(self, values: Mapping[str, Any]) -> list[Message]:
        """Returns the messages for one question.

        Raises UserError where a variable has no value, or text stands outside the turns.
        """
        turns: list[Message] = []

        def trimmed(text: str) -> str:
            text = text.strip()
            question = values.get("question")
            return text.replace(question.edge, "") if isinstance(question, _Question) else text

        def turn(role: str) -> Any:
            def add(caller: Any) -> str:
                turns.append(Message(role=role, content=trimmed(str(caller()))))
                return ""

            return add

        used = {name: values[name] for name in self.variables if name in values}
        try:
            rest = self._template.render(**used, **{role: turn(role) for role in ROLES})
        except jinja2.UndefinedError as error:
            missing = sorted(set(self.variables) - set(used))
            hint = nearest(missing[0], values) if missing else ""
            raise UserError(f"prompt {self.name}: {error}{hint}") from error
        except jinja2.TemplateError as error:
            raise UserError(f"prompt {self.name}: {error}") from error
        except (TypeError, ValueError, ArithmeticError) as error:
            raise UserError(f"prompt {self.name}: a value does not fit ({error})") from error
        if turns and rest.strip():
            raise UserError(f"prompt {self.name}: text outside the turns: {rest.strip()[:60]!r}")
        return turns or [Message(role="user", content=trimmed(rest))]

    def messages(self, task: Task, values: Mapping[str, Any]) -> list[Message]:
        """Returns the messages for a task, from its question, its metadata and the config's values.

        The reference answer is not among the variables: a prompt that needs it takes it from a
        column that the config maps on purpose.
        """
        question = task.question
        if question != question.strip():
            question = _Question(question)
            noncharacters = map(chr, range(0xFDD0, 0xFDF0))
            question.edge = next((c for c in noncharacters if c not in task.question), "")
        return self.render({**task.metadata, **values, "question": question})


def load_prompt(name: str) -> Prompt:
    """Loads a prompt of the library by its name, or the user's own by its path (ending in .jinja).

    Raises UserError where there is none, or its front matter does not fit the template.
    """
    if name.endswith(".jinja"):
        path = Path(name)
    elif name in prompt_names():
        path = shipped("prompts") / f"{name}.jinja"
    else:
        raise UserError(f"unknown prompt {name!r}{nearest(name, prompt_names())}")
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompt {name}: cannot be read ({error})") from error
    return parse_prompt(name, source)


def parse_prompt(name: str, source: str) -> Prompt:
    """Reads a template; raises UserError unless its front matter names the variables it uses."""
    lines = source.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    end = next((i for i, line in enumerate(lines[1:], 1) if line.strip() == "---"), 0)
    if lines[0].strip() != "---" or not end:
        raise UserError(f"prompt {name}: opens with no front matter between two lines of ---")
    front = _front_matter(name, "\n".join(lines[1:end]))
    body = "\n".join(lines[end + 1 :])
    try:
        names = jinja2.meta.find_undeclared_variables(_environment.parse(body))
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"prompt {name}, line {error.lineno + end + 1}: {error.message}") from error
    used = names - {*ROLES, "range"}
    declared = {str(k): str(v) for k, v in (front.get("variables") or {}).items()}
    if reserved := set(declared) & set(ROLES):
        raise UserError(f"prompt {name}: the names {sorted(reserved)} are the turns'")
    if undeclared := sorted(used - set(declared)):
        raise UserError(
            f"prompt {name}: uses {undeclared}, which its front matter does not declare"
        )
    if unused := sorted(set(declared) - used):
        raise UserError(f"prompt {name}: declares {unused} and does not use it")
    return Prompt(name, str(front["description"]), int(front["version"]), declared, source, body)


def _front_matter(name: str, text: str) -> dict[str, Any]:
    """Returns description, version and variables. Raises UserError with the line of a mistake."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth = 20
    try:
        front = yaml.load(text)
    except MarkedYAMLError as error:
        at = f", line {error.problem_mark.line + 2}" if error.problem_mark else ""
        what = str(error.problem).split("\n")[0].partition(" with value")[0]
        raise UserError(f"prompt {name}{at}: front matter is not YAML: {what}") from error
    except (YAMLError, ValueError, RecursionError) as error:
        what = str(error).split("\n")[0]
        raise UserError(f"prompt {name}: front matter is not YAML: {what}") from error
    if not isinstance(front, dict):
        raise UserError(
            f"prompt {name}, line 2: front matter needs description, version and variables"
        )

    def mistake(key: Any, what: str) -> UserError:
        lines = text.split("\n")
        line = next((i for i, row in enumerate(lines, 2) if row.strip().startswith(str(key))), 2)
        return UserError(f"prompt {name}, line {line}: {what}")

    for key in front:
        if key not in _FRONT_MATTER:
            raise mistake(key, f"unknown key {key!r}{nearest(str(key), _FRONT_MATTER)}")
    for key in ("description", "version"):
        if key not in front:
            raise mistake(key, f"front matter needs {key}")
    if not isinstance(front["description"], str):
        raise mistake("description", "description: expected a line of text")
    if type(front["version"]) is not int:
        raise mistake("version", f"version: expected a whole number, got {front['version']!r:.40}")
    variables = front.get("variables") or {}
    if not isinstance(variables, dict):
        raise mistake("variables", "variables: expected a mapping, {NAME: what it is}")
    for variable in variables:
        if not isinstance(variable, str) or not variable.isidentifier():
            raise mistake(variable, f"variables: {variable!r} cannot be the name of a variable")
    return front
