"""From a finished stage to pseudo-labels: embed (`features`), fit (`kmeans`), label every sample (`stage`,
`clusters`), fold with all earlier stages (`pseudo_labels`)."""
