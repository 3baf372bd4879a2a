"""Schema: the published contract in the forms that machines read, made from the types themselves.

`events` is the JSON Schema of every payload, `commands` that of every request and answer, and
`asyncapi` says on which topics they go: https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from onelook import __version__
from onelook.commands import COMMANDS
from onelook.event import KINDS, STATES
from onelook.publish import CLOUDEVENT

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NAME = "[a-z0-9][a-z0-9-]*"

Schema = dict[str, Any]


def events() -> Schema:
    """The JSON Schema (2020-12) of every payload."""
    names, data = models_json_schema(
        [(kind, "serialization") for kind in KINDS.values()], ref_template="#/$defs/{model}"
    )
    definitions = data["$defs"]
    for kind, model in KINDS.items():
        place = "onelook/[a-z0-9-]+/[a-z0-9-]+"
        properties: Schema = {
            "specversion": {"const": "1.0"},
            "id": {"type": "string", "minLength": 1, "description": "The same if delivered twice."},
            "source": {"type": "string", "pattern": f"^{place}$", "description": "onelook/<device>/<stream>"},
            "type": {"const": f"onelook.{kind}"},
            "time": {
                "type": "string",
                "format": "date-time",
                "pattern": "Z$",
                "description": "When it happened; never re-dated. Of a last will: when it was left.",
            },
            "datacontenttype": {"const": "application/json"},
            "data": names[model, "serialization"],
        }
        required = list(properties)
        if kind == "status":
            properties["source"] |= {
                "pattern": "^onelook/[a-z0-9-]+(/[a-z0-9-]+)?$",
                "description": "onelook/<device>, or onelook/<device>/<stream>",
            }
        if kind not in STATES:
            properties["replayed"] = {"const": True, "description": "Present where it waited for the broker."}
        definitions[_event(kind)] = {
            "title": f"onelook.{kind}",
            "description": model.__doc__,
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }
    return {
        "$schema": DIALECT,
        "title": "onelook event",
        "description": "A CloudEvent 1.0 in structured JSON, as published on MQTT or as a JSON line.",
        "oneOf": [{"$ref": f"#/$defs/{_event(kind)}"} for kind in KINDS],
        "$defs": definitions,
    }


def commands() -> Schema:
    """The JSON Schema (2020-12) of requests and answers: $defs has <Name>Request and <Name>Answer of each."""
    requests, asked = models_json_schema(
        [(request, "validation") for request, _ in COMMANDS.values()], ref_template="#/$defs/{model}"
    )
    answers, answered = models_json_schema(
        [(answer, "serialization") for answer in dict.fromkeys(answer for _, answer in COMMANDS.values())],
        ref_template="#/$defs/{model}",
    )
    definitions = asked["$defs"] | answered["$defs"]
    for name, (request, answer) in COMMANDS.items():
        definitions[f"{name.capitalize()}Request"] = requests[request, "validation"]
        definitions[f"{name.capitalize()}Answer"] = {
            "title": f"answer to {name}",
            "oneOf": [
                {
                    "type": "object",
                    "properties": {
                        "ok": {"const": True}, "command": {"const": name}, "data": answers[answer, "serialization"],
                    },
                    "required": ["ok", "command", "data"],
                    "additionalProperties": False,
                },
                {
                    "type": "object",
                    "properties": {
                        "ok": {"const": False},
                        "command": {"const": name},
                        "error": {"type": "string", "minLength": 1, "description": "One sentence."},
                    },
                    "required": ["ok", "command", "error"],
                    "additionalProperties": False,
                },
            ],
        }  # fmt: skip
    definitions["NoSuchAnswer"] = {
        "title": "answer to a command that there is not",
        "type": "object",
        "properties": {
            "ok": {"const": False},
            "command": {"type": "string", "not": {"enum": list(COMMANDS)}},
            "error": {"type": "string", "minLength": 1, "description": "One sentence."},
        },
        "required": ["ok", "command", "error"],
        "additionalProperties": False,
    }
    return {
        "$schema": DIALECT,
        "title": "onelook command",
        "description": "What may be asked of a running daemon over MQTT 5, and its answers.",
        "anyOf": [
            {"$ref": f"#/$defs/{name}"}
            for name in (*(f"{name.capitalize()}{what}" for name in COMMANDS for what in ("Request", "Answer")),
                         "NoSuchAnswer")
        ],
        "$defs": definitions,
    }


def asyncapi() -> Schema:
    """The AsyncAPI 3.0 document: every topic, what is on it, and how it is sent."""
    device = {"device": {"description": "Name of the device, as its config has it."}}
    stream = device | {"stream": {"description": "Name of the stream, as the device's config has it."}}
    channels: Schema = {}
    operations: Schema = {}
    messages: Schema = {}
    for kind, model in KINDS.items():
        messages[kind] = {
            "name": f"onelook.{kind}",
            "summary": (model.__doc__ or "").partition("\n")[0],
            "contentType": CLOUDEVENT,
            "payload": {"$ref": f"#/components/schemas/{_event(kind)}"},
        }
        channels[kind] = _channel(f"onelook/{{device}}/{{stream}}/{kind}", stream, [kind])
        operations[f"publish-{kind}"] = _operation("send", kind, [kind], retain=kind in STATES)
    channels["device"] = _channel("onelook/{device}/status", device, ["status"])
    operations["publish-device"] = _operation("send", "device", ["status"], retain=True)

    for name, (request, _) in COMMANDS.items():
        for what in ("request", "answer"):
            messages[f"{name}-{what}"] = {
                "name": f"{name}-{what}",
                "contentType": "application/json",
                "payload": {"$ref": f"#/components/schemas/{name.capitalize()}{what.capitalize()}"},
                "correlationId": {"$ref": "#/components/correlationIds/correlation"},
                "headers": {"$ref": "#/components/schemas/Properties"},
            }
        channels[f"{name}-command"] = _channel(f"onelook/{{device}}/command/{name}", device, [f"{name}-request"])
        channels[f"{name}-reply"] = _channel(None, {}, [f"{name}-answer"])
        operations[name] = _operation("receive", f"{name}-command", [f"{name}-request"], retain=False) | {
            "summary": (request.__doc__ or "").partition("\n")[0],
            "reply": {
                "address": {
                    "location": "$message.header#/responseTopic",
                    "description": "The request's response topic: under onelook/{device}/reply/, or outside onelook/.",
                },
                "channel": {"$ref": f"#/channels/{name}-reply"},
                "messages": [{"$ref": f"#/channels/{name}-reply/messages/{name}-answer"}],
            },
        }
    schemas = events()["$defs"] | commands()["$defs"]
    schemas["Properties"] = {
        "type": "object",
        "description": "Properties of MQTT 5.",
        "properties": {"responseTopic": {"type": "string"}, "correlationData": {"type": "string"}},
    }
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "onelook",
            "version": __version__,
            "description": "Who and what a device's camera streams show. The first part of each topic is mqtt.prefix.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CLOUDEVENT,
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": schemas,
            "correlationIds": {"correlation": {"location": "$message.header#/correlationData"}},
        },
    }
    rewritten: Schema = _rewritten(document)
    return rewritten


def _event(kind: str) -> str:
    return f"{kind.capitalize()}Event"


def _channel(address: str | None, parameters: Schema, messages: list[str]) -> Schema:
    references = {name: {"$ref": f"#/components/messages/{name}"} for name in messages}
    channel: Schema = {"address": address, "messages": references}
    return channel | ({"parameters": parameters} if parameters else {})


def _operation(action: str, channel: str, messages: list[str], *, retain: bool) -> Schema:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
        "bindings": {"mqtt": {"qos": 1, "retain": retain, "bindingVersion": "0.2.0"}},
    }


def _rewritten(value: Any) -> Any:
    """References as they are in an AsyncAPI document, and tuples as in its dialect, JSON Schema draft 7."""
    match value:
        case dict():
            value = {key: _rewritten(item) for key, item in value.items()}
            if "prefixItems" in value:
                value["items"] = value.pop("prefixItems")
                value["additionalItems"] = False
            if isinstance(value.get("$ref"), str):
                value["$ref"] = value["$ref"].replace("#/$defs/", "#/components/schemas/")
            return value
        case list():
            return [_rewritten(item) for item in value]
        case _:
            return value
