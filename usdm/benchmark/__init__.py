"""How fast a model answers, as ratios to the reference pipeline on the same weights in the same run.

result = benchmark(pipeline, read_requests("questions"), repeats=5)
"""
