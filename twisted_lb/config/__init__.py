"""The operator's configuration: .env, the environment and servers.yaml, parsed and validated, as plain values."""
