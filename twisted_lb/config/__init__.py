"""What an operator writes: .env, the environment and servers.yaml, read and checked, as plain values."""
