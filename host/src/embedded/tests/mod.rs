//! Tests of the pure state machine. Those that go over the wire are in the integration tests.
