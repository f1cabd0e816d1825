"""A study's messages and payloads on a store: read, published, made into versions."""
