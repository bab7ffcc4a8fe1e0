import unittest

from componentize_py_types import Err
from key_scheme import KeyScheme
from wit_world.exports.key_scheme import Entry, Instance

SCHEME = KeyScheme()


def instance() -> Instance:
    return Instance(id="pod/1", address="192.0.2.1:80", zone="eu-1", weight=3, metadata=[("a=b\n", "50 %\n")])


class KeySchemeTest(unittest.TestCase):
    def test_what_was_written_is_read_back(self):
        [entry] = SCHEME.encode("{}", "ayang/server1", instance(), "7", 10)
        self.assertEqual(entry.key, "services/ayang%2Fserver1/pod%2F1")
        self.assertEqual(SCHEME.decode("{}", "ayang/server1", entry), [instance()])

    def test_no_service_lies_among_the_keys_of_another(self):
        self.assertEqual(SCHEME.prefixes('{"root": "r"}', "a"), ["r/a/"])
        self.assertEqual(SCHEME.prefixes('{"root": "r"}', "a/b"), ["r/a%2Fb/"])
        for config in ('{"root": "a/b"}', '{"root": 1}', '{"roots": "a"}', "[]"):
            with self.assertRaises(Err) as refused:
                SCHEME.prefixes(config, "a")
            self.assertIn("root", refused.exception.value)

    def test_what_it_did_not_write_is_refused(self):
        for key, value in (
            ("services/b/1", b"192.0.2.1:80"),
            ("services/a/", b"192.0.2.1:80"),
            ("services/a/1", b""),
            ("services/a/1", b"\xff"),
            ("services/a/1", b"192.0.2.1:80\nzone"),
            ("services/a/1", b"192.0.2.1:80\nweight=-1"),
        ):
            with self.assertRaises(Err):
                SCHEME.decode("{}", "a", Entry(key=key, value=value))
