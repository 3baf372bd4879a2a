"""Home Assistant itself, without its pages: joins a broker, and prints what it has made of what is said there.

    python home_assistant_core.py PORT SECONDS [AUTOMATIONS]

Runs where the package `homeassistant` is installed, which asks for a newer Python than onelook does. A line of
JSON each half second: its version, and each entity's state and attributes.
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from homeassistant import bootstrap, const, runner


async def watch(port: int, seconds: float, automations: str) -> None:
    """Set up the MQTT integration as its owner would, and look at what appears."""
    folder = tempfile.mkdtemp()
    settings = "homeassistant:\n  name: proof\nautomation: !include automations.yaml\n"
    Path(folder, "configuration.yaml").write_text(settings)
    Path(folder, "automations.yaml").write_text("[]")
    hass = await bootstrap.async_setup_hass(runner.RuntimeConfig(config_dir=folder, skip_pip=True))
    assert hass is not None
    await hass.async_start()
    form = await hass.config_entries.flow.async_init("mqtt", context={"source": "user"})
    made = await hass.config_entries.flow.async_configure(form["flow_id"], {"broker": "127.0.0.1", "port": port})
    assert made["type"] == "create_entry", made
    # They find MQTT, as where it has been there from the start.
    Path(folder, "automations.yaml").write_text(automations)
    await hass.services.async_call("automation", "reload", blocking=True)
    for _ in range(int(seconds * 2)):
        await hass.async_block_till_done()
        states = {
            state.entity_id: {"state": state.state, "attributes": {k: str(v) for k, v in state.attributes.items()}}
            for state in hass.states.async_all()
        }
        print(json.dumps({"version": const.__version__, "states": states}), flush=True)
        await asyncio.sleep(0.5)
    await hass.async_stop()


asyncio.run(watch(int(sys.argv[1]), float(sys.argv[2]), "".join(sys.argv[3:]) or "[]"))
