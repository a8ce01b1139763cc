"""What Prometheus may read of the listener: floor 2.

catalogue   every metric once: name, kind, labels, help; docs/metrics.rst is generated from it
figures     what is counted between two scrapes, and what the last look knows; no prometheus_client in it
collector   both of them as the families of one scrape; imported only where metrics are switched on
"""
