"""Networks of irregular time series."""
