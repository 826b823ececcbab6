"""The sandbox: an ERP.net-like instance on loopback, for trying out, for demonstrations and for tests."""
