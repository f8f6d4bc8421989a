"""The REST API and the metrics, with the paths and JSON shapes of Flower 2.2, read from history.

Plain views, and no framework: Flower answers mistakes with a status and one line of text, takes "yes" and
"on" for true and reads times to the minute. A framework's own answers would have to be replaced one by one.
"""
