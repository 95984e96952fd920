"""The log: its port, and its adapters on Kafka and in memory."""
