"""Variables that are meant to be settings and are none, and that the settings are all there are."""

import click
import pytest

from leeway import variables
from tests.test_docs import COMMANDS

SERVER = {"PS_MODE", "PS_LR", "PS_STALENESS", "PS_LOG_LEVEL"}


@pytest.mark.parametrize(
    ("environ", "nearest"),
    [
        ({"PS_MOD": "ssp"}, {"PS_MOD": "PS_MODE"}),
        ({"PS_STALENES": "3", "PS_LOGLEVEL": "info"}, {"PS_LOGLEVEL": "PS_LOG_LEVEL", "PS_STALENES": "PS_STALENESS"}),
        ({"PS_MOD": ""}, {}),  # an empty one counts as none, as everywhere
        ({"PS_MODE": "ssp", "PS_MODEL": "cnn"}, {}),  # the latter is a worker's, however near
        ({"PS_BATCHSIZE": "8"}, {}),  # a worker is to say so
        ({"MOD": "ssp", "PSMODE": "ssp"}, {}),
        ({"PS_SERVICE_HOST": "10.0.0.1", "PS_PORT_8080_TCP_PORT": "8080", "PS_SERVER_PORT": "tcp://10.0.0.1:80"}, {}),
    ],
)
def test_what_is_near_to_a_setting_of_this_command(environ, nearest):
    assert variables.misspelled(environ, SERVER) == nearest


def settings(command):
    """The variables of a command and of those below it."""
    below = [command, *getattr(command, "commands", {}).values()]
    return {param.envvar for one in below for param in one.params if isinstance(param, click.Option)} - {None}


def test_the_settings_are_those_of_the_commands():
    found = {variable for commands in COMMANDS.values() for command in commands for variable in settings(command)}
    assert {variables.PREFIX + name for name in variables.SETTINGS} == found
