"""Prompts: Jinja2 templates with front matter, in a sandbox; text from data is always a value.

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

_environment = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined,
    autoescape=False,  # prompts are not HTML; the report escapes on its own
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.globals.clear()  # no lipsum, no cycler: a template has its variables and nothing else
_environment.globals["range"] = range


def shipped(folder: str) -> Path:
    """Where a folder that ships with the package lies: in the wheel, or in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / f"_{folder}"
    return inside if inside.is_dir() else package.parent / folder


def prompt_names() -> list[str]:
    """The prompts that come with the package, by the names that a config uses."""
    root = shipped("prompts")
    return sorted(str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.jinja"))


@dataclass(frozen=True)
class Prompt:
    """A template ready to render.

    Attributes:
        name: As the config names it.
        description: From the front matter, as are `version` and `variables` (name: meaning).
        source: The whole file.
        body_line: Line of the file at which the template proper begins, from 1.
    """

    name: str
    description: str
    version: int
    variables: dict[str, str]
    source: str
    body_line: int

    @property
    def hash(self) -> str:
        """SHA-256 of the file: another text is another prompt."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @cached_property
    def _template(self) -> jinja2.Template:
        return _environment.from_string(_body(self.source, self.body_line))

    def render(self, values: Mapping[str, Any]) -> list[Message]:
        """The messages for one question.

        Raises:
            UserError: A variable of the template has no value, or text stands outside the turns.
        """
        turns: list[Message] = []

        def turn(role: str) -> Any:
            def add(caller: Any) -> str:
                turns.append(Message(role=role, content=str(caller()).strip()))
                return ""

            return add

        given = {name: values[name] for name in self.variables if name in values}
        try:
            rest = self._template.render(**given, **{role: turn(role) for role in ROLES})
        except jinja2.UndefinedError as error:
            missing = sorted(set(self.variables) - set(given))
            hint = nearest(missing[0], values) if missing else ""
            raise UserError(f"prompt {self.name}: {error}{hint}") from error
        except jinja2.TemplateError as error:
            raise UserError(f"prompt {self.name}: {error}") from error
        except (TypeError, ValueError, ArithmeticError) as error:
            raise UserError(f"prompt {self.name}: a value does not fit ({error})") from error
        if turns and rest.strip():
            raise UserError(f"prompt {self.name}: text outside the turns: {rest.strip()[:60]!r}")
        return turns or [Message(role="user", content=rest.strip())]

    def messages(self, task: Task, values: Mapping[str, Any]) -> list[Message]:
        """The messages for a task: its question and metadata, under the values of the config.

        The reference answer is not among the variables: a prompt that needs it takes it from a
        column that the config maps on purpose.
        """
        return self.render({**task.metadata, **values, "question": task.question})


def load_prompt(name: str) -> Prompt:
    """A prompt of the library by its name, or the user's own by its path (ending in .jinja).

    Raises:
        UserError: No such prompt, or its front matter does not fit the template.
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
    """Reads a template and checks that its front matter names exactly the variables it uses.

    Raises:
        UserError: No front matter, unknown or missing keys in it, a syntax error, a variable used
            and not declared, or declared and not used.
    """
    lines = source.split("\n")
    if lines[0].strip() != "---" or "---" not in (line.strip() for line in lines[1:]):
        raise UserError(f"prompt {name}: opens with no front matter between two lines of ---")
    end = next(i for i, line in enumerate(lines[1:], 1) if line.strip() == "---")
    front = _front_matter(name, "\n".join(lines[1:end]))
    body = _body(source, end + 2)
    try:
        used = (
            jinja2.meta.find_undeclared_variables(_environment.parse(body)) - set(ROLES) - {"range"}
        )
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"prompt {name}, line {error.lineno + end + 1}: {error.message}") from error
    declared: dict[str, str] = {str(k): str(v) for k, v in (front.get("variables") or {}).items()}
    if reserved := set(declared) & set(ROLES):
        raise UserError(f"prompt {name}: the names {sorted(reserved)} are the turns'")
    if undeclared := sorted(used - set(declared)):
        raise UserError(
            f"prompt {name}: uses {undeclared}, which its front matter does not declare"
        )
    if unused := sorted(set(declared) - used):
        raise UserError(f"prompt {name}: declares {unused} and does not use it")
    return Prompt(name, str(front["description"]), int(front["version"]), declared, source, end + 2)


def _body(source: str, line: int) -> str:
    return "\n".join(source.split("\n")[line - 1 :])


def _front_matter(name: str, text: str) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        front = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise UserError(f"prompt {name}: front matter is not YAML ({error})") from error
    required, allowed = {"description", "version"}, {"description", "version", "variables"}
    if not isinstance(front, dict) or not required <= set(front) <= allowed:
        raise UserError(
            f"prompt {name}: front matter needs description, version and variables alone"
        )
    return front
