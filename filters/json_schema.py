"""Keeps traces whose answer is JSON that a schema allows."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

from pydantic import ConfigDict, Field, field_validator

from filters._workers import json_schema as _json_worker
from filters._workers.pool import Workers, longest
from filters._workers.verifier import WorkerVerifier
from filters.base import Context, Decision, FilterConfig, cannot_tell, requires
from synth.core.record import Record
from synth.core.text.display import shown

_LONGEST = 2_000_000


class Config(FilterConfig):
    """Options of `json_schema`."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_: dict[str, Any] | None = Field(
        None, alias="schema", description="The JSON Schema that all answers have to fit"
    )
    metadata: str = Field(
        "schema",
        description="The metadata that holds a question's own schema, where none is given here",
    )
    timeout: float = Field(2.0, gt=0, le=600, description="Seconds that one validation may take")

    @field_validator("schema_")
    @classmethod
    def _sound(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is not None and importlib.util.find_spec("jsonschema") is not None:
            try:
                _json_worker.violation(None, schema)
            except (_json_worker.Unusable, RecursionError) as error:
                raise ValueError(str(error)) from error
        return schema

    def limit(self) -> float:
        """Seconds that one record may take: a lost worker is replaced once."""
        return longest(self.timeout)


class JsonSchema(WorkerVerifier):
    """Whether an answer's JSON fits a schema: the config's, else the one in the task's metadata.

    The JSON is the whole answer, else the last code block, else the last object in the text. A key
    that stands twice and NaN make it none. All of it runs in worker processes that are killed at
    the limit, so that a schema that refers to itself, or a pattern in it that blows up, is `cannot
    tell`; what a schema refers to is looked for in it alone, and nothing is fetched. `format` is
    not checked.
    """

    package = "jsonschema"
    workers = Workers(_json_worker.prepare)

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config.timeout, context.workers)
        self._config = config

    def __call__(self, record: Record) -> Decision:
        """The verdict on one record."""
        schema = self._config.schema_
        if schema is None:
            schema = record.task.metadata.get(self._config.metadata)
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except (ValueError, RecursionError):
                return cannot_tell("the schema in the metadata is no JSON")
        if schema is None:
            return cannot_tell("no schema")
        if not record.answer.strip():
            return Decision(False, "no JSON: the answer is empty")
        if len(record.answer) > _LONGEST:
            return cannot_tell("too long to validate")
        outcome = self.call(_json_worker.validate, record.answer, schema)
        if isinstance(outcome, Decision):
            return outcome
        evidence = {"json": outcome.found}
        if outcome.status == "valid":
            return Decision(True, evidence=evidence)
        if outcome.status == "invalid":
            reason = f"breaks the schema: {shown(outcome.why, 160)}"
            return Decision(False, reason, evidence={**evidence, "at": shown(outcome.where)})
        if outcome.status == "no JSON":
            return Decision(False, f"no JSON: {shown(outcome.why, 160)}")
        return cannot_tell(shown(outcome.status, 160), evidence)


check = requires("jsonschema", "json_schema")
build = JsonSchema
