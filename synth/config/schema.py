"""Makes the JSON schema of the config, plug-ins included."""

from __future__ import annotations

from typing import Any

from synth.config.run import Run
from synth.core import plugins


def json_schema() -> dict[str, Any]:
    """Returns the JSON schema of a config, for editors that complete and check YAML."""
    schema = Run.model_json_schema()
    defs = schema["$defs"]

    def options(kind: str, name: str) -> dict[str, Any]:
        plugin: dict[str, Any] = plugins.load(kind, name).Config.model_json_schema()
        defs.update(plugin.pop("$defs", {}))
        return plugin | {"description": plugins.describe(kind, name)}

    def tagged(kind: str, key: str) -> dict[str, Any]:
        branches = []
        for name in plugins.names(kind):
            branch = options(kind, name)
            branch["properties"] = {key: {"const": name}} | branch.get("properties", {})
            branch["required"] = [key, *branch.get("required", [])]
            branches.append(branch)
        dotted_name = {"type": "string", "pattern": "\\."}  # a module of the user's own
        dotted = {"type": "object", "properties": {key: dotted_name}, "required": [key]}
        return {"anyOf": [*branches, dotted]}

    named = {name: options("filter", name) for name in plugins.names("filter")}
    filter_entry = {
        "anyOf": [
            {"enum": list(named)},
            {"type": "string", "pattern": "\\."},
            {
                "type": "object",
                "properties": {
                    name: {"anyOf": [plugin, {"type": "null"}]} for name, plugin in named.items()
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
