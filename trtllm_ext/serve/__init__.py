"""Engines behind the Open Inference Protocol (KServe v2): HTTP and gRPC, dynamic batching, metrics.

`runner` is what stands between the server and an engine; `settings` is what a server is told; `serving.serve` is the
server. The library that it is built on, mlserver, is imported by the modules that need it and by nothing else.
"""
