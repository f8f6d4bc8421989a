"""Acts on many tasks or workers at once: made from a list, held, sent in batches, settled one by one.

``making`` is what people do to them, ``sending`` what the engine that leads does, ``settling`` what became of
each target. ``monitor.models`` reads ``acts.models``, so nothing is imported here.
"""
