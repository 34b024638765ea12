"""What metrics.json calls its parts, and the methods that it compares."""

IMAGE_TO_IMAGE, TEXT_TO_IMAGE = "image_to_image", "text_to_image"
JUDGMENTS = "judgments"
LABELS, COLLAPSE = "labels", "collapse"
ACCURACY = "accuracy"

TRAINED = "trained embedding"
MEAN_CLICKED = "mean of clicked images"
CO_OCCURRENCE = "co-occurrence only"
POPULARITY = "popularity"
RAW = "raw features"
RANDOM = "random"
MOST_FREQUENT = "most frequent label"
