"""onelook: one quantised network looks once at a frame and describes every face in it.

The daemon reads camera streams, runs the network once per frame, follows the faces as
tracks, and publishes presence, identity, attribute and emotion events to MQTT.
"""

__version__ = "0.1.0"
