"""The published contract in the forms that machines read, judged by the publishers of those forms."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from daemon_process import onelook
from onelook.commands import COMMANDS
from onelook.event import KINDS, STATES
from onelook.schema import asyncapi, events

REPOSITORY = Path(__file__).resolve().parent.parent
SPECS = "@asyncapi/specs@6.11.1"


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    """AsyncAPI's own JSON Schema of its documents, from the package that its tools use."""
    folder = REPOSITORY / ".cache" / SPECS.replace("/", "-").replace("@", "")
    file = folder / "node_modules" / "@asyncapi" / "specs" / "schemas" / "3.0.0.json"
    if not file.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("no npm to fetch AsyncAPI's schema with (apt install npm)")
        folder.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), SPECS]
        try:
            subprocess.run(command, capture_output=True, check=True, timeout=240)
        except subprocess.SubprocessError:
            pytest.skip("npm cannot fetch AsyncAPI's schema")
    schema = json.loads(file.read_text())
    assert isinstance(schema, dict)
    return schema


def test_the_asyncapi_document_is_one(published: dict[str, Any]) -> None:
    errors = list(Draft7Validator(published).iter_errors(asyncapi()))
    assert not errors, [(list(error.absolute_path), error.message[:200]) for error in errors[:5]]


def test_a_document_that_is_none_is_refused(published: dict[str, Any]) -> None:
    spoiled = asyncapi()
    spoiled["operations"]["ping"]["action"] = "shout"
    assert not Draft7Validator(published).is_valid(spoiled)


def test_the_events_that_the_manual_shows_are_such() -> None:
    text = (REPOSITORY / "docs" / "events.md").read_text()
    whole = json.loads(re.findall(r"```json\n(.*?)```", text, re.DOTALL)[0])
    Draft202012Validator(events()).validate(whole)
    shown = dict(re.findall(r"^\| `(\w+)` \|.*\| `(\{.*\})` \|$", text, re.MULTILINE))
    assert shown.keys() == KINDS.keys()
    for kind, data in shown.items():
        assert json.loads(KINDS[kind].model_validate_json(data).model_dump_json()) == json.loads(data)


def test_every_topic_and_command_is_in_it() -> None:
    document = asyncapi()
    addresses = {channel["address"] for channel in document["channels"].values()}
    assert {f"onelook/{{device}}/{{stream}}/{kind}" for kind in KINDS} < addresses
    assert {f"onelook/{{device}}/command/{name}" for name in COMMANDS} < addresses
    assert "onelook/{device}/status" in addresses
    for operation in document["operations"].values():
        retained = operation["bindings"]["mqtt"]["retain"]
        assert retained == operation["channel"]["$ref"].endswith(("/device", *(f"/{kind}" for kind in STATES)))


def test_every_reference_leads_somewhere() -> None:
    document = asyncapi()
    references = set(re.findall(r'"\$ref": "([^"]*)"', json.dumps(document)))
    assert len(references) > 20
    for reference in references:
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


@pytest.mark.parametrize("form", ["--asyncapi", "--commands"])
def test_the_command_line_prints_it(form: str) -> None:
    done = onelook("schema", form)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert ("asyncapi" in printed) == (form == "--asyncapi")
