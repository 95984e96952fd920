"""Traces: the spans of a response's life, for a collector that speaks OTLP over HTTP (docs/traces.md).

port    what a service needs: a tracer makes spans; one that makes none passes contexts on
setup   the tracer by the settings
otlp    spans by OpenTelemetry: the only module that knows it, and imported only if traces are on
"""
