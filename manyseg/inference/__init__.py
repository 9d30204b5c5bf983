"""From a network's scores to label maps: at native size, as segments, at any level of a hierarchy."""
