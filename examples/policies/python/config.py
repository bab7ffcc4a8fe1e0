"""Reads a configuration of one whole number."""

import json


def read_integer(config: str, name: str, least: int, most: int, default: int) -> int:
    """The object's field of this name, or the default. A ValueError says what is wrong in a sentence."""
    try:
        fields = json.loads(config)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise ValueError(f'the configuration must be an object like {{"{name}": {default}}}')
    for field in fields:
        if field != name:
            raise ValueError(f"unknown field `{field[:60]}`; there is `{name}`")
    value = fields.get(name, default)
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"`{name}` must be a whole number from {least} to {most}, not {str(json.dumps(value))[:40]}")
    return value
