//! Fakes and real peers for tests.
