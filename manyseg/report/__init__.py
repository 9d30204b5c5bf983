"""Reports: the page of one run, the comparison of several, sample pictures, the environment."""
