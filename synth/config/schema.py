"""JSON schema of the config, plug-ins included."""

from __future__ import annotations

from typing import Any

from synth.config.run import Run
from synth.core import plugins


def json_schema() -> dict[str, Any]:
    """JSON schema of a config, plug-ins included, for editors that complete and check YAML."""
    schema = Run.model_json_schema()
    defs = schema["$defs"]

    def options(kind: str, name: str) -> dict[str, Any]:
        own: dict[str, Any] = plugins.load(kind, name).Config.model_json_schema()
        defs.update(own.pop("$defs", {}))
        own["description"] = plugins.describe(kind, name)
        return own

    def tagged(kind: str, key: str) -> dict[str, Any]:
        branches = []
        for name in plugins.names(kind):
            own = options(kind, name)
            own["properties"] = {key: {"const": name}} | own.get("properties", {})
            own["required"] = [key, *own.get("required", [])]
            branches.append(own)
        dotted = {
            "type": "object",
            "properties": {key: {"type": "string", "pattern": "\\."}},
            "required": [key],
        }
        return {"anyOf": [*branches, dotted]}

    named = {name: options("filter", name) for name in plugins.names("filter")}
    filter_entry = {
        "anyOf": [
            {"enum": list(named)},
            {"type": "string", "pattern": "\\."},
            {
                "type": "object",
                "properties": {
                    name: {"anyOf": [own, {"type": "null"}]} for name, own in named.items()
                },
                "additionalProperties": False,
                "patternProperties": {"\\.": {"type": "object"}},
                "minProperties": 1,
                "maxProperties": 1,
            },
        ]
    }
    source = tagged("task source", "source")
    defs["Tasks"]["properties"]["train"]["items"] = source
    schema["properties"]["traces"]["anyOf"][0]["items"] = tagged("trace source", "source")
    defs["Tasks"]["properties"]["eval"]["anyOf"][0]["items"] = source
    schema["properties"]["teachers"]["additionalProperties"] = tagged("teacher", "kind")
    schema["properties"]["filters"]["items"] = filter_entry
    defs["Evaluate"]["properties"]["verifier"] = filter_entry
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "synth-distill run"
    return schema
