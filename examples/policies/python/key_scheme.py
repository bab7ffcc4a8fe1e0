"""my_policy: keys like `services/greeter/192.0.2.1:80`, values of plain lines. A `/` in a service's name or an id is written
`%2F`, so that no service's keys lie among those of another.

    services/ayang%2Fserver1/pod-1  ->  192.0.2.1:80
                                        zone=eu-1
                                        weight=3
                                        meta.version=1.4
"""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.key_scheme import Entry, Instance
from wit_world.imports.types import ConfigField, Description

# What has a meaning of its own in keys and lines.
SPECIAL = (("%", "%25"), ("/", "%2F"), ("\n", "%0A"), ("=", "%3D"))


def escaped(text: str) -> str:
    for special, written in SPECIAL:
        text = text.replace(special, written)
    return text


def plain(text: str) -> str:
    for special, written in reversed(SPECIAL):
        text = text.replace(written, special)
    return text


def prefix(config: str, service: str) -> str:
    try:
        fields = json.loads(config)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise Err('the configuration must be an object like {"root": "services"}')
    for field in fields:
        if field != "root":
            raise Err(f"unknown field `{field[:60]}`; there is `root`")
    root = fields.get("root", "services")
    if not isinstance(root, str) or root == "" or "/" in root:
        raise Err("`root` must be a text that is not empty, and not have a `/`")
    return f"{root}/{escaped(service)}/"


class KeyScheme(exports.KeyScheme):
    def describe(self) -> Description:
        return Description(
            name="my_policy",
            version="0.1.0",
            summary="Keys ROOT/SERVICE/ID, values of plain lines.",
            fields=[
                ConfigField(name="root", default='"services"', doc="what every key begins with, before the first slash")
            ],
            warning="",
        )

    def prefixes(self, config: str, service: str) -> list[str]:
        return [prefix(config, service)]

    def encode(
        self, config: str, service: str, instance: Instance, lease_id: str, ttl_seconds: int
    ) -> list[Entry]:
        lines = [escaped(instance.address)]
        if instance.zone:
            lines.append(f"zone={escaped(instance.zone)}")
        if instance.weight != 1:
            lines.append(f"weight={instance.weight}")
        lines += [f"meta.{escaped(name)}={escaped(text)}" for name, text in instance.metadata]
        key = prefix(config, service) + escaped(instance.id)
        return [Entry(key=key, value="\n".join(lines).encode())]

    def decode(self, config: str, service: str, entry: Entry) -> list[Instance]:
        start = prefix(config, service)
        name = entry.key.removeprefix(start)
        if not entry.key.startswith(start) or not name or "/" in name:
            raise Err("the key does not end with an instance of this service")
        try:
            address, *lines = bytes(entry.value).decode().split("\n")
        except UnicodeDecodeError:
            raise Err("the value is not UTF-8") from None
        if not address:
            raise Err("the first line has no address")
        instance = Instance(id=plain(name), address=plain(address), zone="", weight=1, metadata=[])
        for line in lines:
            key, equals, text = line.partition("=")
            if not equals:
                raise Err(f"the line {line[:60]!r} has no `=`")
            if key == "zone":
                instance.zone = plain(text)
            elif key == "weight":
                if not (text.isascii() and text.isdigit() and len(text) < 11 and int(text) < 2**32):
                    raise Err(f"the weight {text[:60]!r} is no whole number")
                instance.weight = int(text)
            elif key.startswith("meta."):  # Lines of a later release are not ours to refuse.
                instance.metadata.append((plain(key.removeprefix("meta.")), plain(text)))
        return [instance]
